"""
The table map: the log's own description of the table whose rows follow.

A map always has the columns' storage types. With ``binlog_row_metadata=MINIMAL`` it also has
signedness and character sets, with FULL also names, labels and the primary key. The map is right
for its place in the log, so a tracked version of the table is used only if the map does not
contradict it (``table_match``).

The format is that of MySQL's ``TABLE_MAP_EVENT`` (mysql::binlog::event::Table_map_event) with its
optional metadata fields, which MariaDB shares since 10.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from engine.databases.mysql.charset import collation_charset
from engine.errors import DecodeError

__all__ = ["TableMap", "Wire", "parse_table_map"]


class Wire:
    """The log's numbers of column types (``enum_field_types``)."""

    TINY, SHORT, LONG, FLOAT, DOUBLE = 1, 2, 3, 4, 5
    TIMESTAMP, LONGLONG, INT24, DATE, TIME, DATETIME, YEAR = 7, 8, 9, 10, 11, 12, 13
    VARCHAR, BIT, TIMESTAMP2, DATETIME2, TIME2 = 15, 16, 17, 18, 19
    BLOB_COMPRESSED, VARCHAR_COMPRESSED = 140, 141  # MariaDB
    VECTOR, JSON, NEWDECIMAL, ENUM, SET = 242, 245, 246, 247, 248
    BLOB, VAR_STRING, STRING, GEOMETRY = 252, 253, 254, 255


# The signedness field has a bit for YEAR, too.
_NUMBERS = (Wire.TINY, Wire.SHORT, Wire.INT24, Wire.LONG, Wire.LONGLONG, Wire.YEAR)
_NUMERIC = frozenset((*_NUMBERS, Wire.NEWDECIMAL, Wire.FLOAT, Wire.DOUBLE))
_STRINGS = (Wire.STRING, Wire.VAR_STRING, Wire.VARCHAR, Wire.BLOB, Wire.VECTOR)
_CHARACTER = frozenset((*_STRINGS, Wire.BLOB_COMPRESSED, Wire.VARCHAR_COMPRESSED))
_META_BYTES = {
    **dict.fromkeys((Wire.FLOAT, Wire.DOUBLE, Wire.BLOB, Wire.BLOB_COMPRESSED), 1),
    **dict.fromkeys((Wire.GEOMETRY, Wire.JSON, Wire.VECTOR), 1),
    **dict.fromkeys((Wire.TIMESTAMP2, Wire.DATETIME2, Wire.TIME2), 1),
    **dict.fromkeys((Wire.VARCHAR, Wire.VARCHAR_COMPRESSED, Wire.BIT), 2),
    **dict.fromkeys((Wire.NEWDECIMAL, Wire.STRING, Wire.VAR_STRING, Wire.ENUM, Wire.SET), 2),
}
_WITHOUT_META = frozenset((*_NUMBERS, Wire.TIMESTAMP, Wire.DATE, Wire.TIME, Wire.DATETIME))
_PRIMARY_KEY_WITH_PREFIX = 9


class TableMap(msgspec.Struct, frozen=True, gc=False):
    """One TABLE_MAP event.

    ``types`` and ``metas`` have one entry per column. ENUM and SET, which the log writes as STRING,
    have their own types here. ``metas`` holds the maximum length in bytes for string types, the
    bytes that the length takes for blob-like types, the size in bytes for ENUM and SET, the number
    of bits for BIT, ``precision << 8 | scale`` for DECIMAL, and the digits of the fraction for
    temporal types. ``nullable`` and ``invisible`` are bit masks by ordinal.

    A field that the log omits is None: ``names``; ``key`` (ordinals of the primary key; empty if
    there is none); ``unsigned``, ``charsets``, ``members`` and ``geometries``, which have one entry
    per column. In these, an entry is None for a column that is not a number, has no characters
    (bytes have the charset ``binary``), is not an ENUM or SET, or is not a geometry.

    ``mysql`` is not in the event: the version of MySQL that has written it, empty for MariaDB.
    """

    table_id: int
    schema: str
    name: str
    types: tuple[int, ...]
    metas: tuple[int, ...]
    nullable: int
    unsigned: tuple[bool | None, ...] | None = None
    charsets: tuple[str | None, ...] | None = None
    names: tuple[str, ...] | None = None
    members: tuple[tuple[bytes, ...] | None, ...] | None = None
    key: tuple[int, ...] | None = None
    geometries: tuple[int | None, ...] | None = None
    invisible: int = 0
    mysql: tuple[int, ...] = ()


