"""
One attempt of a pipeline: from the target's checkpoint until the end, a stop, or an error.

    reader queue (a thread decodes) → batcher → TargetWriter: admit → apply → commit
                          backfill: chunks of tables ────────▲      between two batches

``Attempt._turn`` has the order of the work. Opening, closing and retrying is the part of
``engine.pipeline.loop``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from engine.change import Heartbeat, SchemaChange
from engine.checkpoint import Checkpoint
from engine.contract import (
    ReadsByPolicy,
    Sink,
    SnapshotSource,
    Source,
    State,
)
from engine.distance import KnowsDistance
from engine.errors import ConfigError, SourceError, UnloggedChange
from engine.log_status import MeasuresWaits, now_at
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics
from engine.ops.status import PipelineState
from engine.ops.tracing import Tracing
from engine.pipeline.backfill import Backfill
from engine.pipeline.batching import Batch, Batcher, times_larger
from engine.pipeline.columns import reads_alone
from engine.pipeline.counters import Counters
from engine.pipeline.discovery import Discovery
from engine.pipeline.events import Events
from engine.pipeline.reader_queue import ReaderQueue
from engine.pipeline.stop_request import StopRequest
from engine.pipeline.stored_commands import StoredCommands
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.twins import Twins
from engine.pipeline.unlogged import UnloggedChanges
from engine.pipeline.writer import TargetWriter, Transaction
from engine.remedies import BACKFILL
from engine.schema import TableId
from engine.settings.loader import BackfillSettings, BatchSettings

__all__ = ["Attempt", "Shared"]

#: How long a position without rows may stay uncommitted.
POSITION_SECONDS = 1.0
#: How long rows may stay uncommitted while more of the log waits to be applied.
COMMIT_SECONDS = 0.5
#: The share of the limits above which a batch is large.
LARGE_SHARE = 0.5
#: The log is silent if the time of its last heartbeat differs by less from that of now. A later
#: one is the time of a transaction whose session has set it.
SILENT_SECONDS = 1.0
#: How often the catalog is read again while it changes, before the pipeline gives up.
CATALOG_ATTEMPTS = 10


@dataclass(frozen=True)
class Shared:
    """What the attempts of one pipeline share."""

    name: str
    source: Source
    sink: Sink
    mapping: Mapping
    batch: BatchSettings
    backfill: BackfillSettings
    metrics: Metrics
    unlogged: UnloggedChanges
    stored: StoredCommands
    stop: StopRequest
    counters: Counters
    events: Events
    tracing: Tracing

    def place(self, position: str) -> str:
        """The place of a position in the source's log, in the form that people read."""
        return self.unlogged.place(position)


class _Log(Enum):
    """What the last read of the log says about what is left in it."""

    #: Nothing was read yet, so the source has not accepted the position.
    UNREAD = "unread"
    #: The last batch was large, so more is likely to follow.
    BEHIND = "behind"
    FLOWING = "flowing"
    #: The last heartbeat says that nothing is left to read.
    SILENT = "silent"


