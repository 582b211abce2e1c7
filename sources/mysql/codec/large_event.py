"""
A large event in memory of its own, which is given back to the system while the event is read.

So the values that are made of the event take the place of its bytes, and are not in memory besides
them. The memory is an anonymous private mapping: pages that were read are dropped by
MADV_DONTNEED, which needs no second buffer and leaves no holes in the heap (madvise(2)).
"""

from __future__ import annotations

import mmap
from io import SEEK_END, BytesIO
from typing import Final, Self, cast

__all__ = ["LARGE_BYTES", "EventBuffer", "LargeEvent", "complete", "event_buffer"]

#: Events of this size are collected in a buffer; smaller ones are not worth it.
LARGE_BYTES: Final = 0xFFFFFF

_SLICE_BYTES: Final = 1 << 20
#: More than the C library ever takes from its heap, which it does not always give back (mallopt(3),
#: M_MMAP_THRESHOLD): a value that begins with less would leave copies of its beginnings there.
_FIRST_BYTES: Final = 33 << 20
#: Linux drops the pages at once. Another system may take it as advice, or not have it: then the
#: memory is freed with the event.
_DROP: Final = getattr(mmap, "MADV_DONTNEED", None)


class LargeEvent(mmap.mmap):
    """``size`` bytes, to be written from the beginning on, and then read like ``bytes``.

    ``take`` reads bytes for the last time. ``spent`` is set by the decoder, which takes some:
    nobody may read the event again after it.
    """

    spent: bool

    def __new__(cls, size: int) -> Self:
        event = super().__new__(cls, -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        event.spent = False
        return event

    def take(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to ``end``, whose memory is given back meanwhile."""
        stop = min(start + _FIRST_BYTES, end)
        if stop == end:
            return self[start:end]
        taken = BytesIO(self[start:stop])  # it owns these bytes
        taken.seek(0, SEEK_END)
        self.drop(start, stop)
        for at in range(stop, end, _SLICE_BYTES):
            stop = min(at + _SLICE_BYTES, end)
            taken.write(self[at:stop])
            self.drop(at, stop)
        return taken.getvalue()

    def drop(self, start: int, end: int) -> None:
        """Give back the memory from ``start`` to ``end``, in whole pages."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        size = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if size > 0 and _DROP is not None:
            self.madvise(_DROP, first, size)

    def same(self, one: int, other: int, size: int) -> bool:
        """Whether the ``size`` bytes at two places are equal."""
        return all(
            self[one + at : one + min(at + _SLICE_BYTES, size)]
            == self[other + at : other + min(at + _SLICE_BYTES, size)]
            for at in range(0, size, _SLICE_BYTES)
        )


#: What an event is collected in.
EventBuffer = BytesIO | LargeEvent


def event_buffer(size: int, *, of_rows: bool) -> EventBuffer:
    """A buffer for an event of this size, or for its rows. Parts that are joined at the end would
    be in memory twice, and their memory is not given back to the system.
    """
    return LargeEvent(max(size, 1)) if of_rows else BytesIO()


def complete(buffer: EventBuffer) -> bytes:
    """The event, without a copy. A ``LargeEvent`` is read like bytes until its rows are decoded."""
    return cast("bytes", buffer) if isinstance(buffer, LargeEvent) else buffer.getvalue()
