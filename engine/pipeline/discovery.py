"""
The discovery of new tables: they match the configuration and are not followed yet.

The pipeline starts to follow a table at a position at which its shape is certain. The catalog is
read, then the end of the log. When the stream has passed that end and the catalog is unchanged, the
tables had these shapes there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from engine.change import CaughtUp, SchemaChange
from engine.checkpoint import Cause
from engine.contract import RefusesTables, SnapshotSource, Source
from engine.errors import ConfigError, SchemaError, TailraceError
from engine.log_status import now_at
from engine.pipeline.backfill import filter_rows
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.unlogged import UnloggedChanges
from engine.pipeline.writer import TargetWriter
from engine.remedies import BACKFILL
from engine.schema import Table, TableId
from engine.settings.loader import BackfillSettings

__all__ = ["Discovery"]

#: Why a table is quarantined that was to be backfilled again.
NOT_FOUND = (
    "the table is not found any more: it was dropped or renamed on the source, or the user may not"
    " see it"
)
_GONE = 'if it is gone for good, add "TABLE" to exclude in [source]; then `tailrace run CONFIG`'
#: The number of tables that one target transaction creates. Each table takes locks.
CREATED_TABLES = 250


class Discovery:
    """Finds new tables, and starts to follow them. It finds none on a source that holds only a log.

    ``between`` runs between the transactions that create many tables, so that backfill need not
    wait for the last one; ``interrupted`` tells whether to leave the rest to the next run.
    """

    def __init__(
        self,
        source: Source,
        writer: TargetWriter,
        tracker: ProgressTracker,
        settings: BackfillSettings,
        *,
        between: Callable[[], Awaitable[None]],
        interrupted: Callable[[], bool],
        unlogged: UnloggedChanges,
    ) -> None:
        self._unlogged = unlogged
        self._source = source if isinstance(source, SnapshotSource) else None
        self._writer = writer
        self._tracker = tracker
        self._backfills = settings.mode != "never"
        self._between = between
        self._interrupted = interrupted
        #: The tables that the last discovery found and that are not followed yet.
        self.found: list[Table] = []
        #: The tables that it found and that cannot be followed.
        self.refused: dict[TableId, TailraceError] = {}
        #: The end of the source's log after the last discovery, which shows all up to this time.
        self.position, self.position_at = "", 0.0

    async def discover(self) -> None:
        """Read the catalog, then the end of the log."""
        if self._source is None:
            return
        known = {table.id for table in self._tracker.tables}
        known.update(self._tracker.quarantined)
        self.found = await asyncio.to_thread(self._source.catalog, known)
        if isinstance(self._source, RefusesTables):
            self.refused = dict(self._source.refused())
        self._check_mapping()
        self.position_at = now_at(self._source)
        self.position = await asyncio.to_thread(self._source.position)

    def _check_mapping(self) -> None:
        """Refuse the found tables that the mapping does not fit.

        Before the first table is followed, and if the mapping does not fit those that are, the
        configuration is wrong: ConfigError.
        """
        try:
            self._writer.check_mapping(self.found)
            return
        except ConfigError:
            if not self._tracker.progress:
                raise
        self._writer.check_mapping(())
        misfits = self._writer.misfits(self.found)
        self.refused.update(misfits)
        self.found = [table for table in self.found if table.id not in misfits]

    def due(self) -> bool:
        """Whether tables were found or wait for it, and the stream has passed ``position``."""
        return bool(
            (self.found or self.refused or self._tracker.waiting)
            and self._source is not None
            and self._source.reached(self._writer.position, self.position)
        )

    async def start_following(self) -> bool:
        """Follow the found tables from the writer's position on. False if the catalog has changed
        since; then ``found`` and ``position`` are new. The target is at a commit before and after.
        """
        assert self._source is not None
        expected = self.found
        await self.discover()
        if self.found != expected:
            return False
        expected = await self._without_misfits(expected)
        await self._quarantine_missing(expected)
        if self._backfills:
            await self._create_pending(self._source, expected)
        else:
            await self._create_live(expected)
        self.found = []
        for id, error in self.refused.items():
            self._unlogged.take(error, id)
        await self._unlogged.record(self._writer, self._tracker, ())
        self.refused = {}
        return True

    async def _without_misfits(self, tables: Sequence[Table]) -> list[Table]:
        """The tables without those that were to be backfilled in place and cannot be. By the policy
        ``unlogged_change``, these get twins instead.
        """
        fitting: list[Table] = []
        for table in tables:
            progress = self._tracker.progress.get(table.id)
            in_place = progress is not None and progress.in_place
            reason = self._writer.why_not_in_place(table.id, table) if in_place else ""
            message = f"the table cannot be backfilled in place: {reason}"
            if not reason or await self._unlogged.leave_in_place(self._writer, table.id, message):
                fitting.append(table)
            else:
                self.refused[table.id] = SchemaError(message, table=table.id)
        return fitting

    async def _create_pending(self, source: SnapshotSource, tables: Sequence[Table]) -> None:
        """Create tables to be backfilled, in several transactions, the largest first."""
        for table in tables:
            filter_rows(source, self._writer, table)
        estimates = await asyncio.to_thread(source.estimates, tables)
        tables = sorted(tables, key=lambda table: estimates.get(table.id, 0), reverse=True)
        for start in range(0, max(1, len(tables)), CREATED_TABLES):
            if start:
                await self._between()
            if self._interrupted() and start:
                break  # the next run discovers the others
            part = tables[start : start + CREATED_TABLES]
            for table in part:
                self._tracker.add(table, estimates.get(table.id, 0))
            await self._writer.apply([SchemaChange("", None, table) for table in part])
            await self._writer.commit()

    async def _quarantine_missing(self, tables: Sequence[Table]) -> None:
        """Quarantine the tables that waited to be discovered and are not found.

        They may exist, and be hidden by a changed configuration or a missing right. So the target
        keeps their rows. A table of which it has none is forgotten.
        """
        found = {table.id for table in tables} | self.refused.keys()
        for id in set(self._tracker.waiting) - found:
            if self._tracker.progress[id].again:
                cause = Cause(NOT_FOUND, f"{BACKFILL}; {_GONE}", at=time.time())
                await self._writer.leave(id, cause, "quarantined")
            else:
                self._tracker.forget(id)

    async def _create_live(self, tables: Sequence[Table]) -> None:
        """Create tables that are not backfilled, in one transaction: a table created later
        would miss the changes in between.
        """
        changes = self._tracker.admit([SchemaChange("", None, table) for table in tables])
        await self._writer.apply(sorted(changes, key=lambda change: type(change) is CaughtUp))
        await self._writer.commit()
