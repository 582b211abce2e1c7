"""
How a column's value is stored in a row image, and the Python expression that reads it.

A cell has either a fixed size (struct codes), or a length and that many bytes. Everything that
depends on the column alone is decided here, once per table version and table map. The row decoder
(``rows``) and the accelerator are both made from the cells. To read a new column type, start here.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from engine.databases.mysql.charset import text_expression
from engine.databases.mysql.types import MySQLType, parse_type
from engine.errors import DecodeError, SchemaError
from engine.schema import Column, Table
from sources.mysql.codec.binary_json import json_printer
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.codec.table_map import TableMap, Wire
from sources.mysql.codec.temporal import temporal_expression
from sources.mysql.codec.values import (
    SetText,
    address_text,
    big_endian,
    decimal_expression,
    ewkb,
    uncompressed,
    uuid_text,
)

__all__ = [
    "SIZES",
    "YEAR_2",
    "Cell",
    "bytes_expression",
    "cells",
    "count_values",
    "label_texts",
    "packed_size",
]

#: The value of a ``YEAR(2)``: two digits, as the server prints it.
YEAR_2 = "raw0 % 100"

#: Size in bytes of an unsigned little-endian number → its struct codes, and the expression.
SIZES = {
    1: ("B", "raw0"),
    2: ("H", "raw0"),
    3: ("HB", "(raw0 | raw1 << 16)"),
    4: ("I", "raw0"),
    8: ("Q", "raw0"),
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

    ``codes`` are struct codes in the byte order ``order``. ``value`` is the expression that makes
    the column's value; ``raw0``, ``raw1``, … stand for the values that the codes unpack to. Where
    ``prefix`` is not 0 the cell is a length of that many bytes and data, and ``raw0`` is the data.
    ``names`` are the globals that the expression needs.
    """

    ordinal: int
    value: str
    codes: str = ""
    prefix: int = 0
    names: dict[str, Any] = {}
    order: Literal["<", ">"] = "<"

    def stored(self) -> tuple[Literal["<", ">"], str]:
        """Byte order and struct codes of the part of fixed size: the value, or its length."""
        return (self.order, self.codes) if not self.prefix else ("<", SIZES[self.prefix][0])


def cells(table: Table, map: TableMap, invalid_text: InvalidText | None = None) -> tuple[Cell, ...]:
    """One cell per column. Text is decoded strictly, unless ``invalid_text`` is given.

    Raises SchemaError for a column whose character set is not known, ValueError or KeyError for
    one that cannot be read as the map says.
    """
    return tuple(_cell(table, ordinal, map, invalid_text) for ordinal in range(len(table.columns)))


