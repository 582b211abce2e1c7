"""
Counts the rows of tables that are selected but cannot be followed, for a log without a server.

The columns of such a table may be unknown. A table map has their storage types, which is enough to
tell the rows of an event apart.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.errors import DecodeError, SchemaError
from engine.schema import TableId
from sources.mysql.binlog.compression import decompressed_rows
from sources.mysql.binlog.events import (
    MARIADB_WRITE_ROWS_COMPRESSED_1,
    PARTIAL_UPDATE_ROWS,
    ROWS,
    read_table_name,
)
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_map import Wire
from sources.mysql.codec.table_match import TableMap, parse_table_map, table_from_map
from sources.mysql.position import file_number

__all__ = ["PassedOver", "count_rows", "row_decoder"]

#: Types whose values are not read: the type that takes as many bytes.
_LABELS: Final = {1: Wire.TINY, 2: Wire.SHORT, 3: Wire.INT24, 4: Wire.LONG, 8: Wire.LONGLONG}
_OPAQUE: Final = frozenset((Wire.JSON, Wire.GEOMETRY))


class PassedOver:
    """The number of rows by table, over all attempts of a run: a later attempt reads a part of the
    log again.
    """

    def __init__(self) -> None:
        self.rows: dict[TableId, int] = {}
        self._decoders: dict[bytes, tuple[TableId, RowDecoder | None]] = {}
        self._counted = self._newest = (0, 0)

    def __bool__(self) -> bool:
        return bool(self._decoders)

    def begin(self) -> None:
        """Begin an attempt."""
        self._counted = self._newest
        self._decoders.clear()

    def meet(self, event: bytes, end: int) -> None:
        """Count the rows that follow this table map."""
        id = TableId(*read_table_name(event, end))
        self._decoders[event[19:25]] = id, row_decoder(event, end)

    def count(self, kind: int, event: bytes, end: int, place: tuple[str, int]) -> None:
        """Count the rows of an event, if they belong to such a table. ``place`` is the event's."""
        found = self._decoders.get(event[19:25])
        here = file_number(place[0]), place[1]
        if found is None or here <= self._counted:
            return
        self._newest = here
        id, decoder = found
        self.rows[id] = self.rows.get(id, 0) + (count_rows(decoder, kind, event, end) or 1)


def count_rows(decoder: RowDecoder | None, kind: int, event: bytes, end: int) -> int | None:
    """The number of rows in an event; None if they cannot be told apart, such as partial images."""
    if decoder is None or kind == PARTIAL_UPDATE_ROWS:
        return None
    op, version = ROWS[kind]
    start = 27 if version == 1 else 27 + (event[27] | event[28] << 8)
    try:
        if kind >= MARIADB_WRITE_ROWS_COMPRESSED_1:
            event = decompressed_rows(event, start, end, 2 if op == "update" else 1)
            start, end = 0, len(event)
        return len(decoder.decode(op, event, start, end))
    except (DecodeError, SchemaError):
        return None


def row_decoder(event: bytes, end: int) -> RowDecoder | None:
    """A decoder for rows after a table map, of columns without names and meaning; None if they
    cannot be told apart.
    """
    try:
        return _decoder_of(parse_table_map(event, 19, end))
    except (DecodeError, SchemaError):
        return None


def _decoder_of(map: TableMap) -> RowDecoder:
    types = tuple(_plain(wire, meta) for wire, meta in zip(map.types, map.metas, strict=True))
    plain = msgspec.structs.replace(
        map,
        types=types,
        names=tuple(f"c{ordinal}" for ordinal in range(len(types))),
        key=(),
        unsigned=None,
        charsets=None,
        members=None,
        geometries=None,
    )
    return RowDecoder(table_from_map(plain, None), plain)


def _plain(wire: int, meta: int) -> int:
    if wire in (Wire.ENUM, Wire.SET):
        return _LABELS.get(meta, wire)
    return Wire.BLOB if wire in _OPAQUE else wire
