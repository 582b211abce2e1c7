"""
The rows of a keyless table as a multiset: each distinct row with the number of its occurrences.

Rows are counted by a digest of 16 bytes. A large multiset is compared in parts, each of which reads
both tables again. Equal rows have equal digests and belong to the same part, so the parts need not
be read at one common moment. Rows that stay are compared exactly while others change. A row that
changes is another row from then on.

The rows cannot be looked up, so a recheck reads the whole multiset: on the target after the wait
for the pipeline (``engine.verify.recheck``), then on the source, whose reading before is the last
one of the previous recheck. From the second recheck on, the source is also read during the wait.
There are three outcomes for the number of equal rows:

- The target shows fewer than each reading of the source, or more. The row is missing or extra in
  this recheck. If it is so in twelve rechecks in a row, it is a difference.
- All readings of the source and the target show the same number. The row is right in this recheck.
- The readings differ, and the target shows a number between them. Nothing is proven: a source that
  has got another equal row hides one that the target lacks.

A row whose number only grows, or only shrinks, has kept its number if two readings are the same. So
one recheck in which it is right proves it, as in a log, whose new rows are right in the next
recheck. A number that goes to and fro may have been another one when the target was read. Such a
row, or one that was missing or extra before, has to be right in twelve rechecks in a row. A row
that never stands still is proven neither right nor wrong: it is hot at the deadline.

The first recheck decides which rows are open. It has two readings of the source, one before the
target is read and one after it. A row whose number stands still is open if it is wrong. So is one
whose number grows or shrinks. A wrong number that goes to and fro is passed over only if it is the
same in both readings, another one in between, and the target's at that very moment. A wrong row
that becomes another one is another row from then on; the rechecks go on as long as a recheck finds
rows that were not open.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Set
from typing import Final, NamedTuple

from engine.contract import RowReader
from engine.schema import Table
from engine.verify.reader import AsyncReader, TextRow, closed_after, row_digest
from engine.verify.recheck import READING_INTERVAL_SECONDS, RECHECKS, PipelineWaiter

__all__ = ["Deviation", "Multiset", "MultisetReader", "confirm_multiset", "recheck_multiset"]

#: Rows by their digest, with the number of equal rows.
Multiset = Counter[bytes]
_Read = Callable[[], Awaitable[Multiset]]

#: Different rows of a keyless table that are counted in one pass over it.
MULTISET_ROWS: Final = 1_000_000


class MultisetReader:
    """Reads a table as a multiset. ``names``: the parts (``engine.verify.parts``) that are read;
    empty for the whole table."""

    def __init__(self, table: Table, names: Collection[str] = ()) -> None:
        self._table = table
        self._names = names

    async def read(
        self,
        reader: AsyncReader,
        part: int = 0,
        parts: int = 1,
        *,
        grow: bool = False,
        counts: bool = False,
    ) -> tuple[Multiset, int, int]:
        """The multiset of the rows whose digest belongs to ``part``, the number of parts, and the
        number of rows that were read.

        ``grow``: double ``parts`` until the multiset has at most ``MULTISET_ROWS`` different rows.
        ``counts``: the source counts the values that policies change, in all rows that are read.
        """
        comparable = reader.comparable_rows(self._table, counts=counts)
        rows_of = reader.rows_of(self._table, self._names) if self._names else self._scan

        def count_rows(blocking: RowReader) -> tuple[Multiset, int, int]:
            with closed_after(rows_of(blocking)) as chunks:
                return _count(map(comparable, chunks), part, parts, grow)

        return await reader.run(count_rows)

    def _scan(self, reader: RowReader) -> Iterator[list[TextRow]]:
        return reader.scan(self._table)


def _count(
    chunks: Iterator[list[TextRow]], part: int, parts: int, grow: bool
) -> tuple[Multiset, int, int]:
    multiset: Multiset = Counter()
    rows = 0
    for chunk in chunks:
        rows += len(chunk)
        multiset.update(it for it in map(row_digest, chunk) if _part(it, parts) == part)
        while grow and len(multiset) > MULTISET_ROWS:
            parts *= 2
            kept = {one: n for one, n in multiset.items() if _part(one, parts) == part}
            multiset = Counter(kept)
    return multiset, parts, rows


def _part(digest: bytes, parts: int) -> int:
    return int.from_bytes(digest[:4]) % parts


class Deviation(NamedTuple):
    """The rows that are missing or extra on the target, and the number of hot rows."""

    missing: Multiset
    extra: Multiset
    hot: int = 0

    def total(self) -> int:
        """The number of rows that are missing or extra."""
        return self.missing.total() + self.extra.total()

    def common(self, other: Deviation) -> Deviation:
        """What is missing or extra in both."""
        return Deviation(self.missing & other.missing, self.extra & other.extra, self.hot)


class _Recheck(NamedTuple):
    """What one recheck finds: the rows whose number on the target is none that a reading allows,
    those whose number changes on the source, those whose number has risen and those whose number
    has fallen there, and the last reading of the source."""

    missing: Multiset
    extra: Multiset
    moving: Multiset
    risen: Set[bytes]
    fallen: Set[bytes]
    last: Multiset

    @property
    def wrong(self) -> Set[bytes]:
        """The rows whose number is wrong."""
        return self.missing.keys() | self.extra.keys()

    def rows(self, digest: bytes) -> int:
        """The number of equal rows about which nothing is known."""
        return max(1, self.missing[digest] + self.extra[digest], self.moving[digest])


class _OpenRow:
    """A row that may differ, and the rechecks of it so far."""

    def __init__(self) -> None:
        #: The number of the last rechecks, one after the other, in which it was wrong, and right.
        self.wrong = self.right = 0
        self.missing = self.extra = 0
        self.risen = self.fallen = self.was_wrong = False

    def add(self, found: _Recheck, digest: bytes) -> None:
        """Add a recheck."""
        self.risen |= digest in found.risen
        self.fallen |= digest in found.fallen
        missing, extra = found.missing[digest], found.extra[digest]
        if not missing and not extra:
            self.wrong = 0
            self.right = 0 if digest in found.moving else self.right + 1
            return
        self.was_wrong, self.right = True, 0
        if self.wrong and bool(missing) == bool(self.missing):
            missing, extra = min(missing, self.missing), min(extra, self.extra)
            self.wrong += 1
        else:
            self.wrong = 1
        self.missing, self.extra = missing, extra

    @property
    def is_right(self) -> bool:
        """Whether the rechecks prove that its number is right."""
        only_grows_or_shrinks = not (self.was_wrong or (self.risen and self.fallen))
        return self.right >= (1 if only_grows_or_shrinks else RECHECKS)


class _Rows:
    """The rows of a multiset that are not known to be right."""

    def __init__(self) -> None:
        self._open: dict[bytes, _OpenRow] = {}
        self._rechecks = 0
        self.missing: Multiset = Counter()
        self.extra: Multiset = Counter()

    def add(self, found: _Recheck) -> None:
        """Add a recheck."""
        self._rechecks += 1
        if self._rechecks == 1:
            self._open = {it: _OpenRow() for it in found.wrong | found.moving.keys()}
        known = self._open.keys() | self.missing.keys() | self.extra.keys()
        others_are_right = found.wrong <= known
        for digest, row in list(self._open.items()):
            row.add(found, digest)
            # A wrong row that has become another one is wrong there.
            if row.is_right and (others_are_right or found.last[digest]):
                del self._open[digest]
            elif row.wrong >= RECHECKS:
                del self._open[digest]
                self.missing += Counter({digest: row.missing})
                self.extra += Counter({digest: row.extra})

    @property
    def are_decided(self) -> bool:
        """Whether each row is right or a difference."""
        return not self._open

    @property
    def may_be_different(self) -> bool:
        """Whether a row was wrong in each recheck so far."""
        return any(row.wrong == self._rechecks for row in self._open.values())

    def hot(self, last: _Recheck) -> int:
        """The number of the rows that are open after the last recheck."""
        return sum(map(last.rows, self._open))


async def recheck_multiset(
    first: Multiset, read_source: _Read, read_target: _Read, pipeline: PipelineWaiter
) -> Deviation:
    """Recheck a multiset; ``first`` is the first reading of the source.

    Ends when each row is decided; and at the deadline, but not before a row that was wrong in each
    recheck is decided. So a difference is always that of twelve rechecks, however long they take.
    """
    deadline = pipeline.clock() + pipeline.deadline_seconds
    rows = _Rows()
    found = await _recheck(first, read_source, read_target, pipeline)
    while True:
        if pipeline.stalled:
            return Deviation(Counter(), Counter(), _stalled(found))
        rows.add(found)
        over = pipeline.clock() > deadline and not rows.may_be_different
        if rows.are_decided or over:
            return Deviation(rows.missing, rows.extra, rows.hot(found))
        await asyncio.sleep(random.uniform(0.0, READING_INTERVAL_SECONDS))
        found = await _recheck(found.last, read_source, read_target, pipeline, often=True)


async def confirm_multiset(
    found: Deviation, read_source: _Read, read_target: _Read, pipeline: PipelineWaiter
) -> Deviation:
    """Recheck once more what was found, among other rows than before, and again while their number
    changes. What changes until the deadline is hot, and all of it if the pipeline does not reach
    the end of the log."""
    deadline = pipeline.clock() + pipeline.deadline_seconds
    first = await read_source()
    while True:
        now = await _recheck(first, read_source, read_target, pipeline)
        if pipeline.stalled:
            return Deviation(Counter(), Counter(), found.total() + found.hot)
        moving = [
            it for it in found.missing + found.extra if it in now.moving and it not in now.wrong
        ]
        if not moving or pipeline.clock() > deadline:
            common = found.common(Deviation(now.missing, now.extra))
            return common._replace(hot=found.hot + sum(map(now.rows, moving)))
        first = now.last


def _stalled(found: _Recheck) -> int:
    """The number of rows about which nothing is known."""
    return sum(map(found.rows, found.wrong | found.moving.keys()))


async def _recheck(
    first: Multiset,
    read_source: _Read,
    read_target: _Read,
    pipeline: PipelineWaiter,
    *,
    often: bool = False,
) -> _Recheck:
    """One recheck. ``often``: the source is also read during the wait."""
    source = _Readings(first)
    wait = asyncio.create_task(pipeline.wait())
    try:
        while often and not wait.done():
            source.add(await read_source())
            await asyncio.wait({wait}, timeout=random.uniform(0.0, 2 * READING_INTERVAL_SECONDS))
        await wait
    finally:
        wait.cancel()
    target = await read_target()
    source.add(await read_source())
    return source.compared_with(target)


class _Readings:
    """Readings of the source, one after the other."""

    def __init__(self, first: Multiset) -> None:
        self._fewest = self._most = self._last = first
        self._risen: set[bytes] = set()
        self._fallen: set[bytes] = set()

    def add(self, reading: Multiset) -> None:
        """Add a reading."""
        if reading != self._last:
            self._risen |= (reading - self._last).keys()
            self._fallen |= (self._last - reading).keys()
            self._fewest, self._most = self._fewest & reading, self._most | reading
        self._last = reading

    def compared_with(self, target: Multiset) -> _Recheck:
        """The recheck with this reading of the target."""
        missing, extra = self._fewest - target, target - self._most
        moving = self._most - self._fewest
        return _Recheck(missing, extra, moving, self._risen, self._fallen, self._last)
