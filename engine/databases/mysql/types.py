"""
The column types of MySQL and MariaDB: texts such as ``int(10) unsigned zerofill``, parsed, and as
neutral types.

A source type text is the value of ``information_schema.COLUMNS.COLUMN_TYPE``, followed by
``character set X collate Y`` for a type with characters. Decoders are built from this text and the
table map alone. ``parse_type`` also reads the type of a column definition. It resolves synonyms
(``INTEGER``, ``NATIONAL VARCHAR``, ``SERIAL`` …) as the server does.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from engine.databases.mysql.charset import BYTES_PER_CHARACTER
from engine.errors import SchemaError
from engine.schema import Kind, Type

__all__ = [
    "GEOMETRIES",
    "INTEGER_KINDS",
    "MySQLType",
    "neutral_type",
    "parse_type",
    "same_order",
    "same_type",
    "unquote",
]


class MySQLType(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A column type of MySQL or MariaDB; ``str()`` returns its canonical source type text.

    ``length`` counts characters (char, varchar), bytes (binary, varbinary), bits (bit) or
    dimensions (vector). It is 1 for ``tinyint(1)``, by convention a boolean, 2 for
    ``year(2)``, and 0 for other types.
    ``scale`` is the number of digits after the point of a decimal, float or double, and of a
    second's fraction in a temporal type; None if the text has none. ``charset`` and ``collation``
    are empty if the text has none. The configuration (``ReadPolicies``), not the server, says the
    last two: ``holds`` is the charset of the bytes if the declared one is wrong, and ``invalid``
    the policy for bytes that are no character, empty if it is ``replace``.
    """

    base: str
    unsigned: bool = False
    zerofill: bool = False
    length: int = 0
    precision: int = 0
    scale: int | None = None
    members: tuple[str, ...] = ()
    charset: str = ""
    collation: str = ""
    compressed: bool = False
    holds: str = ""
    invalid: str = ""

    @property
    def encoding(self) -> str:
        """The charset of the values' bytes."""
        return self.holds or self.charset

    @property
    def fraction(self) -> int:
        """The number of digits of a second's fraction."""
        return self.scale or 0

    @property
    def binary(self) -> bool:
        """Whether the values are bytes without a character set."""
        return self.base in _BINARY or (self.base in _CHARACTER and self.charset == "binary")

    def __str__(self) -> str:
        words = [self.base + self._parameters()]
        words += ["unsigned"] * self.unsigned + ["zerofill"] * self.zerofill
        words += ["/*M!100301 COMPRESSED*/"] * self.compressed
        words += [f"character set {self.charset}"] if self.charset else []
        words += [f"collate {self.collation}"] if self.collation else []
        words += [f"/*holds {self.holds}*/"] if self.holds else []
        words += [f"/*invalid {self.invalid}*/"] if self.invalid else []
        return " ".join(words)

    def _parameters(self) -> str:
        if self.members:
            return "(" + ",".join(_quote(member) for member in self.members) + ")"
        if self.base in ("decimal", "float", "double"):
            return "" if self.scale is None else f"({self.precision},{self.scale})"
        if self.base in ("time", "datetime", "timestamp"):
            return f"({self.scale})" if self.scale else ""
        if self.base in _SIZED or (self.base in ("tinyint", "year") and self.length):
            return f"({self.length})"
        return ""


GEOMETRIES = (
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geometrycollection",
)
_INTEGERS: dict[str, tuple[Kind, Kind]] = {
    "tinyint": ("int8", "uint8"),
    "smallint": ("int16", "uint16"),
    "mediumint": ("int24", "uint24"),
    "int": ("int32", "uint32"),
    "bigint": ("int64", "uint64"),
}
#: The kinds of neutral types with whole numbers.
INTEGER_KINDS = frozenset(kind for kinds in _INTEGERS.values() for kind in kinds)
_PLAIN: dict[str, Type] = {
    "float": Type("float32"),
    "double": Type("float64"),
    "year": Type("int16"),
    "date": Type("date"),
    "json": Type("json"),
    "uuid": Type("uuid"),
    "inet4": Type("text", length=15),
    "inet6": Type("text", length=39),
    "vector": Type("binary"),
    **{name: Type("geometry") for name in GEOMETRIES},
}
_TEMPORAL: dict[str, Kind] = {"time": "interval", "datetime": "datetime", "timestamp": "timestamp"}
_TEXTS = ("tinytext", "text", "mediumtext", "longtext")
_BLOBS = ("tinyblob", "blob", "mediumblob", "longblob")
_CHARACTER = frozenset(("char", "varchar", "enum", "set", *_TEXTS))
_BINARY = frozenset(("binary", "varbinary", *_BLOBS))
_SIZED = frozenset(("char", "varchar", "binary", "varbinary", "bit", "vector"))
_KNOWN = frozenset((*_INTEGERS, *_PLAIN, *_TEMPORAL, *_CHARACTER, *_BINARY, "decimal", "bit"))

