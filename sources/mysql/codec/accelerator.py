"""
Programs for the compiled row decoders (``_accelerator.c``), made of the same cells, or of the same
expressions, as the generated Python.

Its one idea: what the kernel does not know by itself it calls back for, with the very expression
that the generated Python would use, so every table has a program. Whether the kernel is used,
``engine/toolkit/accelerator.py`` decides; nothing but the time that rows take depends on it.
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
from sources.mysql.codec.cells import Cell, count_values, packed_size
from sources.mysql.codec.table_map import TableMap, Wire

try:
    from sources.mysql.codec import _accelerator
except ImportError:
    _built = False
else:
    _built = True

#: Whether rows are decoded by the kernel where nothing else is said.
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

#: Row images in ``data[start:end]`` → rows before, rows after (None: the operation has no such
#: image), and where the last one ends. ValueError and what expressions raise for other bytes.
Decode = Callable[[bytes, int, int], tuple[list[Row] | None, list[Row] | None, int]]

#: Row packets from ``data[start]`` on → their rows, and where the first one stands that is not
#: whole, goes on in another, or is no row. Errors as of ``Decode``.
TakeRows = Callable[[bytes, int], tuple[list[Row], int]]


def row_accelerator(cells: Sequence[Cell], map: TableMap) -> Accelerator | None:
    """The kernel for one table version and one table map; None where Python does without it."""
    return Accelerator(cells, map) if AVAILABLE and wanted() else None


class StoredImage(NamedTuple):
    """One image of an operation: the columns that it holds, as a bit mask by ordinal, and for each
    column the Python text of its value.

    A column that it does not hold is a constant, or ``b<ordinal>``: as in the image before.
    """

    mask: int
    values: Sequence[str]


class _Step(NamedTuple):
    """What is told of one column, as in ``_accelerator.c``; ``object`` is the one that its second
    number is to point to."""

    kind: int
    flags: int = 0
    number: int = 0
    second: int = 0
    object: Any = None

    @property
    def pointed(self) -> bool:
        return self.kind in (_CONSTANT, _LABELS, _CHARMAP, _JSON, _FIXED, _SIZED)


class Accelerator:
    """Makes the kernel's decoders for one table version and one table map."""

    def __init__(self, cells: Sequence[Cell], map: TableMap) -> None:
        self._steps = [
            _step(cell, wire, meta, _NULLABLE if map.nullable >> cell.ordinal & 1 else 0)
            for cell, wire, meta in zip(cells, map.types, map.metas, strict=True)
        ]

    def decoder(self, before: StoredImage | None, after: StoredImage | None) -> Decode:
        """A decoder of an operation with these images, of which there is at least one."""
        return partial(_accelerator.decode_rows, self._plan(before), self._plan(after))

    def _plan(self, image: StoredImage | None) -> tuple[bytes, tuple[Any, ...]] | None:
        if image is None:
            return None
        return _program(
            step if image.mask >> ordinal & 1 else _absent(image.values[ordinal], ordinal)
            for ordinal, step in enumerate(self._steps)
        )


def _program(steps: Iterable[_Step]) -> tuple[bytes, tuple[Any, ...]]:
    """A plan, as ``_accelerator.c`` has it: the steps, and the objects that they point to."""
    program, objects = bytearray(), list[Any]()
    for step in steps:
        second = step.second
        if step.pointed:
            second = len(objects)
            objects.append(step.object)
        program += _STEP.pack(step.kind, step.flags, step.number, second)
    return bytes(program), tuple(objects)


class Text(NamedTuple):
    """A column of a query's result: the Python text that makes a value of its bytes ``raw0``, the
    globals that it needs, and whether one byte is enough for the length of its texts.
    """

    value: str
    names: dict[str, Any]
    short: bool


def text_accelerator(columns: Sequence[Text]) -> TakeRows | None:
    """The kernel for the rows of a query; None where Python does without it."""
    if not (AVAILABLE and wanted()):
        return None
    steps = [_text(it.value, it.names, _SHORT if it.short else 0, 1) for it in columns]
    return partial(_accelerator.take_rows, _program(steps))


def _absent(text: str, ordinal: int) -> _Step:
    if text == f"b{ordinal}":
        return _Step(_BEFORE)
    return _Step(_CONSTANT, object=literal_eval(text))


def _step(cell: Cell, wire: int, meta: int, flags: int) -> _Step:
    """How the kernel reads a column; by its own expression if it does not know it."""
    if cell.prefix:
        return _sized(cell, wire, flags)
    size = packed_size(cell.codes)
    if wire in _INTEGERS:
        unsigned = _UNSIGNED if cell.codes[-1].isupper() else 0
        return _Step(_INTEGER, flags | unsigned, size)
    if wire in _SIMPLE:
        return _Step(_SIMPLE[wire], flags, size)
    if wire == Wire.NEWDECIMAL:
        return _Step(_DECIMAL, flags, meta >> 8, meta & 0xFF)
    if wire in _TEMPORAL:
        return _Step(_TEMPORAL[wire], flags, meta)
    if wire in (Wire.ENUM, Wire.SET):
        (labels,) = cell.names.values()
        return _Step(_LABELS, flags, size, object=labels)
    return _Step(_FIXED, flags, size, object=_expressed(cell))


def _sized(cell: Cell, wire: int, flags: int) -> _Step:
    """The same for a length and data."""
    if wire == Wire.JSON:
        return _Step(_JSON, flags, cell.prefix, object=_expressed(cell))
    return _text(cell.value, cell.names, flags, cell.prefix)


def _text(value: str, names: dict[str, Any], flags: int, prefix: int) -> _Step:
    """The same for a length of ``prefix`` bytes and data, by the expression of its value."""
    simple = {"int(raw0)": _DIGITS, "raw0.decode()": _UTF8, "raw0": _BYTES}
    if value in simple:
        return _Step(simple[value], flags, prefix)
    if value.startswith("charmap_decode(raw0, "):
        table = next(each for each in names.values() if isinstance(each, str))
        if table.startswith(_ASCII):
            return _Step(_CHARMAP, flags, prefix, object=table)
    source = f"def value(raw0):\n    return {value}\n"
    return _Step(_SIZED, flags, prefix, object=compile_function("value", source, names))


def _expressed(cell: Cell) -> Callable[[bytes], Any]:
    """A function: the cell's bytes → its value, by its expression."""
    if cell.prefix:
        source = f"def value(raw0):\n    return {cell.value}\n"
        return compile_function("value", source, cell.names)
    raws = "".join(f"raw{number}, " for number in range(count_values(cell.codes)))
    unpack = struct.Struct(cell.order + cell.codes).unpack
    source = f"def value(data):\n    {raws}= unpack(data)\n    return {cell.value}\n"
    return compile_function("value", source, {"unpack": unpack, **cell.names})
