"""
Tables of the source that match the configuration and are not followed yet.

Idea: a table is adopted at a position at which its shape is certain. The catalog was read, then
the log's end; when the stream is past that end and the catalog is still the same, the tables looked
like that there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from engine.change import CaughtUp, SchemaChange
from engine.contract import Sink, Source
from engine.pipeline.table_progress import ProgressTracker
from engine.schema import Table
from engine.settings.loader import BackfillSettings

__all__ = ["Discovery"]

#: So many are made in one transaction of the target, whose locks are limited.
STARTED_TABLES = 250


class Discovery:
    """Finds new tables and makes ``snapshot`` and ``sink`` follow them.

    ``save`` commits. Where there are many, ``meanwhile`` has a turn now and then: to make a table
    in the target takes its disk a moment, and rows should not wait for all of them.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        snapshot: ProgressTracker,
        settings: BackfillSettings,
        *,
        save: Callable[[], Awaitable[None]],
        meanwhile: Callable[[], Awaitable[None]],
        stopping: Callable[[], bool],
    ) -> None:
        self._source = source
        self._sink = sink
        self._snapshot = snapshot
        self._copied = settings.mode != "never"
        self._save = save
        self._meanwhile = meanwhile
        self._stopping = stopping
        #: The tables that the last look has found, until they are adopted.
        self.waiting: list[Table] = []
        #: The end of the source's log after the last look.
        self.position = ""

    def __bool__(self) -> bool:
        return bool(self.waiting)

    async def look(self) -> None:
        """Which there are, and where the source's log was after we looked."""
        known = {table.id for table in self._snapshot.tables}
        self.waiting = await asyncio.to_thread(self._source.catalog, known)
        if self._source.can_snapshot:
            self.position = await asyncio.to_thread(self._source.position)

    async def adopt(self, position: str) -> bool:
        """Follow them from ``position`` on, once it is certain what they look like there. False:
        not yet.
        """
        if not self._source.reached(position, self.position):
            return False
        expected = self.waiting
        await self.look()
        if self.waiting != expected:
            return False
        if self._copied:
            await self._adopt_for_copying(expected)
        else:
            await self._adopt_as_they_are(expected)
        self.waiting = []
        return True

    async def _adopt_for_copying(self, tables: Sequence[Table]) -> None:
        """In several transactions, since a table that will be copied may be adopted after another;
        the largest first.
        """
        estimates = await asyncio.to_thread(self._source.estimates, tables)
        tables = sorted(tables, key=lambda table: estimates.get(table.id, 0), reverse=True)
        for start in range(0, max(1, len(tables)), STARTED_TABLES):
            if start:
                await self._meanwhile()
            if self._stopping() and start:
                break  # the next run finds the others
            part = tables[start : start + STARTED_TABLES]
            for table in part:
                self._snapshot.add(table, estimates.get(table.id, 0))
            await self._sink.apply([SchemaChange("", None, table) for table in part])
            await self._save()

    async def _adopt_as_they_are(self, tables: Sequence[Table]) -> None:
        """In one transaction: a table that will not be copied must not miss a change."""
        changes = self._snapshot.admit([SchemaChange("", None, table) for table in tables])
        await self._sink.apply(sorted(changes, key=lambda change: type(change) is CaughtUp))
        await self._save()
