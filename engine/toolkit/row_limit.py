"""
How many rows a comparison reads at once, so that its memory does not depend on their size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

__all__ = ["MOST_READ_BYTES", "RowLimit", "batches_of", "first_of", "is_large", "size_of"]

#: The characters of rows after which a read ends. So many rows are asked for that they have half of
#: them, because rows differ in size.
MOST_READ_BYTES: Final = 16 << 20
#: The rows that are read at first, before their size is known.
_FIRST_ROWS: Final = 10
#: Rows that are read at once are at most so many times as many as before.
_GROWTH: Final = 10

_Row = tuple[str | None, ...]


class RowLimit:
    """How many rows are read at once: at most ``most``, and so few that they have half of
    ``MOST_READ_BYTES``, as far as the rows before them tell."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = min(most, _FIRST_ROWS)

    def add(self, rows: Collection[_Row]) -> None:
        """Learn the size of rows from those that were read."""
        if rows:
            size = sum(map(size_of, rows)) // len(rows)
            fitting = max(1, MOST_READ_BYTES // 2 // max(1, size))
            self.rows = min(self._most, fitting, _GROWTH * self.rows)


def first_of(rows: Iterator[_Row], key: Sequence[int]) -> tuple[list[_Row], bool]:
    """The first rows, which have little more than ``MOST_READ_BYTES``, and whether there are more.
    Rows that follow each other with the same values of ``key`` are not parted."""
    found: list[_Row] = []
    size = 0
    for row in rows:
        if size >= MOST_READ_BYTES and any(row[n] != found[-1][n] for n in key):
            return found, True
        found.append(row)
        size += size_of(row)
    return found, False


def batches_of(rows: Iterator[_Row], most: int) -> Iterator[list[_Row]]:
    """All rows, in lists of at most ``most``, which have little more than ``MOST_READ_BYTES``."""
    batch: list[_Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += size_of(row)
        if len(batch) >= most or size >= MOST_READ_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def is_large(size: int) -> bool:
    """Whether rows with so many characters should not be held with others."""
    return size >= MOST_READ_BYTES


def size_of(row: _Row) -> int:
    """The characters of a row."""
    return sum(map(len, filter(None, row)))
