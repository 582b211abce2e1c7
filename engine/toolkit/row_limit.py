"""
How many rows a comparison reads at once, so that its memory does not depend on their size.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["MOST_READ_BYTES", "RowLimit"]

#: The characters of rows that are read at once on one side.
MOST_READ_BYTES: Final = 16 << 20
#: The rows that are read at first, before their size is known.
_FIRST_ROWS: Final = 10
#: Rows that are read at once are at most so many times as many as before.
_GROWTH: Final = 10


class RowLimit:
    """How many rows are read at once: at most ``most``, and so few that they surely have
    ``MOST_READ_BYTES``, as far as the rows before them tell."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = min(most, _FIRST_ROWS)

    def add(self, rows: Collection[tuple[str | None, ...]]) -> None:
        """Learn the size of rows from those that were read."""
        if rows:
            size = sum(len(text) for row in rows for text in row if text) // len(rows)
            fitting = max(1, MOST_READ_BYTES // max(1, size))
            self.rows = min(self._most, fitting, _GROWTH * self.rows)
