"""
The comparison of a table with a key: by ranges, by parts, by rows, or by a sample.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET

from engine.proof import Unfinished
from engine.toolkit.key_order import is_ordered
from engine.toolkit.row_limit import RowLimit, is_large, size_of
from engine.verify.parts import candidates
from engine.verify.ranges import RangeComparison
from engine.verify.reader import AsyncReader, TextRow, key_of
from engine.verify.recheck import Rechecker
from engine.verify.report import Difference, Key
from engine.verify.samples import compare_sample, shares_of
from engine.verify.table_comparison import TableComparison

__all__ = ["LISTED_DIFFERENCES", "KeyedComparison"]

#: Differences that are listed per table; the others are only counted.
LISTED_DIFFERENCES: Final = 10_000
#: Those of them that have values, if values are asked for.
DETAILED_DIFFERENCES: Final = 1_000
#: Hot rows that are kept with how far a comparison has got; with more, it is not kept.
KEPT_HOT: Final = 1_000
#: How often a row is read that no lookup finds, before it is left open.
_READS: Final = 3


class KeyedComparison(TableComparison):
    """The comparison of a table with a key."""

    async def compare(self) -> None:
        """As ``TableComparison.compare``."""
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
        self.hot = rechecker.left_open

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
            rechecker.hot.update(before.hot)
            self.unfound = before.unfound
            ranges.resume(before)
            self.count_known(before.rows)
        async for after in ranges.run():
            if self.resumes is not None and self.resumes.is_time():
                await ranges.flush()
                if rechecker.left_open <= KEPT_HOT:
                    unfinished = self._unfinished(ranges, after, rechecker.hot)
                    await self.resumes.save(self.table, unfinished)
        self.read = ranges.read
        self.add_sums(ranges.in_source, ranges.in_target)

    def _unfinished(self, ranges: RangeComparison, after: Key, hot: Collection[Key]) -> Unfinished:
        """How far the comparison has got. Of the rows up to ``after``, those that are ``hot`` are
        undecided."""
        seconds, counts = time.monotonic() - self._started, dict(self.counts)
        return Unfinished(
            *(self.started_at, self.position, seconds, after, self.rows, ranges.read, counts),
            *(ranges.in_source, ranges.in_target),
            hot=tuple(sorted(hot, key=str)),
            unfound=self.unfound,
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
        size = 0  # of their rows, which a recheck may hold all at once
        limit = RowLimit(self.chunk_rows)
        next_chunk = self._start_chunk(self.source, None, limit.rows, keys_only=False)
        while rows := await next_chunk:
            limit.add(rows)
            last_key = key_of(self.table, rows[-1])
            next_chunk = self._start_chunk(self.source, last_key, limit.rows, keys_only=False)
            in_source = {key_of(self.table, row): row for row in rows}
            in_target = await self.target.rows(self.table, list(in_source))
            wrong = {key for key, row in in_source.items() if in_target.get(key) != row}
            candidates |= wrong
            size += sum(size_of(in_source[key]) + size_of(in_target.get(key, ())) for key in wrong)
            self.count_read(len(rows))
            if len(candidates) >= self.chunk_rows or is_large(size):
                await self._check(rechecker, candidates, self._keys_among)
                candidates, size = set(), 0
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
