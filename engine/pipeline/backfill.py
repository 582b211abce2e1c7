"""
The backfill of tables, in time slices between two batches of the stream.

A slice starts and ends at a commit of the target. It lasts while the stream has nothing to write,
else for ``slice_seconds``, and longer if the target is far away: what has been read ahead when it
ends is read again, if the stream changes something in between. Small tables share work: chunks of
several tables share a target transaction, and tables that seem to be empty are checked many at a
time, so one more empty table costs almost nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from typing import NamedTuple

from engine.change import Chunk, Truncate
from engine.contract import FiltersRows, SnapshotSource, Source
from engine.errors import ShapeChanged, SourceError, TableRecreated, UnloggedChange
from engine.ops.metrics import Metrics
from engine.pipeline.reads import UntilPause
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.writer import TargetWriter, Transaction
from engine.remedies import BACKFILL
from engine.schema import Table, TableId
from engine.settings.loader import BackfillSettings

__all__ = ["Backfill", "filter_rows"]

#: The least time between two commits of backfilled rows, unless the slice ends before.
COMMIT_SECONDS = 0.2
#: The number of tables that are checked for emptiness at a time.
EMPTY_TABLES = 250


class _Read(NamedTuple):
    """The read of a table that goes on in the next slice; ``changes`` are the writer's before."""

    table: Table
    chunks: AsyncGenerator[Chunk, None]
    changes: int


