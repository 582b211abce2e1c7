"""
Programs for the C accelerator of the row decoders (``_accelerator.c``).

A program has one step per column, made from the same cells or expressions as the generated Python.
The accelerator reads the usual kinds of columns itself. For any other column the step calls the
expression that the generated Python uses, so every table has a program.

``engine/toolkit/accelerator.py`` decides whether the accelerator is used. Rows and errors are the
same without it; only the time differs.
"""

from __future__ import annotations

import struct
from ast import literal_eval
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from engine.change import Row
from engine.toolkit.accelerator import ALLOWED, wanted
from engine.toolkit.codegen import compile_function
from sources.mysql.codec.binary_json import json_text_of_5_7
from sources.mysql.codec.cells import YEAR_2, Cell, count_values, packed_size
from sources.mysql.codec.table_map import TableMap, Wire

try:
    from sources.mysql.codec import _accelerator
except ImportError:
    _built = False
else:
    _built = True

#: Whether the accelerator is built and the environment allows it.
AVAILABLE = _built and ALLOWED

__all__ = [
    "AVAILABLE",
    "Decode",
    "Accelerator",
    "StoredImage",
    "TakeRows",
    "Text",
    "row_accelerator",
    "text_accelerator",
    "value_function",
]

# The kinds of columns, numbered as in _accelerator.c.
_CONSTANT, _BEFORE, _INTEGER, _FLOAT32, _FLOAT64, _YEAR, _BIT, _DECIMAL, _DATE = range(9)
_DATETIME2, _TIMESTAMP2, _TIME2, _LABELS = range(9, 13)
_UTF8, _BYTES, _CHARMAP, _JSON, _FIXED, _SIZED, _DIGITS = range(13, 20)
_NULLABLE, _UNSIGNED, _SHORT = 1, 2, 4
_STEP = struct.Struct("=BBHI")

_INTEGERS = (Wire.TINY, Wire.SHORT, Wire.INT24, Wire.LONG, Wire.LONGLONG)
# Kinds whose number is their size in bytes, or that need none.
_SIMPLE = {
    Wire.FLOAT: _FLOAT32,
    Wire.DOUBLE: _FLOAT64,
    Wire.YEAR: _YEAR,
    Wire.DATE: _DATE,
    Wire.BIT: _BIT,
}
_TEMPORAL = {Wire.DATETIME2: _DATETIME2, Wire.TIMESTAMP2: _TIMESTAMP2, Wire.TIME2: _TIME2}
_ASCII = bytes(range(128)).decode()

#: ``(data, start, end)`` → the rows before, the rows after (None where the operation has no such
#: image), and the position after the last row image. Raises ValueError, or what a column's
#: expression raises, for bytes that are not row images.
Decode = Callable[[bytes, int, int], tuple[list[Row] | None, list[Row] | None, int]]

#: ``(data, start)`` → the rows of the packets from ``start`` on, and the position of the first
#: packet that is incomplete, continues in another packet, or is not a row. Raises as ``Decode``.
TakeRows = Callable[[bytes, int], tuple[list[Row], int]]


def row_accelerator(cells: Sequence[Cell], map: TableMap) -> Accelerator | None:
    """The accelerator for one table version and one table map; None where it is not used."""
    return Accelerator(cells, map) if AVAILABLE and wanted() else None


class StoredImage(NamedTuple):
    """One image of an operation: ``mask`` has a bit per column that the image holds, by ordinal;
    ``values`` has the Python text of each column's value.

    The text of a column that the image does not hold is a constant, or ``b<ordinal>`` for the value
    in the before image.
    """

    mask: int
    values: Sequence[str]


class _Step(NamedTuple):
    """One column of a program, see ``Step`` in ``_accelerator.c``: ``number`` is its ``a``,
    ``second`` its ``b``. For kinds that use a Python object, ``b`` is the index of ``object``."""

    kind: int
    flags: int = 0
    number: int = 0
    second: int = 0
    object: Any = None

    @property
    def has_object(self) -> bool:
        """Whether ``b`` is the index of an object."""
        return self.kind in (_CONSTANT, _LABELS, _CHARMAP, _JSON, _FIXED, _SIZED)


