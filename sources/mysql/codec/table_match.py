"""
Compares a table map with a version of a table, and makes a table from a map with FULL metadata.

The map takes precedence: a tracked version that contradicts it is not used. With FULL metadata the
table is made from the map. Only what the log does not have comes from the previous version: source
types, defaults, secondary indexes and foreign keys.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from engine.databases.mysql.charset import BYTES_PER_CHARACTER, text_decoder
from engine.databases.mysql.types import GEOMETRIES, MySQLType, neutral_type, parse_type
from engine.errors import DecodeError
from engine.schema import Column, ForeignKey, Index, Table, TableId
from sources.mysql.codec.table_map import TableMap, Wire, parse_table_map

__all__ = [
    "TableMap",
    "mismatch",
    "parse_table_map",
    "same_charsets",
    "table_from_map",
    "with_charsets",
    "without_charset",
]

_INTEGERS = {
    "tinyint": Wire.TINY,
    "smallint": Wire.SHORT,
    "mediumint": Wire.INT24,
    "int": Wire.LONG,
    "bigint": Wire.LONGLONG,
}
_TEMPORAL = {
    "time": (Wire.TIME2, Wire.TIME),
    "datetime": (Wire.DATETIME2, Wire.DATETIME),
    "timestamp": (Wire.TIMESTAMP2, Wire.TIMESTAMP),
}
_FIXED = {"float": Wire.FLOAT, "double": Wire.DOUBLE, "year": Wire.YEAR, "date": Wire.DATE}
_BLOBS = ("tinyblob", "blob", "mediumblob", "longblob")
_TEXTS = ("tinytext", "text", "mediumtext", "longtext")
_ENCODED = frozenset(("char", "varchar", *_TEXTS))
_CHARACTER = _ENCODED | {"enum", "set"}
_FIXED_BYTES = {"uuid": 16, "inet4": 4, "inet6": 16}
_DIMENSION_BYTES = 4


def mismatch(table: Table, map: TableMap) -> str | None:
    """Why the map cannot describe this version of the table; None if it can.

    Nullability is not compared: decoders take it from the map.
    """
    if len(table.columns) != len(map.types):
        return f"it has {len(table.columns)} columns, the log has {len(map.types)}"
    if map.names is not None and map.names != table.names:
        return "its columns have other names than in the log"
    for ordinal, column in enumerate(table.columns):
        reason = _column_mismatch(column, map, ordinal)
        if reason is not None:
            return f"column {column.name} ({column.source_type[:60]}): {reason}"
    return None


def with_charsets(table: Table, map: TableMap) -> Table:
    """The table with the charsets that the map has."""
    if len(table.columns) != len(map.types):
        return table
    columns = tuple(
        _with_charset(column, map, ordinal) for ordinal, column in enumerate(table.columns)
    )
    if columns == table.columns:
        return table
    return msgspec.structs.replace(table, columns=columns)


def _with_charset(column: Column, map: TableMap, ordinal: int) -> Column:
    source_type = parse_type(column.source_type)
    if map.charsets is not None:
        charset = map.charsets[ordinal]
    else:
        charset = _longer_utf8(source_type, map.metas[ordinal])
    if source_type.base not in _CHARACTER or charset in (None, "binary", source_type.charset):
        return column
    base = source_type.base
    if base in _TEXTS and map.types[ordinal] in (Wire.BLOB, Wire.BLOB_COMPRESSED):
        base = _TEXTS[map.metas[ordinal] - 1]  # the size of TEXT(n) depends on the charset
    text = str(msgspec.structs.replace(source_type, base=base, charset=charset, collation=""))
    return msgspec.structs.replace(column, type=neutral_type(text), source_type=text)


def _longer_utf8(source_type: MySQLType, meta: int) -> str | None:
    """In MariaDB, ``utf8`` in a statement is utf8mb4 if the session's ``old_mode`` lacks
    UTF8_IS_UTF8MB3, which the log does not contain. The values are read alike.
    """
    longer = source_type.charset == "utf8mb3" and source_type.base in ("char", "varchar")
    size_bytes = source_type.length * BYTES_PER_CHARACTER["utf8mb4"]
    return "utf8mb4" if longer and size_bytes and meta == size_bytes else None


def same_charsets(table: Table, other: Table) -> bool:
    """Whether the columns of ``table`` with characters have the same charsets in ``other``."""
    charsets = {column.name: parse_type(column.source_type).charset for column in other.columns}
    return all(
        charsets.get(column.name) == source_type.charset
        for column in table.columns
        if (source_type := parse_type(column.source_type)).base in _ENCODED
    )


def without_charset(table: Table) -> str | None:
    """The name of the first column whose values need a charset that is not known; None if none."""
    for column in table.columns:
        source_type = parse_type(column.source_type)
        if source_type.base in _ENCODED and not source_type.charset:
            return column.name
    return None


def _column_mismatch(column: Column, map: TableMap, ordinal: int) -> str | None:
    source_type = parse_type(column.source_type)
    charset = map.charsets[ordinal] if map.charsets is not None else None
    if not _stored_as(source_type, map.types[ordinal], map.metas[ordinal]):
        return f"the log has {_stored_text(map, ordinal)}"
    if map.unsigned is not None and source_type.base in (*_INTEGERS, "decimal", "float", "double"):
        unsigned = map.unsigned[ordinal]
        if unsigned is not None and unsigned != source_type.unsigned:
            return f"the log has it as {'unsigned' if unsigned else 'signed'}"
    if charset is not None and not _same_charset(source_type, charset):
        return f"the log has the character set {charset}"
    members = map.members[ordinal] if map.members is not None else None
    if members is not None and source_type.members != _labels(members, charset):
        return "the log has other labels"
    return None


def _stored_text(map: TableMap, ordinal: int) -> str:
    """The type in the map, for people. Without a character set its length is in bytes."""
    wire, meta = map.types[ordinal], map.metas[ordinal]
    if wire in (Wire.ENUM, Wire.SET):
        return f"an ENUM of {meta} bytes" if wire == Wire.ENUM else f"a SET of {meta} bytes"
    if map.charsets is not None and map.charsets[ordinal] is not None:
        return str(_source_type(map, ordinal))
    if wire in (Wire.BLOB, Wire.BLOB_COMPRESSED):
        return f"{_BLOBS[meta - 1]} or {_TEXTS[meta - 1]}" if 1 <= meta <= len(_TEXTS) else "a BLOB"
    if wire in (Wire.STRING, Wire.VAR_STRING):
        return f"CHAR or BINARY of {meta} bytes"
    if wire in (Wire.VARCHAR, Wire.VARCHAR_COMPRESSED):
        return f"VARCHAR or VARBINARY of {meta} bytes"
    return str(_source_type(map, ordinal))


def _same_charset(source_type: MySQLType, charset: str) -> bool:
    if source_type.charset:
        return source_type.charset == charset
    # For types that are stored as bytes (uuid, geometry) the log may have the charset binary.
    return charset == "binary" if source_type.binary else source_type.base not in _TEXTS


def _labels(members: tuple[bytes, ...], charset: str | None) -> tuple[str, ...]:
    decode = text_decoder(charset if charset not in (None, "binary") else "utf8mb4")
    try:
        return tuple(map(decode, members))
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"a label of an ENUM or SET is not valid {charset} text",
            hint="correct the label with ALTER TABLE on the source",
        ) from error


def _stored_as(source_type: MySQLType, wire: int, meta: int) -> bool:
    """Whether the server writes this source type to the log as type ``wire`` with ``meta``."""
    base = source_type.base
    if base in _INTEGERS:
        return wire == _INTEGERS[base]
    if base in _FIXED:
        return wire == _FIXED[base]
    if base in _TEMPORAL:
        new, old = _TEMPORAL[base]
        return (wire == new and meta == source_type.fraction) or wire == old
    check = _STORED.get(base)
    return check is not None and check(source_type, wire, meta)


def _as_decimal(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire == Wire.NEWDECIMAL and meta == source_type.precision << 8 | (source_type.scale or 0)


def _as_bit(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire == Wire.BIT and meta == source_type.length


def _size(source_type: MySQLType) -> int:
    return source_type.length * BYTES_PER_CHARACTER.get(source_type.charset, 1)


def _as_char(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire in (Wire.STRING, Wire.VAR_STRING) and meta == _size(source_type)


def _as_varchar(source_type: MySQLType, wire: int, meta: int) -> bool:
    # A compressed value has one byte of header.
    return (wire == Wire.VARCHAR and meta == _size(source_type)) or (
        wire == Wire.VARCHAR_COMPRESSED and meta == _size(source_type) + 1
    )


def _as_blob(source_type: MySQLType, wire: int, meta: int) -> bool:
    family = _BLOBS if source_type.base in _BLOBS else _TEXTS
    return wire in (Wire.BLOB, Wire.BLOB_COMPRESSED) and meta == family.index(source_type.base) + 1


def _as_labels(source_type: MySQLType, wire: int, meta: int) -> bool:
    count = len(source_type.members)
    if source_type.base == "enum":
        return wire == Wire.ENUM and meta == (1 if count < 256 else 2)
    size = (count + 7) // 8
    return wire == Wire.SET and meta == (size if size < 5 else 8)


def _as_fixed_bytes(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire == Wire.STRING and meta == _FIXED_BYTES[source_type.base]


def _as_json(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire == Wire.JSON


def _as_geometry(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire == Wire.GEOMETRY


def _as_vector(source_type: MySQLType, wire: int, meta: int) -> bool:
    return wire == Wire.VECTOR or (
        wire == Wire.VARCHAR and meta == _DIMENSION_BYTES * source_type.length
    )


_STORED: dict[str, Callable[[MySQLType, int, int], bool]] = {
    "decimal": _as_decimal,
    "bit": _as_bit,
    "json": _as_json,
    "vector": _as_vector,
    **dict.fromkeys(("char", "binary"), _as_char),
    **dict.fromkeys(("varchar", "varbinary"), _as_varchar),
    **dict.fromkeys((*_BLOBS, *_TEXTS), _as_blob),
    **dict.fromkeys(("enum", "set"), _as_labels),
    **dict.fromkeys(_FIXED_BYTES, _as_fixed_bytes),
    **dict.fromkeys(GEOMETRIES, _as_geometry),
}


def table_from_map(map: TableMap, previous: Table | None) -> Table:
    """The table that a map with names describes; ValueError for a map without names.

    A column of ``previous`` with the same name is kept if the map does not contradict it, because
    its source type says more than the log. Secondary indexes and foreign keys of ``previous`` are
    kept if all their columns still exist. Returns ``previous`` itself if nothing differs, else a
    table with the next version number.
    """
    if map.names is None:
        raise ValueError("the table map has no names")
    known = {column.name: column for column in previous.columns} if previous is not None else {}
    columns = tuple(
        _column(map, ordinal, known.get(name)) for ordinal, name in enumerate(map.names)
    )
    table = Table(
        TableId(map.schema, map.name),
        columns,
        key=_key(map, map.names, previous),
        indexes=_indexes(map.names, previous),
        version=1 if previous is None else previous.version,
        default_charset="" if previous is None else previous.default_charset,
        foreign_keys=_foreign_keys(map.names, previous),
    )
    if previous is None or table == previous:
        return previous or table
    return msgspec.structs.replace(table, version=previous.version + 1)


def _column(map: TableMap, ordinal: int, known: Column | None) -> Column:
    nullable = bool(map.nullable >> ordinal & 1)
    if known is not None and _column_mismatch(known, map, ordinal) is None:
        return msgspec.structs.replace(known, nullable=nullable)
    assert map.names is not None
    source_type = str(_source_type(map, ordinal))
    return Column(map.names[ordinal], neutral_type(source_type), source_type, nullable)


def _key(map: TableMap, names: tuple[str, ...], previous: Table | None) -> tuple[int, ...]:
    """The ordinals of the primary key; without one, those of the previous version's key if its
    columns still exist and none is nullable.
    """
    if map.key:
        return map.key
    if previous is None:
        return ()
    before = tuple(previous.columns[ordinal].name for ordinal in previous.key)
    if not set(before) <= set(names):
        return ()
    ordinals = tuple(map_ordinal for map_ordinal in (names.index(name) for name in before))
    return () if any(map.nullable >> ordinal & 1 for ordinal in ordinals) else ordinals


def _indexes(names: tuple[str, ...], previous: Table | None) -> tuple[Index, ...]:
    if previous is None:
        return ()
    kept = []
    for index in previous.indexes:
        columns = [previous.columns[ordinal].name for ordinal in index.columns]
        if set(columns) <= set(names):
            ordinals = tuple(names.index(name) for name in columns)
            kept.append(msgspec.structs.replace(index, columns=ordinals))
    return tuple(kept)


def _foreign_keys(names: tuple[str, ...], previous: Table | None) -> tuple[ForeignKey, ...] | None:
    keys = None if previous is None else previous.foreign_keys
    if keys is None:
        return None
    return tuple(key for key in keys if set(key.columns) <= set(names))


_BASE_OF_WIRE = {
    **{wire: base for base, wire in _INTEGERS.items()},
    **{wire: base for base, wire in _FIXED.items()},
    **{wire: base for base, wires in _TEMPORAL.items() for wire in wires},
    Wire.NEWDECIMAL: "decimal",
    Wire.BIT: "bit",
    Wire.JSON: "json",
    Wire.VECTOR: "vector",
    Wire.GEOMETRY: "geometry",
    Wire.ENUM: "enum",
    Wire.SET: "set",
}


def _source_type(map: TableMap, ordinal: int) -> MySQLType:
    """The source type, as far as the log has it."""
    wire, meta = map.types[ordinal], map.metas[ordinal]
    charset = (map.charsets[ordinal] if map.charsets is not None else None) or "binary"
    if wire in (Wire.ENUM, Wire.SET):
        members = (map.members[ordinal] if map.members is not None else None) or ()
        labels = _labels(members, charset)
        charset = "" if charset == "binary" else charset
        return MySQLType(_BASE_OF_WIRE[wire], members=labels, charset=charset)
    if wire in (Wire.BLOB, Wire.BLOB_COMPRESSED):
        family = _BLOBS if charset == "binary" else _TEXTS
        return MySQLType(family[meta - 1], charset="" if charset == "binary" else charset)
    base = _BASE_OF_WIRE.get(wire)
    if base is None:
        return _string(wire, meta, charset)
    if wire == Wire.NEWDECIMAL:
        unsigned = bool(map.unsigned is not None and map.unsigned[ordinal])
        return MySQLType(base, unsigned, precision=meta >> 8, scale=meta & 0xFF)
    if wire == Wire.BIT:
        return MySQLType(base, length=meta)
    if wire in (Wire.TIME2, Wire.DATETIME2, Wire.TIMESTAMP2):
        return MySQLType(base, scale=meta or None)
    if wire == Wire.GEOMETRY and map.geometries is not None:
        return MySQLType(GEOMETRIES[map.geometries[ordinal] or 0])
    unsigned = bool(map.unsigned is not None and map.unsigned[ordinal]) and wire != Wire.YEAR
    return MySQLType(base, unsigned)


def _string(wire: int, meta: int, charset: str) -> MySQLType:
    varying = wire in (Wire.VARCHAR, Wire.VARCHAR_COMPRESSED)
    meta -= wire == Wire.VARCHAR_COMPRESSED
    if charset == "binary":
        return MySQLType("varbinary" if varying else "binary", length=meta)
    length = meta // BYTES_PER_CHARACTER[charset]
    return MySQLType("varchar" if varying else "char", length=length, charset=charset)
