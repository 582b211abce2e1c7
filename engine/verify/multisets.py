"""
The rows of a keyless table as a multiset: each distinct row with the number of its occurrences.

Rows are counted by a digest of 16 bytes. A large multiset is compared in parts, each of which reads
both tables again. Equal rows have equal digests and belong to the same part, so the parts need not
be read at one common moment. Rows that stay are compared exactly while others change. A row that
changes is another row from then on.

The rows cannot be looked up, so a recheck reads the whole multiset: on the target after the wait
for the pipeline (``engine.verify.recheck``), then on the source, whose reading before is the last
one of the previous recheck. A row that occurs n times in one reading of the source and m times in
the other has to occur at least min(n, m) and at most max(n, m) times on the target. Fewer are
missing, more are extra. What is missing or extra in each of twelve rechecks is a difference. What
is so in some rechecks only has changed between two readings, or is wrong and changes: if no recheck
until the deadline is without such rows, they are hot, as many as in the recheck with the fewest.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from hashlib import blake2b
from itertools import count
from typing import Final, NamedTuple

from engine.contract import RowReader
from engine.schema import Table
from engine.verify.reader import AsyncReader, TextRow, closed_after
from engine.verify.recheck import READING_INTERVAL_SECONDS, RECHECKS, PipelineWaiter

__all__ = ["Deviation", "Multiset", "MultisetReader", "confirm_multiset", "recheck_multiset"]

#: Rows by their digest, with the number of equal rows.
Multiset = Counter[bytes]
_Read = Callable[[], Awaitable[Multiset]]

#: Different rows of a keyless table that are counted in one pass over it.
MULTISET_ROWS: Final = 1_000_000
_DIGEST_BYTES: Final = 16


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
        multiset.update(it for it in map(_digest, chunk) if _part(it, parts) == part)
        while grow and len(multiset) > MULTISET_ROWS:
            parts *= 2
            kept = {one: n for one, n in multiset.items() if _part(one, parts) == part}
            multiset = Counter(kept)
    return multiset, parts, rows


def _digest(row: TextRow) -> bytes:
    return blake2b(repr(row).encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()


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


async def recheck_multiset(
    first: Multiset, read_source: _Read, read_target: _Read, pipeline: PipelineWaiter
) -> Deviation:
    """Recheck a multiset; ``first`` is the first reading of the source.

    Ends when a recheck finds nothing; when nothing has been found by all rechecks, and the deadline
    is over; and after twelve rechecks, when one of them has found only what each of them has, or at
    the deadline. So a difference is always that of twelve rechecks, however long they take.
    """
    deadline = time.monotonic() + pipeline.deadline_seconds
    found, last = await _recheck(first, read_source, read_target, pipeline)
    always, fewest = found, found.total()
    for number in count(1):
        if pipeline.stalled:
            return Deviation(Counter(), Counter(), found.total())
        if not found.total():
            return found
        over = fewest == always.total() or time.monotonic() > deadline
        if over and (number >= RECHECKS or not always.total()):
            return always._replace(hot=fewest - always.total())
        await asyncio.sleep(random.uniform(0.0, READING_INTERVAL_SECONDS))
        found, last = await _recheck(last, read_source, read_target, pipeline)
        always, fewest = always.common(found), min(fewest, found.total())
    raise AssertionError  # the loop has no end


async def confirm_multiset(
    found: Deviation, read_source: _Read, read_target: _Read, pipeline: PipelineWaiter
) -> Deviation:
    """Recheck once more what was found, among other rows than before. All of it is hot if the
    pipeline does not reach the end of the log."""
    now, _ = await _recheck(await read_source(), read_source, read_target, pipeline)
    if pipeline.stalled:
        return Deviation(Counter(), Counter(), found.total() + found.hot)
    return found.common(now)


async def _recheck(
    first: Multiset, read_source: _Read, read_target: _Read, pipeline: PipelineWaiter
) -> tuple[Deviation, Multiset]:
    """What one recheck finds, and its last reading of the source."""
    await pipeline.wait()
    target = await read_target()
    if target == first:
        return Deviation(Counter(), Counter()), first
    last = await read_source()
    return Deviation((first & last) - target, target - (first | last)), last