class Accelerator:
    """Makes the accelerated decoders for one table version and one table map."""

    def __init__(self, cells: Sequence[Cell], map: TableMap) -> None:
        self._steps = [
            _step(cell, wire, meta, _NULLABLE if map.nullable >> cell.ordinal & 1 else 0)
            for cell, wire, meta in zip(cells, map.types, map.metas, strict=True)
        ]

    def decoder(self, before: StoredImage | None, after: StoredImage | None) -> Decode:
        """The decoder of an operation with these images; at least one is not None."""
        return partial(_accelerator.decode_rows, self._plan(before), self._plan(after))

    def _plan(self, image: StoredImage | None) -> tuple[bytes, tuple[Any, ...]] | None:
        if image is None:
            return None
        return _program(
            step if image.mask >> ordinal & 1 else _absent(image.values[ordinal], ordinal)
            for ordinal, step in enumerate(self._steps)
        )


def _program(steps: Iterable[_Step]) -> tuple[bytes, tuple[Any, ...]]:
    """A plan of ``_accelerator.c``: the packed steps, and the objects that they index."""
    program, objects = bytearray(), list[Any]()
    for step in steps:
        second = step.second
        if step.has_object:
            second = len(objects)
            objects.append(step.object)
        program += _STEP.pack(step.kind, step.flags, step.number, second)
    return bytes(program), tuple(objects)


class Text(NamedTuple):
    """A column of a query's result.

    ``value`` is the expression that makes the value from its bytes ``raw0``, ``names`` are the
    globals that the expression needs. ``short``: the length of the text always takes one byte.
    """

    value: str
    names: dict[str, Any]
    short: bool


def text_accelerator(columns: Sequence[Text]) -> TakeRows | None:
    """The accelerated decoder of a query's rows; None where the accelerator is not used."""
    if not (AVAILABLE and wanted()):
        return None
    steps = [
        _text(column.value, column.names, _SHORT if column.short else 0, 1) for column in columns
    ]
    return partial(_accelerator.take_rows, _program(steps))


def _absent(text: str, ordinal: int) -> _Step:
    """The step of a column that the image does not hold; ``text`` is its value."""
    if text == f"b{ordinal}":
        return _Step(_BEFORE)
    return _Step(_CONSTANT, object=literal_eval(text))


def _step(cell: Cell, wire: int, meta: int, flags: int) -> _Step:
    """The step that reads a column; it calls the cell's expression for kinds unknown to C."""
    if cell.prefix:
        return _sized(cell, wire, flags)
    size = packed_size(cell.codes)
    if wire in _INTEGERS:
        unsigned = _UNSIGNED if cell.codes[-1].isupper() else 0
        return _Step(_INTEGER, flags | unsigned, size)
    if wire in _SIMPLE and cell.value != YEAR_2:
        return _Step(_SIMPLE[wire], flags, size)
    if wire == Wire.NEWDECIMAL:
        return _Step(_DECIMAL, flags, meta >> 8, meta & 0xFF)
    if wire in _TEMPORAL:
        return _Step(_TEMPORAL[wire], flags, meta)
    if wire in (Wire.ENUM, Wire.SET):
        (labels,) = cell.names.values()
        return _Step(_LABELS, flags, size, object=labels)
    return _Step(_FIXED, flags, size, object=value_function(cell))


def _sized(cell: Cell, wire: int, flags: int) -> _Step:
    """The step of a column that is stored as a length and data."""
    if wire == Wire.JSON and json_text_of_5_7.__name__ not in cell.names:
        return _Step(_JSON, flags, cell.prefix, object=value_function(cell))
    return _text(cell.value, cell.names, flags, cell.prefix)


def _text(value: str, names: dict[str, Any], flags: int, prefix: int) -> _Step:
    """The step of a length of ``prefix`` bytes and data, chosen by the value's expression."""
    simple = {"int(raw0)": _DIGITS, "raw0.decode()": _UTF8, "raw0": _BYTES}
    if value in simple:
        return _Step(simple[value], flags, prefix)
    if value.startswith("charmap_decode(raw0, "):
        table = next(each for each in names.values() if isinstance(each, str))
        if table.startswith(_ASCII):
            return _Step(_CHARMAP, flags, prefix, object=table)
    source = f"def value(raw0):\n    return {value}\n"
    return _Step(_SIZED, flags, prefix, object=compile_function("value", source, names))


def value_function(cell: Cell) -> Callable[[bytes], Any]:
    """A function that makes the value from the cell's bytes by the cell's expression."""
    if cell.prefix:
        source = f"def value(raw0):\n    return {cell.value}\n"
        return compile_function("value", source, cell.names)
    raws = "".join(f"raw{number}, " for number in range(count_values(cell.codes)))
    unpack = struct.Struct(cell.order + cell.codes).unpack
    source = f"def value(data):\n    {raws}= unpack(data)\n    return {cell.value}\n"
    return compile_function("value", source, {"unpack": unpack, **cell.names})