def parse_table_map(
    data: bytes, start: int, end: int, *, id_width: int = 6, mariadb: bool = False
) -> TableMap:
    """The table map in ``data[start:end]``: the body of a TABLE_MAP event, without header and
    checksum.

    ``mariadb`` says that the log is MariaDB's: there, geometry columns have a character set, which
    the event itself does not show.

    Raises DecodeError if the bytes are not a table map.
    """
    try:
        return _parse(_Reader(data, start, end), id_width, mariadb)
    except (IndexError, ValueError, KeyError, struct.error) as error:
        raise DecodeError(
            f"a table map event is malformed: {error}",
            hint="the log is damaged at this position, or its server version is not supported",
        ) from error


class _Reader:
    """Reads bytes from ``start`` to ``end``; ValueError for a read past the end."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        if end > len(data) or start > end:
            raise ValueError("it is cut off")
        self.data, self.at, self.end = data, start, end

    def take(self, size: int) -> bytes:
        start = self.at
        if size > self.end - start:
            raise ValueError(f"it ends {size - (self.end - start)} bytes too early")
        self.at = start + size
        return self.data[start : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def packed(self) -> int:
        """A length-encoded integer."""
        first = self.number(1)
        if first < 251:
            return first
        return self.number({252: 2, 253: 3, 254: 8}[first])

    def part(self, size: int) -> _Reader:
        start = self.at
        self.take(size)
        return _Reader(self.data, start, self.at)

    @property
    def more(self) -> bool:
        return self.at < self.end


def _parse(reader: _Reader, id_width: int, mariadb: bool) -> TableMap:
    table_id = reader.number(id_width)
    reader.take(2)  # flags
    schema = reader.take(reader.number(1)).decode()
    reader.take(1)
    name = reader.take(reader.number(1)).decode()
    reader.take(1)
    wires = reader.take(reader.packed())
    metadata = reader.part(reader.packed())
    columns = [_meta(wire, metadata) for wire in wires]
    if metadata.more:
        raise ValueError("the metadata is longer than its columns need")
    nullable = reader.number((len(wires) + 7) // 8) & ((1 << len(wires)) - 1)
    types = tuple(wire for wire, _ in columns)
    metas = tuple(meta for _, meta in columns)
    optional = _Optional(types, _CHARACTER | {Wire.GEOMETRY} if mariadb else _CHARACTER)
    while reader.more:
        kind = reader.number(1)
        field = reader.part(reader.packed())
        if kind in _FIELDS:
            _FIELDS[kind](optional, field)
    return optional.finish(TableMap(table_id, schema, name, types, metas, nullable))


def _meta(wire: int, metadata: _Reader) -> tuple[int, int]:
    """The type and the meta of one column; ENUM and SET are written as STRING."""
    if wire not in _META_BYTES:
        if wire not in _WITHOUT_META:
            raise ValueError(f"the column type {wire} is unknown")
        return wire, 0
    raw = metadata.take(_META_BYTES[wire])
    if wire == Wire.BIT:
        return wire, raw[0] + 8 * raw[1]
    if wire == Wire.NEWDECIMAL:
        return wire, raw[0] << 8 | raw[1]
    if wire in (Wire.VARCHAR, Wire.VARCHAR_COMPRESSED, Wire.VAR_STRING):
        return wire, int.from_bytes(raw, "little")
    if wire in (Wire.STRING, Wire.ENUM, Wire.SET):
        if raw[0] in (Wire.ENUM, Wire.SET):
            return raw[0], raw[1]
        # The upper two bits of a length above 255 are stored inverted in the type byte.
        return Wire.STRING, raw[1] | ((raw[0] & 0x30) ^ 0x30) << 4
    return wire, raw[0]


class _Optional:
    """Collects the optional fields of one table map."""

    def __init__(self, types: tuple[int, ...], character: frozenset[int]) -> None:
        self.types = types
        self.character = character
        self.unsigned: tuple[bool | None, ...] | None = None
        self.charsets: dict[int, str] = {}
        self.names: tuple[str, ...] | None = None
        self.members: dict[int, tuple[bytes, ...]] = {}
        self.key: tuple[int, ...] | None = None
        self.geometries: dict[int, int] = {}
        self.invisible = 0

    def _ordinals(self, of: frozenset[int]) -> list[int]:
        return [ordinal for ordinal, wire in enumerate(self.types) if wire in of]

    def signedness(self, field: _Reader) -> None:
        ordinals = self._ordinals(_NUMERIC)
        bits = _bits(field, len(ordinals))
        unsigned: list[bool | None] = [None] * len(self.types)
        for ordinal, bit in zip(ordinals, bits, strict=True):
            unsigned[ordinal] = bit
        self.unsigned = tuple(unsigned)

    def default_charset(self, field: _Reader) -> None:
        self._default_charset(field, self.character)

    def column_charset(self, field: _Reader) -> None:
        self._column_charset(field, self.character)

    def label_default_charset(self, field: _Reader) -> None:
        self._default_charset(field, _LABELLED)

    def label_column_charset(self, field: _Reader) -> None:
        self._column_charset(field, _LABELLED)

    def _default_charset(self, field: _Reader, of: frozenset[int]) -> None:
        ordinals = self._ordinals(of)
        self.charsets |= dict.fromkeys(ordinals, collation_charset(field.packed()))
        while field.more:
            number = field.packed()
            self.charsets[ordinals[number]] = collation_charset(field.packed())

    def _column_charset(self, field: _Reader, of: frozenset[int]) -> None:
        for ordinal in self._ordinals(of):
            self.charsets[ordinal] = collation_charset(field.packed())

    def column_names(self, field: _Reader) -> None:
        self.names = tuple(field.take(field.packed()).decode() for _ in self.types)

    def set_members(self, field: _Reader) -> None:
        self._read_members(field, Wire.SET)

    def enum_members(self, field: _Reader) -> None:
        self._read_members(field, Wire.ENUM)

    def _read_members(self, field: _Reader, wire: int) -> None:
        for ordinal in self._ordinals(frozenset((wire,))):
            count = field.packed()
            if count > field.end - field.at:
                raise ValueError("there are more labels than bytes")
            self.members[ordinal] = tuple(field.take(field.packed()) for _ in range(count))

    def geometry_types(self, field: _Reader) -> None:
        for ordinal in self._ordinals(frozenset((Wire.GEOMETRY,))):
            self.geometries[ordinal] = field.packed()

    def primary_key(self, field: _Reader) -> None:
        key = []
        while field.more:
            key.append(field.packed())
        self._set_key(key)

    def primary_key_with_prefix(self, field: _Reader) -> None:
        key = []
        while field.more:
            key.append(field.packed())
            field.packed()  # the prefix's length; values are unique if their prefixes are
        self._set_key(key)

    def _set_key(self, key: list[int]) -> None:
        if any(ordinal >= len(self.types) for ordinal in key):
            raise ValueError("the primary key has a column that the table does not have")
        self.key = tuple(key)

    def visibility(self, field: _Reader) -> None:
        for ordinal, visible in enumerate(_bits(field, len(self.types))):
            self.invisible |= (not visible) << ordinal

    def finish(self, table_map: TableMap) -> TableMap:
        """The map with the optional fields.

        The log has the primary key only together with the names. So a map with names and without a
        key belongs to a table without a primary key.
        """
        columns = range(len(self.types))
        return msgspec.structs.replace(
            table_map,
            unsigned=self.unsigned,
            charsets=tuple(map(self.charsets.get, columns)) if self.charsets else None,
            names=self.names,
            members=tuple(map(self.members.get, columns)) if self.members else None,
            key=() if self.key is None and self.names is not None else self.key,
            geometries=tuple(map(self.geometries.get, columns)) if self.geometries else None,
            invisible=self.invisible,
        )


def _bits(field: _Reader, count: int) -> list[bool]:
    """The next ``count`` bits, the highest of each byte first."""
    raw = field.take((count + 7) // 8)
    return [bool(raw[number // 8] & (0x80 >> number % 8)) for number in range(count)]


_LABELLED = frozenset((Wire.ENUM, Wire.SET))
_FIELDS: dict[int, Callable[[_Optional, _Reader], None]] = {
    1: _Optional.signedness,
    2: _Optional.default_charset,
    3: _Optional.column_charset,
    4: _Optional.column_names,
    5: _Optional.set_members,
    6: _Optional.enum_members,
    7: _Optional.geometry_types,
    8: _Optional.primary_key,
    _PRIMARY_KEY_WITH_PREFIX: _Optional.primary_key_with_prefix,
    10: _Optional.label_default_charset,
    11: _Optional.label_column_charset,
    12: _Optional.visibility,
}