# Names in a column definition → the type that the server creates.
_SYNONYMS = {
    "integer": "int",
    "int1": "tinyint",
    "int2": "smallint",
    "int3": "mediumint",
    "int4": "int",
    "int8": "bigint",
    "middleint": "mediumint",
    "dec": "decimal",
    "numeric": "decimal",
    "fixed": "decimal",
    "number": "decimal",
    "real": "double",
    "double precision": "double",
    "float4": "float",
    "float8": "double",
    "character": "char",
    "character varying": "varchar",
    "char varying": "varchar",
    "varcharacter": "varchar",
    "varchar2": "varchar",
    "long": "mediumtext",
    "long varchar": "mediumtext",
    "long char varying": "mediumtext",
    "long character varying": "mediumtext",
    "long varbinary": "mediumblob",
    "char byte": "binary",
    "raw": "varbinary",
    "clob": "longtext",
    "geomcollection": "geometrycollection",
}
_NATIONAL = {
    "nchar": "char",
    "national char": "char",
    "national character": "char",
    "nvarchar": "varchar",
    "national varchar": "varchar",
    "nchar varchar": "varchar",
    "nchar varying": "varchar",
    "national varcharacter": "varchar",
    "national char varying": "varchar",
    "national character varying": "varchar",
}
_NAMES = frozenset((*_KNOWN, *_SYNONYMS, *_NATIONAL, "bool", "boolean", "serial"))
_LONGEST_NAME = 3
#: The characters of a byte as the policy ``escape`` writes it.
_ESCAPED_BYTE = len(r"\x98")
_AS_BYTES = {"char": "binary", "varchar": "varbinary", **dict(zip(_TEXTS, _BLOBS, strict=True))}

_CHARSET_WORDS = {"ascii": "latin1", "unicode": "ucs2", "byte": "binary"}

_POLICY = re.compile(r"/\*(holds|invalid) (\w+)\*/")
_COMMENT = re.compile(r"/\*(.*?)\*/", re.DOTALL)
_TOKEN = re.compile(r"'(?:[^'\\]|''|\\.)*'|\"(?:[^\"\\]|\"\"|\\.)*\"|[\w$]+|\S", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)|''", re.DOTALL)
_ESCAPED = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
_QUOTED = str.maketrans({"'": "''", "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\0": "\\0"})


def _quote(member: str) -> str:
    return "'" + member.translate(_QUOTED) + "'"


def unquote(token: str) -> str:
    """The value of a quoted SQL string."""
    quote, text = token[0], token[1:-1]
    if quote == '"':
        text = text.replace('""', '"')
    return _ESCAPE.sub(
        lambda found: "'" if found[1] is None else _ESCAPED.get(found[1], found[1]), text
    )


@lru_cache(maxsize=4096)
def neutral_type(source_type: str) -> Type:
    """The neutral type of a source type text. Raises SchemaError for an unknown type."""
    parsed = parse_type(source_type)
    base = parsed.base
    if base in _INTEGERS:
        return Type(_INTEGERS[base][parsed.unsigned])
    if base in _TEMPORAL:
        return Type(_TEMPORAL[base], scale=parsed.fraction)
    if base == "decimal":
        return Type("decimal", precision=parsed.precision, scale=parsed.scale or 0)
    if base == "bit":
        return Type("bit", length=parsed.length)
    if base == "enum":
        return Type("enum", members=parsed.members)
    if base == "set":
        return Type("set", members=parsed.members)
    if base in _PLAIN:
        return _PLAIN[base]
    if parsed.binary:
        return Type("binary", length=parsed.length)
    longest = BYTES_PER_CHARACTER.get(parsed.encoding, 1) * _ESCAPED_BYTE
    return Type("text", length=parsed.length * (longest if parsed.invalid == "escape" else 1))


