"""
The parser for column definitions in CREATE TABLE and ALTER TABLE. Pure.

A definition is read first (``read_column``) and resolved later (``resolve``), because the charset
that it leaves open is known only after the whole statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from engine.databases.mysql.charset import BYTES_PER_CHARACTER
from engine.databases.mysql.types import MySQLType, neutral_type, parse_type
from engine.schema import Column, Expression
from sources.mysql.codec.versioned import ROW_END, ROW_START
from sources.mysql.ddl.defaults import bytes_of, decoded, stored_default
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.expressions import inexact, read_expression
from sources.mysql.ddl.keys import KeyDefinition, References, read_references
from sources.mysql.ddl.tokens import Tokens, quote

__all__ = [
    "NUMBERS",
    "Charset",
    "ColumnDefinition",
    "charset_of",
    "converted",
    "read_charset",
    "read_column",
    "read_default",
    "resolve",
]

_CHARACTER: Final = frozenset(
    ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
)
_LARGER: Final = {"tinytext": "text", "text": "mediumtext", "mediumtext": "longtext"}
_LONGEST: Final = {"varchar": "mediumtext", "varbinary": "mediumblob"}
_TYPE_WORDS: Final = frozenset(
    ("PRECISION", "VARYING", "CHAR", "CHARACTER", "VARCHAR", "VARCHARACTER", "VARBINARY")
)
_TWO_WORD_TYPES: Final = frozenset(("DOUBLE", "NATIONAL", "NCHAR", "CHAR", "CHARACTER", "LONG"))
_TYPE_ATTRIBUTES: Final = frozenset(("UNSIGNED", "ZEROFILL", "COMPRESSED"))
_CHARSET_WORDS: Final = {"ASCII": "latin1", "UNICODE": "ucs2", "BYTE": "binary"}
#: The collation that the attribute BINARY selects, for any charset.
_BINARY_ORDER: Final = "bin"
# Attributes without an effect on rows: those without a value, and those with one.
_FLAGS: Final = frozenset(("SIGNED", "VISIBLE", "INVISIBLE", "ENFORCED", "NOT"))
_SETTINGS: Final = frozenset(
    ("COMMENT", "COLUMN_FORMAT", "STORAGE", "SRID", "REF_SYSTEM_ID")
) | frozenset(("ENGINE_ATTRIBUTE", "SECONDARY_ENGINE_ATTRIBUTE"))
#: What AUTO_INCREMENT fills a column with (``ColumnDefinition.filled``).
NUMBERS: Final = "generated numbers"
_TIME_LITERALS: Final = frozenset(("DATE", "TIME", "TIMESTAMP"))


class Charset(msgspec.Struct, frozen=True):
    """A charset and its collation, each empty if it is not known."""

    name: str = ""
    collation: str = ""

    def over(self, default: Charset) -> Charset:
        """This charset, with missing parts taken from ``default``.

        A charset without a collation has no missing part: it means the server's default collation
        of the charset.
        """
        if self.name:
            return self
        return Charset(default.name, self.collation or default.collation)

    def resolved(self, database: Charset) -> Charset:
        """This charset, with that of the database in place of the name DEFAULT."""
        if self.name != "default":
            return self
        return Charset(database.name, self.collation or database.collation)

    @property
    def text(self) -> str:
        """The collation, else the charset, for ``charset_of``; empty if the charset is unknown."""
        if not self.name or not self.collation or self.collation.startswith(self.name):
            return self.name and (self.collation or self.name)
        return f"{self.name}_{self.collation}"  # uca1400_ai_ci applies to any charset

    def __str__(self) -> str:
        text = f" character set {self.name}" if self.name else ""
        return f"{text} collate {self.collation}" if self.collation else text


class ColumnDefinition(msgspec.Struct, frozen=True):
    """A column as a statement defines it.

    ``type`` is the type with its attributes, without the charset. ``filled`` says how existing rows
    get a value that the statement does not contain; it is empty if the statement contains it.
    ``implied``: the column is a TIMESTAMP with the default that its place in the table implies.
    ``expression`` is that of a generated column, as it was read.
    ``row_time``: ``ROW_START`` or ``ROW_END`` for such a column of a table with a history.
    """

    name: str
    type: str
    charset: Charset = Charset()
    nullable: bool = True
    default: str | None = None
    generated: bool = False
    filled: str = ""
    primary: bool = False
    unique: bool = False
    references: References | None = None
    implied: bool = False
    expression: Expression | None = None
    row_time: str = ""

    @property
    def keys(self) -> list[KeyDefinition]:
        """The indexes that the definition creates."""
        parts = ((self.name, 0),)
        primary = [KeyDefinition("primary", "", parts)] * self.primary
        unique = [KeyDefinition("unique", "", parts)] * self.unique
        foreign = (
            [KeyDefinition("foreign", "", parts, references=self.references)]
            if self.references is not None
            else []
        )
        return primary + unique + foreign


class _Attributes:
    """The attributes of one column that have been read so far."""

    def __init__(self, type: str) -> None:
        self.type = type
        self.charset = ""
        self.collation = ""
        self.nullable = True
        self.default: str | None = None
        self.generated = False
        self.expression: Expression | None = None
        self.filled = ""
        self.primary = False
        self.unique = False
        self.references: References | None = None
        #: Whether NULL or NOT NULL, and a default, are written.
        self.states_null = False
        self.states_default = False
        self.updates = False
        self.implied = False
        self.row_time = ""


def read_column(tokens: Tokens, name: str, dialect: Dialect) -> ColumnDefinition:
    """Read the definition that follows a column's name."""
    found = _Attributes(_read_type(tokens, dialect))
    if found.type == "serial":
        found.nullable, found.unique, found.filled = False, True, NUMBERS
    while _read_attribute(tokens, found, dialect):
        pass
    if found.type.partition("(")[0] == "timestamp":
        _imply_default(found, dialect)
    charset = _charset(found.charset, found.collation)
    return ColumnDefinition(
        name,
        found.type,
        charset,
        found.nullable and not found.primary,
        dialect.default(found.default),
        found.generated,
        found.filled,
        found.primary,
        found.unique,
        found.references,
        found.implied,
        found.expression,
        found.row_time,
    )


