"""
When to write: the changes that were read become batches for the sink. Pure.

A batch can be committed if it ends with a ``Commit`` or a ``Heartbeat``. It is taken as soon as
nothing more waits to be read, so an idle pipeline has the latency of one commit. While the target
is busy, more changes arrive, so the next batch is larger. Only a transaction that exceeds the
limits is split, and the pipeline writes its pieces into one open target transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from engine.change import Begin, Cascade, Change, Commit, Heartbeat, Rows

__all__ = ["Batch", "Batcher", "first_commit", "times_larger", "weigh"]

#: A batch is one more time as large as usual for each of these times of a round trip, but not more
#: than so many times.
TIMES_SECONDS = 0.01
MOST_TIMES = 3

#: The memory of a row image beyond its bytes in the log: the tuple, and per column a reference and
#: an object header (the mean over numbers and strings in CPython).
IMAGE_BYTES = 64
COLUMN_BYTES = 56


def times_larger(round_trip_seconds: float) -> int:
    """How many times as large as usual batches are. Those of a far target are larger, because
    applying a batch takes a few round trips, however large it is.
    """
    return min(1 + int(round_trip_seconds / TIMES_SECONDS), MOST_TIMES)


_WITHOUT_DATA = (Begin, Commit, Heartbeat)


class Batch(msgspec.Struct, frozen=True):
    """Changes to apply together. ``end`` is their last ``Commit`` or ``Heartbeat``, or None for a
    piece of a transaction that continues in the next batch.
    """

    changes: list[Change]
    end: Commit | Heartbeat | None
    rows: int
    size: int

    @property
    def has_data(self) -> bool:
        """Whether something changes."""
        return any(type(change) not in _WITHOUT_DATA for change in self.changes)


def weigh(changes: Sequence[Change]) -> tuple[int, int]:
    """The number of row changes, and approximately the bytes of memory that they take.

    The values of a ``Cascade`` count as row changes.
    """
    rows = size = 0
    for change in changes:
        if type(change) is Rows:
            before, after = change.before, change.after
            count = len(after or before or ())
            rows += count
            image = IMAGE_BYTES + COLUMN_BYTES * len(change.table.columns)
            size += change.size + (2 * count if before and after else count) * image
        elif type(change) is Cascade:
            rows += len(change.before)
            size += change.images * (IMAGE_BYTES + COLUMN_BYTES * len(change.columns))
    return rows, size


def first_commit(changes: Iterable[Change]) -> float:
    """When the source committed the first transaction that begins in these changes, in Unix
    seconds; 0.0 if none begins, or if the log does not tell.
    """
    return next((change.committed_at for change in changes if type(change) is Begin), 0.0)


class Batcher:
    """Collects changes until a batch is due.

    ``max_rows`` and ``max_bytes`` (as ``weigh`` counts) bound a batch, to within one read of the
    log. ``max_age_seconds`` bounds how long the first change of a batch waits while the log never
    pauses.
    """

    def __init__(self, max_rows: int, max_bytes: int, max_age_seconds: float) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._changes: list[Change] = []
        self._rows = 0
        self._size = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._changes)

    @property
    def room(self) -> tuple[int, int]:
        """The rows and the bytes that make a batch full."""
        return self._max_rows - self._rows, self._max_bytes - self._size

    @property
    def size(self) -> int:
        """The bytes that are collected, as ``weigh`` counts them."""
        return self._size

    @property
    def waiting_since(self) -> float:
        """When the source committed the first transaction that is collected; 0.0 without one."""
        return first_commit(self._changes)

    def add(self, changes: Sequence[Change], rows: int, size: int, now: float) -> None:
        """Add the changes of one read, with ``rows`` and ``size`` as ``weigh`` counts them."""
        if not self._changes:
            self._since = now
        self._changes.extend(changes)
        self._rows += rows
        self._size += size

    def clear(self) -> None:
        """Discard the collected changes."""
        self._changes, self._rows, self._size = [], 0, 0

    def full(self, now: float) -> bool:
        """Whether a limit is reached, so that a batch is due even if more could be read."""
        return (
            self._rows >= self._max_rows
            or self._size >= self._max_bytes
            or (bool(self._changes) and now - self._since >= self._max_age_seconds)
        )

    def take(self, now: float) -> Batch | None:
        """The next batch: up to the last end of a transaction, or a piece if a limit is reached
        without one. None if neither holds.
        """
        for index in range(len(self._changes) - 1, -1, -1):
            change = self._changes[index]
            if type(change) is Commit or type(change) is Heartbeat:
                return self._cut(index + 1, change, now)
        if self._rows >= self._max_rows or self._size >= self._max_bytes:
            return self._cut(len(self._changes), None, now)
        return None

    def _cut(self, count: int, end: Commit | Heartbeat | None, now: float) -> Batch:
        taken, rest = self._changes[:count], self._changes[count:]
        left_rows, left_size = weigh(rest)
        batch = Batch(taken, end, self._rows - left_rows, self._size - left_size)
        self._changes, self._rows, self._size, self._since = rest, left_rows, left_size, now
        return batch
