"""
Compare source and target row by row and column by column, while changes flow.

Both databases are read through their ordinary clients, each by a ``RowReader``, in the canonical
text of ``engine.toolkit.canonical``. No codec of the pipeline takes part, so a wrong codec cannot
hide its own mistakes. What the target's policies change on purpose is no difference: the source's
values are compared as the target stores them (``RowReader.stored``).

A table with a key is compared in two passes:

- Forward: the source's rows are read in chunks in the order of the key, and looked up by key in the
  target. This finds rows that are changed or missing in the target.
- Backward: the target's keys are read in the same way and looked up in the source. This finds rows
  that are extra in the target.

Two rows belong together if their keys have exactly the same text. Each pass uses the order of one
database only, so source and target may sort differently. A key that exists throughout the run is
read by at least one of the passes, so a wrong row always becomes a candidate for a difference. A
row that only changes at the wrong moment becomes one, too. ``engine.verify.recheck`` decides: a
candidate that stands still is either right or a difference, and one that never does is reported as
hot.

If both databases can compute checksums of the table, only rows are read where these differ: in
ranges of the key, if both sort it alike (``engine.verify.ranges``), else in parts
(``engine.verify.parts``).

A keyless table is compared as a multiset (``engine.verify.multisets``).

A table is equal if no row differs and none is hot: each row that exists throughout the run has on
the target a value that the source held when the row was compared. Changes made after a row has
been compared are not covered; the next run finds them.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Final, Literal

import msgspec
from msgspec import UNSET

from engine.contract import RowReader
from engine.errors import SinkRejected, SourceRejected, TailraceError
from engine.proof import Resumes, Unfinished
from engine.schema import Table
from engine.toolkit.checksums import EVERYTHING, Checksum
from engine.toolkit.key_order import is_ordered
from engine.toolkit.sampling import SampleSize
from engine.verify.multisets import (
    Deviation,
    Multiset,
    MultisetReader,
    confirm_multiset,
    recheck_multiset,
)
from engine.verify.pace import Pace
from engine.verify.parts import MOST_ROWS, Parts, candidates, differing_parts
from engine.verify.ranges import RangeComparison
from engine.verify.reader import AsyncReader, RowLimit, SourceReader, TextRow, key_of
from engine.verify.recheck import Held, Passed, PipelineWaiter, Rechecker
from engine.verify.report import Difference, Key, Sample, TableReport, VerifyReport
from engine.verify.samples import compare_sample, shares_of

__all__ = ["verify"]

Progress = Callable[[str, int], None]
Found = Callable[[Table, TableReport], Awaitable[None]]

#: Differences that are listed per table; the others are only counted.
LISTED_DIFFERENCES: Final = 10_000
#: Those of them that have values, if values are asked for.
DETAILED_DIFFERENCES: Final = 1_000
#: Why all rows are read where checksums could be computed.
MANY_DIFFER: Final = "many rows differ, or change"
#: How often a row is read that no lookup finds, before it is left open.
_READS: Final = 3


async def verify(
    tables: Iterable[Table],
    source: RowReader,
    target: RowReader,
    *,
    source_position: Callable[[], str],
    passed: Passed,
    held: Held | None = None,
    chunk_rows: int = 5000,
    by_rows: bool = False,
    in_detail: bool = False,
    deadline_seconds: float = 60.0,
    progress: Progress = lambda table, rows: None,
    found: Found | None = None,
    pace: Pace | None = None,
    sample: SampleSize | None = None,
    resumes: Resumes | None = None,
) -> VerifyReport:
    """Compare ``tables``, one after the other. ``found`` is called with the result of each;
    ``pace`` is the budget of all reads.

    ``source_position`` returns the position of the end of the source's log now; it may block.
    ``passed`` gets a position and a time of ``time.monotonic``, waits until the target holds the
    log up to the position, and returns false if the time comes first; ``held`` returns what it
    holds. ``deadline_seconds`` limits each such wait, and for each table the time for which its hot
    rows are rechecked. ``progress`` is called with a table's name and the number of its rows that
    have been compared. ``by_rows``
    reads all rows, also where both databases can compute checksums. ``in_detail``: the reports
    have values of rows that differ. ``sample``: only so many random rows of each table are
    compared, but all of a table with no more rows, or without a key. ``resumes`` keeps how far the
    comparison of a table has got, so that another run can go on there. The readers are called from
    threads, each by one at a time.

    Raises the errors of the readers' connections, after ``found`` has got the result of the table
    if the connection was lost. Another error makes its table inconclusive.
    """
    started = time.monotonic()
    pipeline = PipelineWaiter(source_position, passed, deadline_seconds, held)
    readers = SourceReader(source, target, pace), AsyncReader(target, pace)
    reports: list[TableReport] = []
    for table in tables:
        pipeline.stalled = ""
        kind = _KeyedComparison if table.key else _KeylessComparison
        comparison = kind(table, *readers, pipeline, chunk_rows, progress)
        comparison.in_detail, comparison.sample_size = in_detail, sample
        comparison.resumes = resumes
        try:
            if not by_rows:
                await comparison.choose_method()
            report = await comparison.report()
        except TailraceError as error:
            # A statement may have lasted too long, so the next run begins with another table.
            if error.retryable and found is not None:
                await found(table, comparison.result(error.message))
            raise
        reports.append(report)
        if found is not None:
            await found(table, report)
    equal = all(it.equal for it in reports)
    return VerifyReport(equal, time.monotonic() - started, tuple(reports))


class _Comparison(ABC):
    """The comparison of one table, and its result so far."""

    def __init__(
        self,
        table: Table,
        source: SourceReader,
        target: AsyncReader,
        pipeline: PipelineWaiter,
        chunk_rows: int,
        progress: Progress,
    ) -> None:
        self.table = table
        self.source = source
        self.target = target
        self.pipeline = pipeline
        self.chunk_rows = chunk_rows
        self.counts: Counter[str] = Counter()  # by kind of difference
        self.listed: list[Difference] = []
        self.hot = 0
        self.unfound = 0  # rows that are read, and that no lookup by their key finds
        self.in_detail = False
        self.sample_size: SampleSize | None = None
        self.sampled = False  # only random rows are compared
        self.resumes: Resumes | None = None
        self.rows = 0
        self.target_rows = 0
        self.checksums = ("", "")  # those of the source and of the target
        self.read = 0  # rows of the source that have been read
        self.method: Literal["checksums", "rows"] = "rows"
        self.reason = ""  # why the rows are read
        self.started_at = time.time()
        self.position = ""
        self._started = time.monotonic()
        self._progress = progress

    async def report(self) -> TableReport:
        """Compare the table and return the result."""
        self.position = await self.pipeline.beginning()
        inconclusive = ""
        try:
            try:
                await self.compare()
            except TailraceError as error:
                if self.method == "rows" or _is_of_connection(error):
                    raise
                self._read_instead(error.message)
                await self.compare()
        except TailraceError as error:
            if _is_of_connection(error):
                raise
            inconclusive = error.message
        except (ArithmeticError, RecursionError, ValueError) as error:
            # Its text may have the value.
            inconclusive = f"a value cannot be compared ({type(error).__name__})"
        return self.result(inconclusive)

    def result(self, inconclusive: str) -> TableReport:
        """The result so far. ``inconclusive``: why the table could not be compared to its end."""
        if self.unfound and not inconclusive:
            inconclusive = f"rows that are read, and not found by their keys: {self.unfound:,}"
        if self.hot and not inconclusive:
            fast = f"rows that change too fast to compare: {self.hot:,}"
            inconclusive = self.pipeline.stalled or fast
        return TableReport(
            str(self.table.id),
            self.rows,
            self.counts["changed"],
            self.counts["missing"],
            self.counts["extra"],
            time.monotonic() - self._started,
            not self.counts.total() and not inconclusive,
            inconclusive,
            tuple(self.listed),
            self.hot,
            self.started_at,
            self.position,
            self.method,
            self.reason,
            self.read,
            self.target_rows,
            *self.checksums,
            replaced=self.source.replaced(self.table),
            sample=Sample.of(self.rows, self.target_rows, self.counts, self.hot)
            if self.sampled
            else None,
        )

    async def choose_method(self) -> None:
        """Compare by checksums, unless there is a reason against it."""
        readers = self.source, self.target
        reasons = [await reader.why_not_summed(self.table) for reader in readers]
        self.reason = next(filter(None, reasons), "")
        self.method = "rows" if self.reason else "checksums"

    async def differing_parts(self) -> Parts | None:
        """The parts whose checksums differ. None, after ``_read_instead``, if the table is too
        large for one statement, or too many rows differ."""
        if await self.target.run(lambda reader: reader.count(self.table)) > MOST_ROWS:
            self._read_instead(f"no ranges of its key, and more than {MOST_ROWS:,} rows")
            return None
        await self.source.count_zeros(self.table, EVERYTHING)
        parts = await differing_parts(self.table, self.source, self.target)
        if parts.are_many:
            self._read_instead(MANY_DIFFER)
            return None
        self._summed(parts.source, parts.target)
        return parts

    def _summed(self, source: Checksum, target: Checksum) -> None:
        """Note the checksums of the table."""
        self.target_rows = target.rows
        self.checksums = source.text, target.text

    def _read_instead(self, reason: str) -> None:
        """Start again, and read all rows: a database cannot compute the checksums after all."""
        self.method, self.reason = "rows", reason
        self.source.count_anew(self.table)
        self.counts.clear()
        self.listed.clear()
        self.hot = self.unfound = self.rows = self.read = self.target_rows = 0
        self.checksums = ("", "")

    @abstractmethod
    async def compare(self) -> None:
        """Compare the table: set ``counts``, ``listed``, ``hot`` and ``rows``."""

    def count_read(self, rows: int) -> None:
        """Count rows of the source that have been read and compared."""
        self.read += rows
        self.count_compared(rows)

    def count_compared(self, rows: int) -> None:
        """Count rows of the source that have been compared."""
        self.rows += rows
        self._progress(str(self.table.id), self.rows)


class _KeyedComparison(_Comparison):
    async def compare(self) -> None:
        rechecker = Rechecker(
            *(self.table, self.source, self.target, self.pipeline, self.chunk_rows),
            with_values=self.in_detail,
        )
        shares = await shares_of(self.table, self.source, self.target, self.sample_size)
        if shares is not None:
            self.sampled, self.method, self.reason = True, "rows", ""
            self.target_rows = await compare_sample(
                *(self.table, self.source, self.target, shares, self.chunk_rows),
                check=partial(self._check, rechecker),
                compared=self.count_read,
            )
        elif self.method == "checksums" and is_ordered(self.table):
            await self._by_ranges(rechecker)
        elif self.method == "rows" or not await self._by_parts(rechecker):
            await self._forward(rechecker)
            await self._backward(rechecker)
        await self._add(rechecker.hot_differences())
        self.hot = len(rechecker.hot)

    async def _by_ranges(self, rechecker: Rechecker) -> None:
        """Compare checksums of ranges, and the rows where they differ."""
        ranges = RangeComparison(
            self.table,
            self.source,
            self.target,
            self.chunk_rows,
            compared=self.count_compared,
            check=partial(self._check, rechecker),
        )
        before = None if self.resumes is None else self.resumes.unfinished(self.table)
        if before is not None:
            self.started_at, self.position = before.started_at, before.position
            self._started -= before.seconds
            self.counts.update(before.counts)
            ranges.resume(before)
            self.count_compared(before.rows)
        async for after in ranges.run():
            if self.resumes is not None and self.resumes.is_time():
                await ranges.flush()
                if not (rechecker.hot or self.unfound):
                    await self.resumes.save(self.table, self._unfinished(ranges, after))
        self.read = ranges.read
        self._summed(ranges.in_source, ranges.in_target)

    def _unfinished(self, ranges: RangeComparison, after: Key) -> Unfinished:
        """How far the comparison has got. No row up to ``after`` is undecided."""
        seconds, counts = time.monotonic() - self._started, dict(self.counts)
        return Unfinished(
            *(self.started_at, self.position, seconds, after, self.rows, ranges.read, counts),
            *(ranges.in_source, ranges.in_target),
        )

    async def _by_parts(self, rechecker: Rechecker) -> bool:
        """Compare checksums of parts, and the rows of those that differ. False if all rows have to
        be read."""
        parts = await self.differing_parts()
        if parts is None:
            return False
        if parts.names:
            found, self.read = await candidates(
                self.table, self.source, self.target, parts, counts=True
            )

            async def read_again(keys: set[Key]) -> set[Key]:
                return (await candidates(self.table, self.source, self.target, parts))[0]

            await self._check(rechecker, found, read_again)
        self.count_compared(parts.source.rows)
        return True

    async def _forward(self, rechecker: Rechecker) -> None:
        """Look up every row of the source in the target."""
        candidates: set[Key] = set()
        limit = RowLimit(self.chunk_rows)
        next_chunk = self._start_chunk(self.source, None, limit.rows, keys_only=False)
        while rows := await next_chunk:
            limit.add(rows)
            last_key = key_of(self.table, rows[-1])
            next_chunk = self._start_chunk(self.source, last_key, limit.rows, keys_only=False)
            in_source = {key_of(self.table, row): row for row in rows}
            in_target = await self.target.rows(self.table, list(in_source))
            candidates |= {key for key, row in in_source.items() if in_target.get(key) != row}
            self.count_read(len(rows))
            if len(candidates) >= self.chunk_rows:
                await self._check(rechecker, candidates, self._keys_among)
                candidates = set()
        await self._check(rechecker, candidates, self._keys_among)

    async def _backward(self, rechecker: Rechecker) -> None:
        """Look up every key of the target in the source."""
        candidates: set[Key] = set()
        next_chunk = self._start_chunk(self.target, None, self.chunk_rows, keys_only=True)
        while keys := await next_chunk:
            next_chunk = self._start_chunk(self.target, keys[-1], self.chunk_rows, keys_only=True)
            self.target_rows += len(keys)
            candidates |= set(keys).difference(await self.source.keys(self.table, keys))
            if len(candidates) >= self.chunk_rows:
                await self._check(rechecker, candidates, self._keys_among)
                candidates = set()
        await self._check(rechecker, candidates, self._keys_among)

    def _start_chunk(
        self, reader: AsyncReader, after: Key | None, limit: int, *, keys_only: bool
    ) -> asyncio.Task[list[TextRow]]:
        """Start to read the chunk after ``after``, while the one before it is looked up."""
        return asyncio.create_task(reader.chunk(self.table, after, limit, keys_only=keys_only))

    async def _check(
        self,
        rechecker: Rechecker,
        candidates: set[Key],
        read_again: Callable[[set[Key]], Awaitable[set[Key]]],
    ) -> None:
        """Recheck candidates. A row that no lookup finds has been deleted, unless it is read again:
        then it is rechecked again, and left open at last."""
        for _ in range(_READS):
            await self._add(rechecker.differences(candidates))
            unfound, rechecker.unfound = rechecker.unfound, set()
            candidates = unfound & await read_again(unfound) if unfound else unfound
            if not candidates:
                return
        self.unfound += len(candidates)

    async def _keys_among(self, keys: set[Key]) -> set[Key]:
        """Those of ``keys`` that a read of all keys shows on one of the sides."""
        found: set[Key] = set()
        for reader in (self.source, self.target):
            after: Key | None = None
            while rows := await reader.chunk(self.table, after, self.chunk_rows, keys_only=True):
                found |= keys.intersection(rows)
                after = rows[-1]
        return found

    async def _add(self, differences: AsyncIterator[Difference]) -> None:
        """Count the differences, and list the first ones."""
        async for difference in differences:
            self.counts[difference.kind] += 1
            if len(self.listed) < LISTED_DIFFERENCES:
                if difference.values and len(self.listed) >= DETAILED_DIFFERENCES:
                    difference = msgspec.structs.replace(difference, values=UNSET)
                self.listed.append(difference)


class _KeylessComparison(_Comparison):
    async def compare(self) -> None:
        if self.method == "checksums" and await self._by_parts():
            return
        whole = MultisetReader(self.table)
        multiset, parts, rows = await whole.read(self.source, grow=True, counts=True)
        self.count_read(rows)
        self._add(await self._recheck(whole, 0, parts, multiset))
        for part in range(1, parts):
            multiset, _, _ = await whole.read(self.source, part, parts)
            self._add(await self._recheck(whole, part, parts, multiset))

    async def _by_parts(self) -> bool:
        """Compare checksums of parts, and the rows of those that differ. False if all rows have to
        be read.

        A row that stands still and is missing or extra makes its part differ, so no other part has
        one. A row that was written meanwhile may have other texts on both sides, and so be in two
        parts of which only one was read. So the parts that differ by now are read, too, before a
        row is called different.
        """
        parts = await self.differing_parts()
        if parts is None:
            return False
        if parts.names:
            reader = MultisetReader(self.table, parts.names)
            first, _, self.read = await reader.read(self.source, counts=True)
            found = await self._recheck(reader, 0, 1, first)
            if found.total():
                now = await differing_parts(self.table, self.source, self.target)
                if now.are_many:
                    self._read_instead(MANY_DIFFER)
                    return False
                more = MultisetReader(self.table, {*parts.names, *now.names})
                reads = (
                    partial(self._multiset, more, self.source),
                    partial(self._multiset, more, self.target),
                )
                found = await confirm_multiset(found, *reads, self.pipeline)
            self._add(found)
        self.count_compared(parts.source.rows)
        return True

    async def _recheck(
        self, reader: MultisetReader, part: int, parts: int, first: Multiset
    ) -> Deviation:
        """Recheck the rows whose digest belongs to ``part``; the source has shown ``first``."""

        async def read_target() -> Multiset:
            multiset, _, rows = await reader.read(self.target, part, parts)
            if self.method == "rows":
                self.target_rows = rows
            return multiset

        read_source = partial(self._multiset, reader, self.source, part, parts)
        return await recheck_multiset(first, read_source, read_target, self.pipeline)

    async def _multiset(
        self, reader: MultisetReader, side: AsyncReader, part: int = 0, parts: int = 1
    ) -> Multiset:
        return (await reader.read(side, part, parts))[0]

    def _add(self, found: Deviation) -> None:
        self.counts["missing"] += found.missing.total()
        self.counts["extra"] += found.extra.total()
        self.hot += found.hot


def _is_of_connection(error: TailraceError) -> bool:
    """Whether an error is that of a connection, not of a table."""
    return error.retryable or isinstance(error, SourceRejected | SinkRejected)