def with_row_times(columns: Sequence[ColumnDefinition]) -> list[ColumnDefinition]:
    """The columns of a table WITH SYSTEM VERSIONING. If it does not define those with the times of
    a row, they are hidden behind the others.
    """
    if any(column.row_time for column in columns):
        return list(columns)
    hidden = (("row_start", ROW_START), ("row_end", ROW_END))
    return [
        *columns,
        *(
            ColumnDefinition(
                *(name, "timestamp(6)", Charset(), False, None, True, "it"),
                expression=inexact("the server fills it"),
                row_time=mark,
            )
            for name, mark in hidden
        ),
    ]


def _imply_default(found: _Attributes, dialect: Dialect) -> None:
    """Apply the rules of a TIMESTAMP column without ``explicit_defaults_for_timestamp``.

    Unless NULL is written, the column is NOT NULL, and NULL stands for the current time. Its
    default is the current time if it is the first TIMESTAMP of the table and nothing else is
    written, else zero (MySQL manual, "Automatic Initialization and Updating for TIMESTAMP and
    DATETIME").
    """
    explicit = dialect.explicit_defaults_for_timestamp
    if explicit or (found.nullable and found.states_null):
        return
    found.nullable = found.nullable and explicit is None
    if not found.states_default and not found.filled and (explicit is None or not found.updates):
        found.filled = "the current time, or zero"
        found.implied = explicit is False


def resolve(definition: ColumnDefinition, default: Charset) -> Column:
    """The column that the server creates in a table with the charset ``default``.

    Raises SchemaError if the type is unknown, Unreadable if the stored default is unknown.
    """
    parsed = parse_type(definition.type)
    source_type = definition.type
    if parsed.base in _CHARACTER:
        stated = definition.charset
        if parsed.charset and not stated.name:
            stated = Charset(parsed.charset, stated.collation or parsed.collation)
        charset = stated.over(default)
        if charset.collation == _BINARY_ORDER:
            charset = Charset(charset.name, f"{charset.name}_bin" if charset.name else "")
        source_type += str(charset)
    fitting = _fitting(parse_type(source_type))
    source_type = str(fitting)
    type = neutral_type(source_type)
    return Column(
        definition.name,
        type,
        source_type + definition.row_time,
        definition.nullable,
        definition.default
        if definition.filled
        else stored_default(definition.default, type, fitting),
        definition.generated,
        definition.expression,
    )


def converted(column: Column, charset: Charset) -> Column:
    """The column after CONVERT TO CHARACTER SET. Its values stay the same."""
    old = parse_type(column.source_type)
    if not old.charset:
        return column
    base = old.base
    if BYTES_PER_CHARACTER.get(charset.name, 1) > BYTES_PER_CHARACTER.get(old.charset, 1):
        base = _LARGER.get(base, base)
    new = msgspec.structs.replace(old, base=base, charset=charset.name, collation=charset.collation)
    source_type = str(_fitting(parse_type(str(new))))
    return msgspec.structs.replace(column, type=neutral_type(source_type), source_type=source_type)