class Backfill:
    """Backfills the tables of ``tracker`` from ``source`` through ``writer``.

    Slices, and the times between commits, are ``times`` times as long as usual. ``others_wait``
    tells whether the stream or the discovery waits, so that the slice should end after its time;
    ``interrupted`` tells whether it should end at once.
    """

    def __init__(
        self,
        source: Source,
        writer: TargetWriter,
        tracker: ProgressTracker,
        settings: BackfillSettings,
        *,
        times: int = 1,
        others_wait: Callable[[], bool],
        interrupted: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._metrics = metrics
        self._writer = writer
        self._tracker = tracker
        self._settings = settings
        self._times = times
        self._others_wait = others_wait
        self._interrupted = interrupted
        self._started = 0.0
        self._left: _Read | None = None
        self._checked: set[TableId] = set()  # for emptiness
        #: A table whose live shape is ahead of the stream (None: it may be the same shape), and the
        #: position that must be passed.
        self._blocked: tuple[Table | None, str] | None = None

    def possible(self) -> bool:
        """Whether a table can be backfilled at the writer's position."""
        if self._tracker.next_table() is None:
            return False
        return self._blocked is None or self._source.reached(
            self._writer.position, self._blocked[1]
        )

    async def run_slice(self) -> None:
        """Backfill for one time slice. The target is at a commit before and after."""
        self._started = time.monotonic()
        while self.possible() and (table := self._tracker.next_table()) is not None:
            try:
                await self._backfill(table)
            except ShapeChanged as error:
                await self._block(table, error)
            if self._slice_is_over():
                break
        await self._make_live()
        if self._writer.transaction is Transaction.WHOLE:
            await self._writer.commit()

    async def _backfill(self, table: Table) -> None:
        if not table.key:
            await self._read_whole(table)
        elif self._seems_empty(table):
            await self._check_empty_tables()
        else:
            await self._read_chunks(table)

    def _slice_is_over(self) -> bool:
        if self._interrupted():
            return True
        elapsed = time.monotonic() - self._started
        return elapsed >= self._settings.slice_seconds * self._times and self._others_wait()

    async def _make_live(self) -> None:
        """Make tables live whose high watermark the stream has already passed.

        Each transaction makes a bounded number of tables live, because each table takes locks.
        """
        position = self._writer.position
        while caught_up := self._tracker.caught_up(position, self._source.reached):
            await self._writer.apply(caught_up)
            await self._writer.commit()

    # -- tables without rows -----------------------------------------------------------------------

    def _seems_empty(self, table: Table) -> bool:
        progress = self._tracker.progress[table.id]
        return (
            progress.state == "pending"
            and not progress.estimate
            and bool(table.key)
            and table.id not in self._checked
        )

    async def _check_empty_tables(self) -> None:
        """Check a group of tables that seem to be empty. Those that are empty become live; the
        others are read in chunks later.
        """
        tables = list(filter(self._seems_empty, self._tracker.pending))[:EMPTY_TABLES]
        self._checked.update(table.id for table in tables)
        source, position = self._snapshot_source(), self._writer.position
        chunks = await asyncio.to_thread(source.empty, tables, position)
        for chunk in chunks:
            await self._writer.backfill(chunk)
        if chunks:
            self._blocked = None
            await self._make_live()

    # -- chunks ------------------------------------------------------------------------------------

    async def _read_chunks(self, table: Table) -> None:
        """Read a table with a key, chunk by chunk, until the slice is over."""
        chunks, over = await self._take_read(table), False
        try:
            while not over and await self._write(table, chunks, self._pauses):
                if self._commit_is_due():
                    await self._writer.commit()
                over = self._slice_is_over()
        finally:
            if over:
                self._left = _Read(table, chunks, self._writer.changes)
            else:
                await chunks.aclose()

    async def _take_read(self, table: Table) -> AsyncGenerator[Chunk, None]:
        """The read that the last slice has left, if the stream has changed nothing since; else a
        new one.
        """
        left = self._left
        if left is None or left.table is not table or left.changes != self._writer.changes:
            await self.close()
            return self._chunks(table)
        self._left = None
        return left.chunks

    async def close(self) -> None:
        """End the read that the last slice has left."""
        left, self._left = self._left, None
        if left is not None:
            await left.chunks.aclose()

    async def _read_whole(self, table: Table) -> None:
        """Read a keyless table in one target transaction, because it is read at one position."""
        if self._writer.transaction is Transaction.WHOLE:
            await self._writer.commit()
        committed = False
        try:
            await self._writer.apply([Truncate(table)])
            async with aclosing(self._chunks(table)) as chunks:
                while await self._write(table, chunks, self._interrupted):
                    if self._interrupted():
                        break
            if self._tracker.progress[table.id].state == "catching_up":
                await self._writer.commit()
                committed = True
        finally:
            if not committed:
                self._tracker.restart(table.id)
                await self._writer.rollback()

    def _commit_is_due(self) -> bool:
        return self._writer.seconds_since_commit >= COMMIT_SECONDS * self._times

    def _pauses(self) -> bool:
        return self._commit_is_due() or self._slice_is_over()

    async def _write(
        self, table: Table, chunks: AsyncGenerator[Chunk, None], pauses: Callable[[], bool]
    ) -> bool:
        """Write one chunk, or more of them until ``pauses``. Returns whether some may be left."""
        if not self._writer.applies_reads(table):
            chunk = await anext(chunks, None)
            if chunk is not None:
                await self._writer.backfill(chunk)
                self._blocked = None
            return chunk is not None
        some = UntilPause(chunks, pauses)
        await self._writer.backfill_reads(table, some.chunks())
        if some.found:
            self._blocked = None
            if some.error is not None and table.key:
                await self._writer.commit()
        return some.finish()

    async def _chunks(self, table: Table) -> AsyncGenerator[Chunk, None]:
        """The table's chunks after its cursor. The next one is read while one is written."""
        progress = self._tracker.progress[table.id]
        source = self._snapshot_source()
        filter_rows(source, self._writer, table)
        chunks = source.chunks(
            table,
            progress.cursor,
            self._writer.position,
            rows=self._settings.chunk_rows,
            readers=self._settings.readers,
            part=progress.part,
            columns=progress.columns,
        )

        def read() -> asyncio.Future[Chunk | None]:
            return asyncio.ensure_future(asyncio.to_thread(next, chunks, None))

        ahead = read()
        try:
            # Shielded: a generator cannot be closed while a thread runs it.
            while (chunk := await self._read(ahead)) is not None:
                ahead = read()
                yield chunk
        except asyncio.CancelledError:
            self._source.stop()  # so that a read that waits ends, too
            raise
        finally:
            await asyncio.shield(_close_after(ahead, chunks))

    async def _read(self, ahead: asyncio.Future[Chunk | None]) -> Chunk | None:
        with self._metrics.stage("chunk"):
            return await asyncio.shield(ahead)

    def _snapshot_source(self) -> SnapshotSource:
        if isinstance(self._source, SnapshotSource):
            return self._source
        raise SourceError(
            "tables are to be backfilled, and the source holds only a log",
            hint="set [source] url to the server that the pipeline has followed; or begin anew with"
            " the log: `tailrace reset CONFIG`, then `tailrace run CONFIG`",
        )

    async def _block(self, table: Table, error: ShapeChanged) -> None:
        """Postpone the table until the stream has passed what is in the log now.

        If the stream has not changed the table then, and the live shape still differs, the log does
        not contain the schema change. Tables are compared by identity: two schema changes may
        result in an equal one.
        """
        differs = not isinstance(error, TableRecreated)
        if differs and self._blocked is not None and self._blocked[0] is table:
            raise UnloggedChange(
                "the table was altered, and the log does not contain the change",
                hint=f"undo the change, or {BACKFILL}",
                table=table.id,
                position=self._writer.position,
            ) from error
        position = await asyncio.to_thread(self._source.position)
        self._blocked = (table if differs else None, position)


def filter_rows(source: SnapshotSource, writer: TargetWriter, table: Table) -> None:
    """Tell the source which rows of a table its backfill need not read."""
    rows = writer.row_filter(table)
    if rows is not None and isinstance(source, FiltersRows):
        source.filter(table, rows)


async def _close_after(
    ahead: asyncio.Future[Chunk | None], chunks: Generator[Chunk, None, None]
) -> None:
    await asyncio.gather(ahead, return_exceptions=True)
    await asyncio.to_thread(chunks.close)
