"""
How one column's value lies in a row of the log, and the Python text that reads it.

A cell is either fixed (struct codes) or a length and that many bytes. All that depends on the
column alone is decided here, once per table version; the generated decoder only repeats it.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec

from engine.errors import SchemaError
from engine.schema import Column, Table
from sources.mysql.binary_json import json_text
from sources.mysql.charset import text_expression
from sources.mysql.native import NativeType, parse_native
from sources.mysql.temporal import fixed_size, temporal_expression
from sources.mysql.values import (
    SetText,
    address_text,
    decimal_reader,
    decimal_size,
    ewkb,
    uncompressed,
    uuid_text,
)
from sources.mysql.wire import TableMap, Wire

__all__ = ["SIZES", "Cell", "bytes_expression", "cells", "packed_size"]

#: Struct codes of an unsigned little-endian number, and the number made of them.
SIZES = {
    1: ("B", "{0}"),
    2: ("H", "{0}"),
    3: ("HB", "({0} | {1} << 16)"),
    4: ("I", "{0}"),
    8: ("Q", "{0}"),
}
_INTEGERS = {
    Wire.TINY: ("b", "B"),
    Wire.SHORT: ("h", "H"),
    Wire.LONG: ("i", "I"),
    Wire.LONGLONG: ("q", "Q"),
    Wire.INT24: ("Hb", "HB"),
}
_NEW_TEMPORAL = (Wire.TIME2, Wire.DATETIME2, Wire.TIMESTAMP2)
_TEMPORAL = (Wire.DATE, Wire.TIME, Wire.DATETIME, Wire.TIMESTAMP, *_NEW_TEMPORAL)
_ADDRESSES = {"inet4": socket.AF_INET, "inet6": socket.AF_INET6}


class Cell(msgspec.Struct, frozen=True):
    """One column in a row image.

    ``codes`` are struct codes; ``value`` is the expression with ``{0}``, ``{1}`` in place of what
    they unpack to. Where ``prefix`` is not 0 the cell is a length of that many bytes and data:
    ``{0}`` is then the data. ``names`` are the globals that the expression needs.
    """

    ordinal: int
    value: str
    codes: str = ""
    prefix: int = 0
    names: dict[str, Any] = {}


def cells(table: Table, map: TableMap) -> tuple[Cell, ...]:
    """One cell per column; SchemaError if a column cannot be read as the map says."""
    return tuple(
        _cell(table, column, ordinal, map.types[ordinal], map.metas[ordinal], map)
        for ordinal, column in enumerate(table.columns)
    )


def _cell(table: Table, column: Column, ordinal: int, wire: int, meta: int, map: TableMap) -> Cell:
    native = parse_native(column.native)
    if wire in _INTEGERS:
        codes = _INTEGERS[wire][native.unsigned]
        return Cell(ordinal, "{0}" if len(codes) == 1 else "{0} | {1} << 16", codes)
    if wire in (Wire.FLOAT, Wire.DOUBLE):
        return Cell(ordinal, "{0}", "f" if wire == Wire.FLOAT else "d")
    if wire == Wire.YEAR:
        return Cell(ordinal, "{0} and {0} + 1900", "B")
    if wire == Wire.BIT:
        return Cell(ordinal, "from_bytes({0}, 'big')", f"{(meta + 7) // 8}s")
    if wire == Wire.NEWDECIMAL:
        return _decimal(ordinal, meta >> 8, meta & 0xFF)
    if wire in _TEMPORAL:
        digits = meta if wire in _NEW_TEMPORAL else native.fraction
        expression, names = temporal_expression(wire, digits, "{0}")
        return Cell(ordinal, expression, f"{fixed_size(wire, digits)}s", names=names)
    if wire in (Wire.ENUM, Wire.SET):
        return _labels(ordinal, wire, meta, native.members)
    charset = native.charset
    if not charset and map.charsets is not None and column.type.kind == "text":
        charset = map.charsets[ordinal] or ""
    expression, names = bytes_expression(table, column, native, charset, "{0}")
    return _bytes(ordinal, wire, meta, expression, names)


def _decimal(ordinal: int, precision: int, scale: int) -> Cell:
    name = f"decimal_{precision}_{scale}"
    names = {name: decimal_reader(precision, scale)}
    return Cell(ordinal, f"{name}({{0}})", f"{decimal_size(precision, scale)}s", names=names)


def _labels(ordinal: int, wire: int, size: int, members: tuple[str, ...]) -> Cell:
    codes, number = SIZES[size]
    # Index 0 is what the server stores for a value that is no member.
    labels = ("", *members) if wire == Wire.ENUM else SetText(members)
    name = f"labels_{ordinal}"
    return Cell(ordinal, f"{name}[{number}]", codes, names={name: labels})


def _bytes(ordinal: int, wire: int, meta: int, expression: str, names: dict[str, Any]) -> Cell:
    if wire in (Wire.STRING, Wire.VAR_STRING, Wire.VARCHAR, Wire.VARCHAR_COMPRESSED):
        prefix = 1 if meta < 256 else 2
    else:
        prefix = meta
    if wire in (Wire.VARCHAR_COMPRESSED, Wire.BLOB_COMPRESSED):
        expression = expression.replace("{0}", "uncompressed({0})")
        names = {**names, "uncompressed": uncompressed}
    if wire == Wire.JSON:
        expression, names = "json_text({0})", {"json_text": json_text}
    if prefix not in (1, 2, 3, 4):
        raise ValueError(f"a length of {prefix} bytes cannot be")
    return Cell(ordinal, expression, prefix=prefix, names=names)


def bytes_expression(
    table: Table, column: Column, native: NativeType, charset: str, raw: str
) -> tuple[str, dict[str, Any]]:
    """The expression that makes a value of the stored bytes ``raw``, and its names.

    For everything that is made of characters or bytes; the snapshot reads the same bytes.
    """
    kind = column.type.kind
    if kind == "geometry":
        return f"ewkb({raw})", {"ewkb": ewkb}
    if kind == "uuid":
        return f"uuid_text({raw})", {"uuid_text": uuid_text}
    if native.base in _ADDRESSES:
        name = f"{native.base}_text"
        return f"{name}({raw})", {name: address_text(_ADDRESSES[native.base])}
    if native.base == "binary":
        # The log leaves trailing zero bytes out.
        return f"{raw}.ljust({native.length}, b'\\0')", {}
    if kind == "binary":
        return raw, {}
    if kind == "json":
        return f"{raw}.decode()", {}
    if not charset:
        raise SchemaError(
            f"the character set of the column {column.name} is not known",
            hint="Set binlog_row_metadata=FULL on the source, or name the character set in the "
            "table's definition.",
            table=table.id,
        )
    return text_expression(charset, raw)


def packed_size(codes: str) -> int:
    """Bytes that the struct codes take in a row."""
    return struct.calcsize("<" + codes)