def _fitting(source_type: MySQLType) -> MySQLType:
    """The type that a server without strict mode uses for a type that is too long for a row."""
    size_bytes = source_type.length * BYTES_PER_CHARACTER.get(source_type.charset, 1)
    if source_type.base not in _LONGEST or size_bytes < 1 << 16:
        return source_type
    return msgspec.structs.replace(source_type, base=_LONGEST[source_type.base], length=0)


def _read_type(tokens: Tokens, dialect: Dialect) -> str:
    if dialect.oracle:
        raise tokens.unreadable()
    words = [tokens.peek().word]
    if tokens.next().kind != "word":
        raise tokens.unreadable()
    while words[0] in _TWO_WORD_TYPES and tokens.at_any(_TYPE_WORDS):
        if tokens.peek(1).word == "SET":  # CHAR CHARACTER SET utf8mb4
            break
        words.append(tokens.next().word)
    name = " ".join(words).lower()
    if name == "real":
        name = dialect.real
    if name == "timestamp":
        name = dialect.timestamp_type
    if name == "json" and dialect.mariadb:
        return "longtext character set utf8mb4 collate utf8mb4_bin"
    type = name + _read_parameters(tokens, members=name in ("enum", "set"))
    return "year" if type == "year(2)" and dialect.converts_years else type


def _read_parameters(tokens: Tokens, *, members: bool) -> str:
    if not tokens.take("("):
        return ""
    parameters: list[str] = []
    while True:
        parameters.append(quote(tokens.string()) if members else str(tokens.integer()))
        if tokens.take(")"):
            return "(" + ",".join(parameters) + ")"
        tokens.expect(",")


def _read_attribute(tokens: Tokens, found: _Attributes, dialect: Dialect) -> bool:
    """Take one attribute. Return False if none comes next."""
    charset = read_charset(tokens)
    if charset is not None:
        found.charset, found.collation = (
            charset.name or found.charset,
            charset.collation or found.collation,
        )
        return True
    word = tokens.peek().word
    if tokens.take("BINARY"):
        found.collation = _BINARY_ORDER
        return True
    if word in _TYPE_ATTRIBUTES:
        found.type += f" {tokens.next().word.lower()}"
        if word == "COMPRESSED" and tokens.take("="):
            tokens.next()
        return True
    if word in _CHARSET_WORDS:
        found.charset = _CHARSET_WORDS[tokens.next().word]
        return True
    return (
        _read_value_attribute(tokens, found, dialect)
        or _read_key_attribute(tokens, found, dialect)
        or _read_other_attribute(tokens)
    )


def _read_value_attribute(tokens: Tokens, found: _Attributes, dialect: Dialect) -> bool:
    if tokens.take("NOT", "NULL"):
        found.nullable, found.states_null = False, True
    elif tokens.take("NULL"):
        found.nullable, found.states_null = True, True
    elif tokens.take("SERIAL", "DEFAULT", "VALUE"):
        found.nullable, found.unique, found.filled = False, True, NUMBERS
    elif tokens.take("DEFAULT"):
        found.default, constant = read_default(tokens)
        found.states_default = True
        found.filled = found.filled if constant else "a computed default"
    elif tokens.take("ON", "UPDATE"):
        found.updates = True
        tokens.next()
        if tokens.at("("):
            tokens.group()
    elif tokens.take("AUTO_INCREMENT"):
        found.nullable, found.filled = False, NUMBERS
    elif tokens.take("GENERATED", "ALWAYS", "AS") or tokens.take("AS"):
        if tokens.take("ROW", "START"):
            found.row_time, found.expression = ROW_START, inexact("the server fills it")
        elif tokens.take("ROW", "END"):
            found.row_time, found.expression = ROW_END, inexact("the server fills it")
        else:
            found.expression = read_expression(tokens.of(tokens.group()), dialect.sql_mode)
        found.nullable = found.nullable and not found.row_time
        found.generated, found.filled = True, "an expression"
        tokens.take_any(frozenset(("VIRTUAL", "STORED", "PERSISTENT")))
    else:
        return False
    return True


def _read_key_attribute(tokens: Tokens, found: _Attributes, dialect: Dialect) -> bool:
    if tokens.take("PRIMARY"):
        tokens.take("KEY")
        found.primary = True
    elif tokens.take("UNIQUE"):
        tokens.take("KEY")
        found.unique = True
    elif tokens.take("KEY"):
        found.primary = True
    elif tokens.at("REFERENCES"):
        references = read_references(tokens, dialect)
        found.references = references if dialect.inline_references else None
    elif tokens.at("CONSTRAINT") or tokens.at("CHECK"):
        if tokens.take("CONSTRAINT") and not tokens.at("CHECK"):
            tokens.name()
        tokens.expect("CHECK")
        tokens.group()
    else:
        return False
    return True