class Attempt:
    """One attempt, from the checkpoint that the target holds."""

    _queue: ReaderQueue

    def __init__(self, pipeline: Shared, state: State) -> None:
        checkpoint = state.checkpoint or Checkpoint(pipeline.name, state.epoch, "")
        self._first = state.checkpoint is None and isinstance(pipeline.source, SnapshotSource)
        self._pipeline = pipeline
        self._state: PipelineState = "connecting"
        self._source = source = pipeline.source
        self._stop = stop = pipeline.stop
        self._log = _Log.UNREAD
        #: The position of the checkpoint from which the attempt has started.
        self.start = checkpoint.position
        state = pipeline.mapping.restore(state)
        twins = Twins(state.tables, checkpoint.progress)
        self._outdated = twins.outdated(state.outdated)
        if isinstance(source, ReadsByPolicy):
            self._outdated.update(source.outdated(twins.followed))
        self.tracker = tracker = ProgressTracker(
            *(twins.followed, checkpoint.progress, source.includes),
            reads_parts=pipeline.unlogged.reads_parts,
            reads_columns=self._reads_columns,
            place=pipeline.place,
        )
        self.writer = writer = TargetWriter(
            *(source, pipeline.sink, tracker, twins, pipeline.mapping, checkpoint),
            epoch=state.epoch,
            metrics=pipeline.metrics,
            counters=pipeline.counters,
            letters=pipeline.unlogged.letters,
            events=pipeline.events,
            tracing=pipeline.tracing,
        )
        batch, sink = pipeline.batch, pipeline.sink
        self._times = times = (
            times_larger(sink.round_trip_seconds) if isinstance(sink, KnowsDistance) else 1
        )
        self._batcher = Batcher(
            batch.max_rows * times, batch.max_bytes * times, batch.max_age_seconds
        )
        self._backfill = Backfill(
            *(source, writer, tracker, pipeline.backfill),
            times=times,
            others_wait=self._others_wait,
            interrupted=lambda: bool(stop),
            metrics=pipeline.metrics,
        )
        self._discovery = Discovery(
            *(source, writer, tracker, pipeline.backfill),
            between=self._run_backfill,
            interrupted=lambda: bool(stop),
            unlogged=pipeline.unlogged,
        )

    def _reads_columns(self, change: SchemaChange) -> bool:
        """Whether the new columns of a table are backfilled alone. A mapped table has other columns
        on the target.
        """
        table, pipeline = change.after, self._pipeline
        mapped = table is not None and pipeline.mapping.of(table) is not None
        return pipeline.unlogged.reads_columns and not mapped and reads_alone(change)

    @property
    def state(self) -> PipelineState:
        """What the pipeline does now."""
        return self._state

    @state.setter
    def state(self, state: PipelineState) -> None:
        if state != self._state:
            self._state = state
            self._pipeline.events.state(state, self._pipeline.place(self.writer.committed))

    @property
    def outdated(self) -> list[UnloggedChange]:
        """The tables whose rows were read or are stored in another form than the settings say."""
        hint = f"set it back, or {BACKFILL}"
        return [
            UnloggedChange(reason, hint=hint, table=id) for id, reason in self._outdated.items()
        ]

    @property
    def reads(self) -> bool:
        """Whether the source has accepted the position."""
        return self._log is not _Log.UNREAD

    @property
    def queued_bytes(self) -> int:
        """The bytes of memory of the changes that are read and not applied yet."""
        return self._batcher.size + (self._queue.size if self.reads else 0)

    @property
    def waiting_since(self) -> float:
        """When the source committed the first transaction that is read and not being applied; 0.0
        if there is none.
        """
        return self._batcher.waiting_since or (self._queue.waiting_since if self.reads else 0.0)

    def drain(self) -> None:
        """Show that a stop was asked for."""
        if self.state in ("backfilling", "streaming"):
            self.state = "draining"

    def find(self, name: str | None) -> TableId | None:
        """The table that an error names, if it is one of the followed tables: also one that is
        dropped or renamed by what is not committed yet.
        """
        if self._first and not self.writer.commits:
            return None
        known = {*self.writer.committed_progress, *self.tracker.progress}
        found = [id for id in known if str(id) == name]
        return found[0] if len(found) == 1 else None

    def ignores(self, id: TableId) -> bool:
        """Whether the stream reports nothing about a table."""
        return id in self.tracker.waiting or id in self.tracker.quarantined

    async def prepare(self, *, first: bool) -> None:
        """Discover new tables. At the ``first`` start of a pipeline, follow them and make the first
        checkpoint, at a position at which their shapes are known.
        """
        await self._discovery.discover()
        if not (first and isinstance(self._source, SnapshotSource)):
            return
        if not self._discovery.found:
            raise next(iter(self._discovery.refused.values()), None) or ConfigError(
                "no table of the source matches",
                hint="correct tables and exclude in [source], and grant the user SELECT on these"
                " tables",
            )
        for _ in range(CATALOG_ATTEMPTS):
            self.writer.begin(self._discovery.position, self._discovery.position_at)
            if await self._discovery.start_following():
                return
        raise SourceError(
            "the source's tables change faster than they can be listed",
            hint="`tailrace run CONFIG` when no schema migration runs",
        )

    async def pause(self) -> bool:
        """Apply nothing until a command waits; then return False. Returns True after a stop."""
        self.state, self._pipeline.counters.silent = "paused", False
        while not self._stop:
            await self._stop.wait(POSITION_SECONDS)
            await self.writer.commit()  # which tells whether commands wait
            if self._commands_wait():
                return False
        return True

    async def run(self, goal: str | None) -> bool:
        """Follow the log, and backfill in between, until the goal, a stop, or the end of the log.

        Returns False if new tables are followed, or commands wait: a stream follows the tables with
        which it was opened, so a new one has to be opened.
        """
        position, tables = self.writer.position, self.tracker.tables
        discovered = list(self._discovery.found)
        ignored = (*self.tracker.waiting, *self.tracker.quarantined)
        self._queue = ReaderQueue(
            lambda: self._source.stream(position or None, tables, discovered, ignored),
            self._pipeline.batch.queue_bytes * self._times,
            _measuring(self._pipeline.metrics, self._source),
        )
        try:
            while not self._finished(goal):
                if self._stop:
                    self._source.stop()
                self.state = self._precedence()
                if await self._turn():
                    return False
            await self._finish()
            return True
        finally:
            self._source.stop()
            await self._queue.close()
            await self._backfill.close()

    def _precedence(self) -> PipelineState:
        """The state, in order of precedence."""
        if self._stop:
            return "draining"
        return "streaming" if self.tracker.next_table() is None else "backfilling"

    def _finished(self, goal: str | None) -> bool:
        if self._queue.ended and not self._batcher:
            if self.writer.transaction is Transaction.PARTIAL or self._stop:
                return True
            return not (self._discovery.due() or self._backfill.possible())
        return (
            goal is not None
            and self._log is not _Log.UNREAD
            and bool(self.writer.position)
            and self.writer.transaction is Transaction.EMPTY
            and self.tracker.live
            and not self._discovery.found
            and not self.tracker.waiting
            and self._pipeline.stored.repair is None
            and self._source.reached(self.writer.position, goal)
        )

    async def _turn(self) -> bool:
        """Do these steps in order, each if it applies:

        1. Read what waits in the queue, and write one batch. Wait for the log if no table can be
           backfilled, or if a source transaction is applied only in part.
        2. Commit, if the transaction is whole and the commit is due.
        3. Write the rows of a repair whose reads the stream has passed. End the attempt if stored
           commands wait: the next one executes them at its start. Or if
           a table was dropped whose name the stream ignores: the next one does not.
        4. Follow discovered tables, if the target is at a commit and the stream has passed the
           position of their discovery.
        5. Backfill for a time slice, if the target is at a commit.

        So a busy stream and the backfill take turns. Returns True if the next attempt has to start,
        because commands wait or new tables are followed.
        """
        await self._advance_stream()
        if self._commit_is_due():
            await self.writer.commit()
        if self.writer.transaction is not Transaction.EMPTY:
            return False
        silent = self._log is _Log.SILENT and not (self._queue.ready or self._batcher)
        self._pipeline.counters.silent = silent
        if self._stop:
            return False
        if not await self._pipeline.stored.go_on(self.writer, self.tracker):
            return True
        if self._commands_wait() or self.tracker.forgotten:
            return True
        if self._discovery.due() and await self._discovery.start_following():
            return True
        await self._run_backfill()
        return False

    async def _advance_stream(self) -> None:
        """Write a batch if one is full. Else read, then write a batch if one is full, or if one is
        whole and nothing more waits to be read.
        """
        batcher, queue = self._batcher, self._queue
        now = time.monotonic()
        batch = batcher.take(now) if batcher.full(now) else None
        if batch is None:
            await self._read()
            now = time.monotonic()
            if batcher.full(now) or not queue.ready:
                batch = batcher.take(now)
        if batch is not None:
            await self._write(batch)
        elif queue.ended:
            batcher.clear()  # the log has ended inside a transaction

    async def _read(self) -> None:
        """Move what waits in the queue to the batcher, until a batch is full."""
        between = self.writer.transaction is not Transaction.PARTIAL
        wait_seconds = 0.0 if between and self._backfill.possible() else POSITION_SECONDS
        rows, size = self._batcher.room
        for read in await self._queue.get(wait_seconds, rows, size):
            if self._log is _Log.UNREAD:
                self._log = _Log.FLOWING
            self._batcher.add(read.changes, read.rows, read.size, time.monotonic())

    async def _write(self, batch: Batch) -> None:
        if (repair := self._pipeline.stored.repair) is not None:
            repair.watch(batch.changes)
        await self.writer.write(batch)
        limits = self._pipeline.batch
        share = max(batch.rows / limits.max_rows, batch.size / limits.max_bytes)
        now = now_at(self._source)
        if share > LARGE_SHARE:
            self._log = _Log.BEHIND
        elif isinstance(batch.end, Heartbeat) and abs(now - batch.end.at) < SILENT_SECONDS:
            self._log = _Log.SILENT
        else:
            self._log = _Log.FLOWING

    def _commit_is_due(self) -> bool:
        """Rows are committed at once. While large batches follow each other, several share a
        transaction, because each commit waits for the target's disk.
        """
        writer = self.writer
        if writer.transaction is Transaction.PARTIAL:
            return False
        if writer.transaction is Transaction.EMPTY:
            return writer.moved and writer.seconds_since_commit >= POSITION_SECONDS
        more = self._log is _Log.BEHIND and self._queue.ready and not self._stop
        return (
            not more or writer.seconds_since_commit >= COMMIT_SECONDS or self._backfill.possible()
        )

    async def _run_backfill(self) -> None:
        if self._backfill.possible():
            self.state = "backfilling"
            await self._backfill.run_slice()

    async def _finish(self) -> None:
        """Commit whole transactions. A partial one is rolled back: the source never committed it,
        or it will be read again.
        """
        if self.writer.transaction is Transaction.PARTIAL:
            await self.writer.rollback()
        elif (
            self.writer.transaction is Transaction.WHOLE
            or self.writer.moved
            or self.writer.has_times
        ):
            await self.writer.commit(last=True)

    def _others_wait(self) -> bool:
        """Whether a backfill slice keeps something else waiting."""
        waiting = self._discovery.found or self._queue.ready or self._queue.failed
        return bool(waiting) or self._commands_wait()

    def _commands_wait(self) -> bool:
        """Whether stored commands wait. They are executed once there is a checkpoint."""
        return self.writer.commits > 0 and self._pipeline.stored.wait


def _measuring(metrics: Metrics, source: Source) -> Callable[[float, float], None]:
    """What the reader thread calls for each read batch, to measure its stages."""
    read, decode, queue = (metrics.stages[stage] for stage in ("read", "decode", "queue"))
    waits = source if isinstance(source, MeasuresWaits) else None
    waited = 0.0 if waits is None else waits.waited_seconds

    def measure(reading_seconds: float, queue_seconds: float) -> None:
        nonlocal waited
        if waits is not None:
            before, waited = waited, waits.waited_seconds
            read.observe(waited - before)
            reading_seconds -= waited - before
        decode.observe(max(0.0, reading_seconds))
        queue.observe(queue_seconds)

    return measure