@lru_cache(maxsize=4096)
def parse_type(source_type: str) -> MySQLType:
    """Parse a source type text, or the type and its attributes in a column definition.

    Display widths are dropped, because they do not change values, but for ``tinyint(1)`` and
    ``year(2)``. Raises
    SchemaError for an unknown type.
    """
    compressed = any("COMPRESSED" in text.upper() for text in _COMMENT.findall(source_type))
    tokens = _TOKEN.findall(_COMMENT.sub(" ", source_type))
    name, rest = _take_name(tokens)
    parameters, attributes = _take_parameters(rest)
    words = [word.lower() for word in attributes]
    charset, collation = _charset(words, attributes)
    compressed = compressed or "compressed" in words
    try:
        parsed = _canonical(name, parameters, words, charset, collation, compressed)
    except (ValueError, IndexError) as error:
        raise _unknown(source_type) from error
    policies = dict(_POLICY.findall(source_type.rpartition("'")[2]))
    return msgspec.structs.replace(parsed, **policies) if policies else parsed


def _unknown(source_type: str) -> SchemaError:
    return SchemaError(
        f"the column type {source_type[:100]!r} is unknown",
        hint='add "TABLE" to exclude in [source], and report the type',
    )


def _take_name(tokens: list[str]) -> tuple[str, list[str]]:
    """The longest type name at the start, such as ``double precision``, and the rest."""
    for end in range(_LONGEST_NAME, 0, -1):
        name = " ".join(tokens[:end]).lower()
        if name in _NAMES:
            return name, tokens[end:]
    return " ".join(tokens[:1]).lower(), tokens[1:]


def _take_parameters(tokens: list[str]) -> tuple[list[str], list[str]]:
    if not tokens or tokens[0] != "(":
        return [], tokens
    end = tokens.index(")") if ")" in tokens else len(tokens)
    return [token for token in tokens[1:end] if token != ","], tokens[end + 1 :]


def _charset(words: list[str], attributes: list[str]) -> tuple[str, str]:
    """The charset and the collation in the attributes. A collation implies its charset."""
    charset = collation = ""
    for at, word in enumerate(words):
        following = [_bare(token) for token in attributes[at + 1 :] if token != "="]
        after_character = at > 0 and words[at - 1] in ("character", "char")
        if word == "charset" or (word == "set" and after_character):
            charset = following[0] if following else ""
        elif word == "collate":
            collation = following[0] if following else ""
        elif word in _CHARSET_WORDS and not charset:  # not the name in CHARACTER SET ascii
            charset = _CHARSET_WORDS[word]
    if collation and not charset:
        charset = collation.split("_", 1)[0]
        charset = charset if charset in BYTES_PER_CHARACTER or charset == "utf8" else ""
    return ("utf8mb3" if charset == "utf8" else charset), collation.replace("utf8_", "utf8mb3_", 1)


def _bare(token: str) -> str:
    return token.strip("'\"`").lower()