def _read_other_attribute(tokens: Tokens) -> bool:
    word = tokens.peek().word
    if tokens.take("WITHOUT", "SYSTEM", "VERSIONING") or tokens.take("NOT", "SECONDARY"):
        return True
    if word in _FLAGS:
        tokens.next()
        return True
    assigned = tokens.peek(1).word == "="
    if tokens.peek().kind not in ("word", "name") or not (word in _SETTINGS or assigned):
        return False
    tokens.next()
    tokens.take("=")
    tokens.next()
    return True


def read_charset(tokens: Tokens) -> Charset | None:
    """Take ``CHARACTER SET x`` or ``COLLATE x``, with or without =; None if neither comes next."""
    words = (("CHARACTER", "SET"), ("CHAR", "SET"), ("CHARSET",))
    if any(tokens.take(*spelling) for spelling in words):
        tokens.take("=")
        return _charset(tokens.next().text.lower(), "")
    if tokens.take("COLLATE"):
        tokens.take("=")
        return _charset("", tokens.next().text.lower())
    return None


def charset_of(name: str) -> Charset:
    """The charset with this name, or with the collation of this name."""
    name = name.lower()
    return _charset("", name) if "_" in name else _charset(name, "")


def _charset(name: str, collation: str) -> Charset:
    collation = "" if collation == "default" else collation.replace("utf8_", "utf8mb3_", 1)
    if collation and not name:
        head = collation.partition("_")[0]  # MariaDB's uca1400_… apply to any charset
        name = head if head in BYTES_PER_CHARACTER or head == "binary" else ""
    return Charset("utf8mb3" if name == "utf8" else name, collation)


def read_default(tokens: Tokens) -> tuple[str | None, bool]:
    """The value after ``DEFAULT`` as SQL text (None for NULL), and whether it is a constant.

    A constant string is in single quotes; bits are ``b'101'``.
    """
    if tokens.at("("):
        text = tokens.group()
        inner = tokens.of(text[1:-1])
        constant = _read_constant(inner)  # MySQL requires parentheses for the default of a TEXT
        return (text, False) if constant is None or not inner.ended else (constant, True)
    if tokens.take("NULL"):
        return None, True
    constant = _read_constant(tokens)
    if constant is not None:
        return constant, True
    start = tokens.peek()
    if tokens.next().kind != "word":
        raise tokens.unreadable()
    call = tokens.group() if tokens.at("(") else ""
    return start.text + call, False


def _read_constant(tokens: Tokens) -> str | None:
    """Take a literal. None, with nothing taken, if none comes next."""
    sign = "-" if tokens.at("-") else ""
    if tokens.at_any(frozenset("+-")):
        tokens.next()
        if tokens.peek().kind != "number":
            raise tokens.unreadable()
    token, following = tokens.peek(), tokens.peek(1)
    if token.kind == "number":
        return sign + tokens.next().text
    if token.kind in ("string", "quoted"):
        return quote(_read_strings(tokens))
    if token.word in ("TRUE", "FALSE"):
        return str(int(tokens.next().word == "TRUE"))
    if token.kind != "word":
        return None
    if token.text.startswith(("0x", "0b")):
        return tokens.next().text
    if token.text.startswith("_"):
        return _read_introduced(tokens)
    if following.kind not in ("string", "quoted"):
        return None
    if token.word in ("X", "B") and following.start == token.end:
        return f"{tokens.next().word.lower()}'{tokens.string()}'"
    if token.word in _TIME_LITERALS or token.word == "N":
        tokens.next()
        return quote(_read_strings(tokens))
    return None


def _read_introduced(tokens: Tokens) -> str | None:
    """Take a literal with a charset introducer, such as ``_latin1'x'``."""
    charset = tokens.next().text[1:].lower()
    constant = _read_constant(tokens)
    if constant is None or charset == "binary":
        return constant
    data = bytes_of(constant)
    if data is not None:
        return quote(decoded(data, _charset(charset, "").name))
    if not constant.isascii():
        raise tokens.unreadable()  # its bytes depend on the session's charset
    return constant


def _read_strings(tokens: Tokens) -> str:
    """Take adjacent string literals, which form one string."""
    text = tokens.string()
    while tokens.peek().kind in ("string", "quoted"):
        text += tokens.string()
    return text
