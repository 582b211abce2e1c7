"""
Rows with values of many megabytes as COPY text: such a value is written slice by slice, so that its
text never exists as a whole.

The encoder of the table writes the row with a mark in the place of each large value.
"""

from __future__ import annotations

import secrets
from binascii import hexlify
from collections.abc import Callable, Iterator, Mapping

from engine.change import Row

__all__ = ["large_pieces", "text_size"]

#: Characters or bytes of a large value that are written at once.
SLICE = 512 * 1024

#: A text as COPY text; None for bytes, which are written as hexadecimal digits.
WriteText = Callable[[str], bytes]


def large_pieces(
    row: Row,
    columns: Mapping[int, WriteText | None],
    encode: Callable[[Row], bytes],
    limit: int,
) -> Iterator[bytes]:
    """COPY text of ``row``. The values at the positions of ``columns`` that are larger than
    ``limit`` are left out of the row that ``encode`` gets.
    """
    marked, marks = list(row), {}
    for position in columns:
        value = row[position]
        if isinstance(value, str | bytes) and len(value) > limit:
            mark = secrets.token_hex(16)
            marked[position] = mark if isinstance(value, str) else bytes.fromhex(mark)
            marks[position] = mark.encode()
    rest = encode(tuple(marked))
    for position in sorted(marks, key=lambda position: rest.index(marks[position])):
        before, _, rest = rest.partition(marks[position])
        yield before
        yield from _slices(row[position], columns[position])
    yield rest


def _slices(value: str | bytes, write: WriteText | None) -> Iterator[bytes]:
    for start in range(0, len(value), SLICE):
        part = value[start : start + SLICE]
        yield hexlify(part) if isinstance(part, bytes) else write(part) if write else part.encode()


def text_size(row: Row) -> int:
    """The least size of the row's COPY text."""
    return sum(
        2 * len(value) if isinstance(value, bytes) else len(value)
        for value in row
        if isinstance(value, str | bytes)
    )
