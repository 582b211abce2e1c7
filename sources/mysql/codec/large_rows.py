"""
Large rows of a large event, read value by value.

The event's memory is given back while its values are made (``large_event``), so the rows take the
place of the event. A large value that an update has not changed is one object in both images.
Values are made by the expressions of the generated decoder (``cells``), so they are the same. That
is slow for each value, but an event with large rows has few of them.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Collection, Sequence
from typing import Any, Final

from engine.change import Row
from sources.mysql.codec.accelerator import StoredImage, value_function
from sources.mysql.codec.cells import Cell, packed_size
from sources.mysql.codec.large_event import LargeEvent

__all__ = ["LargeRows"]

#: Values of this size are kept once if they are equal.
_LARGE: Final = 1 << 20

#: An event has large rows if its first row has this size. An event that begins with a smaller row
#: is at most as large as ``binlog_row_event_max_size``: the server puts a row that would exceed it
#: into another event.
LARGE_ROW_BYTES: Final = 1 << 20

#: Where the stored values of an image begin and end, by ordinal; None for NULL.
_Spans = dict[int, tuple[int, int] | None]


class LargeRows:
    """Reads the rows of one operation, which has these images."""

    def __init__(
        self,
        cells: Sequence[Cell],
        nullable: int,
        before: StoredImage | None,
        after: StoredImage | None,
    ) -> None:
        self._before = None if before is None else _Image(cells, nullable, before)
        self._after = None if after is None else _Image(cells, nullable, after)
        self._images = [it for it in (self._before, self._after) if it is not None]

    @property
    def ordinal(self) -> int | None:
        """The column whose value was being made when an error was raised; None if there is none."""
        return next((it.ordinal for it in self._images if it.ordinal is not None), None)

    def begins(self, event: LargeEvent, at: int, end: int) -> bool:
        """Whether the row at ``at``, with all of its images, is large."""
        start = at
        try:
            for image in self._images if at < end else ():
                _, at = image.spans(event, at, end)
        except ValueError:  # the decoder of small rows tells what is wrong
            return False
        return at - start >= LARGE_ROW_BYTES

    def decode(
        self, event: LargeEvent, at: int, end: int
    ) -> tuple[list[Row] | None, list[Row] | None, int]:
        """The rows from ``at`` to ``end``, as ``Decode`` of the accelerator; for the last time."""
        before, after = self._before, self._after
        befores, afters = list[Row](), list[Row]()
        for image in self._images:
            image.ordinal = None
        while at < end:
            old, old_spans, spans = None, _Spans(), _Spans()
            if before is not None:
                old_spans, at = before.spans(event, at, end)
            if after is not None:
                spans, at = after.spans(event, at, end)
            # They are compared before the event loses the values before.
            same = [n for n, span in spans.items() if _is_same(event, old_spans.get(n), span)]
            if before is not None:
                old = before.row(event, old_spans)
                befores.append(old)
            if after is not None:
                afters.append(after.row(event, spans, old, same))
        return None if before is None else befores, None if after is None else afters, at


def _is_same(event: LargeEvent, one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    """Whether both are large values with the same bytes."""
    if one is None or other is None:
        return False
    size = one[1] - one[0]
    return size >= _LARGE and size == other[1] - other[0] and event.same(one[0], other[0], size)


class _Image:
    """One image of an operation. ``ordinal`` is as in ``LargeRows``."""

    def __init__(self, cells: Sequence[Cell], nullable: int, stored: StoredImage) -> None:
        self.ordinal: int | None = None
        self._width = len(cells)
        self._cells = [
            (cell, 0 if cell.prefix else packed_size(cell.codes), nullable >> cell.ordinal & 1)
            for cell in cells
            if stored.mask >> cell.ordinal & 1
        ]
        self._make = {cell.ordinal: value_function(cell) for cell, _, _ in self._cells}
        absent = [n for n in range(self._width) if n not in self._make]
        #: Columns that the image does not hold: those with the value before, and constants.
        self._kept = [n for n in absent if stored.values[n] == f"b{n}"]
        self._constants: dict[int, Any] = {
            n: literal_eval(stored.values[n]) for n in absent if n not in self._kept
        }

    def spans(self, event: LargeEvent, at: int, end: int) -> tuple[_Spans, int]:
        """Where the values of the image at ``at`` are, and where it ends. Raises ValueError if that
        is after ``end``.
        """
        spans = _Spans()
        start = at + (len(self._cells) + 7) // 8
        nulls, at = int.from_bytes(event[at:start], "little"), start
        for bit, (cell, size, nullable) in enumerate(self._cells):
            if nullable and nulls >> bit & 1:
                spans[cell.ordinal] = None
                continue
            if cell.prefix:
                at += cell.prefix
                size = int.from_bytes(event[at - cell.prefix : at], "little")
            if at + size > end:
                break
            spans[cell.ordinal] = at, at + size
            at += size
        if len(spans) < len(self._cells) or at > end:
            raise ValueError("a row is cut off")
        return spans, at

    def row(
        self, event: LargeEvent, spans: _Spans, old: Row | None = None, same: Collection[int] = ()
    ) -> Row:
        """The row whose values are there. Those of ``same`` are as in ``old``, the row before."""
        row: list[Any] = [None] * self._width
        for n, value in self._constants.items():
            row[n] = value
        for n in (*self._kept, *same):
            row[n] = old[n] if old is not None else None
        for n, span in spans.items():
            if span is None:
                continue
            if n in same:
                event.drop(*span)
                continue
            self.ordinal = n
            row[n] = self._make[n](event.take(*span))
            self.ordinal = None
        return tuple(row)