def _cell(table: Table, ordinal: int, map: TableMap, invalid_text: InvalidText | None) -> Cell:
    column, wire, meta = table.columns[ordinal], map.types[ordinal], map.metas[ordinal]
    source_type = parse_type(column.source_type)
    if wire in _INTEGERS:
        codes = _INTEGERS[wire][source_type.unsigned]
        return Cell(ordinal, "raw0" if len(codes) == 1 else "raw0 | raw1 << 16", codes)
    if wire in (Wire.FLOAT, Wire.DOUBLE):
        return Cell(ordinal, "raw0", "f" if wire == Wire.FLOAT else "d")
    if wire == Wire.YEAR and source_type.length == 2:
        return Cell(ordinal, YEAR_2, "B")
    if wire == Wire.YEAR:
        return Cell(ordinal, "raw0 and raw0 + 1900", "B")
    if wire == Wire.BIT:
        codes, number = big_endian((meta + 7) // 8)
        return Cell(ordinal, number, codes, order=">")
    if wire == Wire.NEWDECIMAL:
        codes, expression, names = decimal_expression(meta >> 8, meta & 0xFF)
        return Cell(ordinal, expression, codes, names=names, order=">")
    if wire in _TEMPORAL:
        digits = meta if wire in _NEW_TEMPORAL else source_type.fraction
        order, codes, expression, names = temporal_expression(wire, digits)
        return Cell(ordinal, expression, codes, names=names, order=order)
    if wire in (Wire.ENUM, Wire.SET):
        return _labels(ordinal, meta, source_type)
    charset = source_type.encoding
    if not charset and map.charsets is not None and column.type.kind == "text":
        charset = map.charsets[ordinal] or ""
    expression, names = bytes_expression(table, column, source_type, charset, "raw0", invalid_text)
    if wire == Wire.JSON:
        function = json_printer(map.mysql)
        expression, names = f"{function.__name__}(raw0)", {function.__name__: function}
    return _bytes(ordinal, wire, meta, expression, names)


def _labels(ordinal: int, size: int, source_type: MySQLType) -> Cell:
    codes, number = SIZES[size]
    name = f"labels_{ordinal}"
    return Cell(ordinal, f"{name}[{number}]", codes, names={name: label_texts(source_type)})


def label_texts(source_type: MySQLType) -> Sequence[str] | SetText:
    """The text of each value of an ENUM or SET, by the number that the server stores."""
    if source_type.base == "enum":
        return ("", *source_type.members)  # 0 is the number of an invalid value
    return SetText(source_type.members)


def _bytes(ordinal: int, wire: int, meta: int, expression: str, names: dict[str, Any]) -> Cell:
    if wire in (Wire.STRING, Wire.VAR_STRING, Wire.VARCHAR, Wire.VARCHAR_COMPRESSED):
        prefix = 1 if meta < 256 else 2
    else:
        prefix = meta
    if wire in (Wire.VARCHAR_COMPRESSED, Wire.BLOB_COMPRESSED):
        expression = expression.replace("raw0", "uncompressed(raw0)")
        names = {**names, "uncompressed": uncompressed}
    if prefix not in (1, 2, 3, 4):
        raise ValueError(f"a length of {prefix} bytes is invalid")
    return Cell(ordinal, expression, prefix=prefix, names=names)


def bytes_expression(
    table: Table,
    column: Column,
    source_type: MySQLType,
    charset: str,
    raw: str,
    invalid_text: InvalidText | None = None,
) -> tuple[str, dict[str, Any]]:
    """The expression that makes a value from the stored bytes ``raw``, and its names.

    It serves all types that are stored as characters or bytes. The snapshot uses it, too: it reads
    the same bytes (``sources.mysql.snapshot.text_rows``).
    """
    kind = column.type.kind
    if kind == "geometry":
        return f"ewkb({raw})", {"ewkb": ewkb}
    if kind == "uuid":
        return f"uuid_text({raw})", {"uuid_text": uuid_text}
    if source_type.base in _ADDRESSES:
        name = f"{source_type.base}_text"
        return f"{name}({raw})", {name: address_text(_ADDRESSES[source_type.base])}
    if source_type.base == "binary":
        # The log omits trailing zero bytes.
        return f"{raw}.ljust({source_type.length}, b'\\0')", {}
    if kind == "binary":
        return raw, {}
    if kind == "json":
        return f"{raw}.decode()", {}
    if not charset:
        raise SchemaError(
            f"the character set of the column {column.name} is unknown",
            hint="SET GLOBAL binlog_row_metadata = 'FULL' on the source, or name the character set"
            " in the table's definition",
            table=table.id,
        )
    try:
        decode = invalid_text and invalid_text.decoder(table, column, charset)
        if decode:
            name = f"text_{table.ordinal(column.name)}"
            return f"{name}({raw})", {name: decode}
        return text_expression(charset, raw)
    except DecodeError as error:
        message = f"the column {column.name}: {error.message}"
        raise SchemaError(message, hint=error.hint, table=table.id) from error


def packed_size(codes: str) -> int:
    """The size in bytes of the struct codes; they have no padding."""
    return struct.calcsize("<" + codes)


def count_values(codes: str) -> int:
    """The number of values that the struct codes unpack to; they hold no pad bytes."""
    return sum(map(str.isalpha, codes))
