"""
The comparison of a table without a key, as a multiset.
"""

from __future__ import annotations

from functools import partial

from engine.verify.multisets import (
    Deviation,
    Multiset,
    MultisetReader,
    confirm_multiset,
    recheck_multiset,
)
from engine.verify.parts import differing_parts
from engine.verify.reader import AsyncReader
from engine.verify.table_comparison import MANY_DIFFER, TableComparison

__all__ = ["KeylessComparison"]


class KeylessComparison(TableComparison):
    """The comparison of a table without a key."""

    async def compare(self) -> None:
        """As ``TableComparison.compare``."""
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
                    self.read_instead(MANY_DIFFER)
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