def _canonical(
    name: str,
    parameters: list[str],
    words: list[str],
    charset: str,
    collation: str,
    compressed: bool,
) -> MySQLType:
    """The type with synonyms and defaults resolved. Raises ValueError or IndexError if it is not
    a type.
    """
    zerofill = "zerofill" in words
    unsigned = zerofill or "unsigned" in words
    if name in ("bool", "boolean"):
        return MySQLType("tinyint", length=1)
    if name == "serial":
        return MySQLType("bigint", unsigned=True)
    if name in _NATIONAL:
        name, charset = _NATIONAL[name], charset or "utf8mb3"
    base = _SYNONYMS.get(name, name)
    if base not in _KNOWN:
        raise ValueError(name)
    if base in ("enum", "set"):
        return _labelled(base, parameters, charset, collation)
    numbers = [int(parameter) for parameter in parameters]
    if base in _INTEGERS:
        flag = base == "tinyint" and numbers == [1] and not unsigned
        return MySQLType(base, unsigned=unsigned, zerofill=zerofill, length=int(flag))
    if base == "decimal":
        precision, scale = (*numbers, 10, 0)[:2] if not numbers else (*numbers, 0)[:2]
        return MySQLType(base, unsigned, zerofill, precision=precision or 10, scale=scale)
    if base in ("float", "double"):
        return _floating(base, numbers, unsigned, zerofill)
    if base in _TEMPORAL:
        return MySQLType(base, scale=numbers[0] if numbers and numbers[0] else None)
    if base in _CHARACTER or base in _BINARY:
        return _string(base, numbers, charset, collation, compressed)
    if base == "bit":
        return MySQLType(base, length=numbers[0] if numbers else 1)
    sized = base == "vector" or (base == "year" and numbers == [2])
    return MySQLType(base, length=numbers[0] if sized and numbers else 0)


def _labelled(base: str, parameters: list[str], charset: str, collation: str) -> MySQLType:
    """An ENUM or SET. One with the charset ``binary`` has no charset, as MySQL's catalog says it.
    Raises ValueError for a label that is not text, which MySQL prints as ``x'ff'``.
    """
    if any(parameter[0] not in "'\"" for parameter in parameters):
        raise ValueError(base)
    members = tuple(unquote(parameter).rstrip(" ") for parameter in parameters)
    if charset == "binary":
        charset = collation = ""
    return MySQLType(base, members=members, charset=charset, collation=collation)


def _floating(base: str, numbers: list[int], unsigned: bool, zerofill: bool) -> MySQLType:
    if len(numbers) == 2:
        return MySQLType(base, unsigned, zerofill, precision=numbers[0], scale=numbers[1])
    # FLOAT(p) only chooses between the two sizes.
    wide = base == "double" or (len(numbers) == 1 and numbers[0] > 24)
    return MySQLType("double" if wide else "float", unsigned, zerofill)


def _string(
    base: str, numbers: list[int], charset: str, collation: str, compressed: bool
) -> MySQLType:
    if charset == "binary" or base in _BINARY:
        base, charset, collation = _AS_BYTES.get(base, base), "", ""
    if base in ("char", "binary"):
        length = numbers[0] if numbers else 1
    elif base in ("varchar", "varbinary"):
        length = numbers[0]
    else:
        length = 0
        if numbers and base in ("text", "blob"):
            base = _smallest(base, numbers[0] * BYTES_PER_CHARACTER.get(charset, 1))
    return MySQLType(
        base, length=length, charset=charset, collation=collation, compressed=compressed
    )


def _smallest(base: str, size_bytes: int) -> str:
    """The smallest type of the family for this size; the server chooses it for ``text(n)``."""
    family = _TEXTS if base == "text" else _BLOBS
    for name, limit in zip(family, (1 << 8, 1 << 16, 1 << 24, 1 << 32), strict=True):
        if size_bytes < limit:
            return name
    return family[-1]


def same_type(first: str, second: str) -> bool:
    """Whether two source type texts have the same values. Display width, zero filling, collation,
    compression and spelling are ignored.
    """
    return first == second or _essence(first) == _essence(second)


def same_order(first: str, second: str) -> bool:
    """Whether the values of two source type texts of one type have the same order. It is taken to
    be the same unless both texts have a collation and these differ.
    """
    collations = {_collation(first), _collation(second)}
    return len(collations) == 1 or "" in collations


@lru_cache(maxsize=4096)
def _collation(source_type: str) -> str:
    """The collation's full name. MariaDB's ``uca1400_…`` names do not begin with the charset."""
    parsed = parse_type(source_type)
    collation = parsed.collation
    if not collation or collation.startswith(f"{parsed.charset}_"):
        return collation
    return f"{parsed.charset}_{collation}"


@lru_cache(maxsize=4096)
def _essence(source_type: str) -> MySQLType:
    parsed = parse_type(source_type)
    return msgspec.structs.replace(
        parsed,
        zerofill=False,
        collation="",
        compressed=False,
        holds="",
        invalid="",
        length=0 if parsed.base == "tinyint" else parsed.length,
    )
