"""
Programs for the accelerator of the COPY encoder (``_accelerator.c``).

A program describes the columns that the generated encoder (``copy.py``) writes, eight bytes for
each. A table has a program only if the accelerator knows the types of all its columns: those are
all types but arrays, and bit strings of more than 64 bits. ``engine.toolkit.accelerator`` decides
whether it is used. Only the speed depends on it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from engine.change import Row
from engine.databases.postgres.types import TEMPORAL, TEXTUAL
from engine.schema import Column, Kind, Type
from engine.toolkit.accelerator import ALLOWED, wanted

try:
    from sinks.postgres import _accelerator
except ImportError:
    _built = False
else:
    _built = True

__all__ = ["AVAILABLE", "Encode", "copy_accelerator"]

#: Whether the accelerator encodes rows, unless ``python_only`` is in effect.
AVAILABLE = _built and ALLOWED

# How a column is written; _accelerator.c has the same numbers.
_PLAIN, _TEXT, _DAY, _FLOAT, _BOOLEAN, _BITS, _HEX, _SIGNED, _FLAG = range(9)
_NULLABLE = 1
_STEP = struct.Struct("=BBHI")
_MAX_BITS = 64

_PLAIN_KINDS: tuple[Kind, ...] = (
    *("int8", "int16", "int24", "int32", "int64"),
    *("uint8", "uint16", "uint24", "uint32", "uint64"),
    *("decimal", "time", "interval", "uuid"),
)
_WRITTEN: dict[str, int] = {
    **dict.fromkeys(_PLAIN_KINDS, _PLAIN),
    **dict.fromkeys(TEXTUAL, _TEXT),
    **dict.fromkeys(TEMPORAL, _DAY),
    **dict.fromkeys(("float32", "float64"), _FLOAT),
    **dict.fromkeys(("binary", "geometry"), _HEX),
    "boolean": _BOOLEAN,
    "bit": _BITS,
}

#: By the kind of a column, and the kind as which it is stored.
_NARROWED = {("uint64", "int64"): _SIGNED, ("int8", "boolean"): _FLAG}

#: From ``rows, start, stop`` to the COPY text of ``rows[start:stop]``; None if the generated Python
#: must encode these rows.
Encode = Callable[[Sequence[Row], int, int], bytes | None]


def copy_accelerator(columns: Iterable[tuple[int, Column, Type]], width: int) -> Encode | None:
    """The accelerated encoder of these columns, each with its position in rows of ``width`` values
    and the type as which it is stored; None if only the generated Python encodes them."""
    if not (AVAILABLE and wanted()):
        return None
    program = bytearray()
    for position, column, stored in columns:
        kind = _NARROWED.get((column.type.kind, stored.kind), _WRITTEN.get(stored.kind))
        bits = 0
        if kind == _BITS:
            bits = column.type.length or 1
        if kind is None or bits > _MAX_BITS:
            return None
        nullable = column.nullable or kind == _TEXT
        program += _STEP.pack(kind, _NULLABLE if nullable else 0, bits, position)
    return partial(_accelerator.encode_rows, bytes(program), width)
