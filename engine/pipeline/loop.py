"""
The loop: open source and sink, follow the log, backfill tables in between, commit, retry.

One attempt (``_Attempt``) runs from the target's checkpoint until the end, a stop, or an error.
After a retryable error both sides are closed, and the next attempt reads the checkpoint back from
the target. So a lost source, a lost target and a COMMIT whose outcome is unknown are handled alike.

    reader queue (a thread decodes) → batcher → TargetWriter: admit → apply → commit
                          backfill: chunks of tables ────────▲      between two batches
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from enum import Enum

from engine.change import Heartbeat
from engine.checkpoint import Checkpoint
from engine.contract import Interruptible, ReadsByPolicy, Sink, SnapshotSource, Source, State
from engine.errors import SinkError, SourceError, TailraceError, UnloggedChange
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics
from engine.ops.status import PipelineState, Status, TableStatuses
from engine.pipeline.backfill import Backfill
from engine.pipeline.batching import Batch, Batcher
from engine.pipeline.commands import CommandInbox, Stop
from engine.pipeline.discovery import Discovery
from engine.pipeline.reader_queue import ReaderQueue
from engine.pipeline.retries import Deadline, Retries
from engine.pipeline.selection import follow_selection
from engine.pipeline.stored_commands import StoredCommands
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.twins import Twins
from engine.pipeline.unlogged import UnloggedChanges
from engine.pipeline.writer import Counters, TargetWriter, Transaction
from engine.remedies import BACKFILL
from engine.schema import TableId
from engine.settings.loader import (
    BackfillSettings,
    BatchSettings,
    ErrorSettings,
    RetrySettings,
)

__all__ = ["Pipeline"]

log = logging.getLogger("tailrace.pipeline")

#: How long a position without rows may stay uncommitted.
POSITION_SECONDS = 1.0
#: How long rows may stay uncommitted while more of the log waits to be applied.
COMMIT_SECONDS = 0.5
#: The share of the limits above which a batch is large.
LARGE_SHARE = 0.5
#: The log is silent if its last heartbeat is not older.
SILENT_SECONDS = 1.0
#: How often the catalog is read again while it changes, before the pipeline gives up.
CATALOG_ATTEMPTS = 10
#: How long a stop waits for what is in progress, and then for the end of all waits.
STOP_SECONDS = 6.0
ABORT_SECONDS = 2.0


class Pipeline:
    """Mirrors ``source`` into ``sink`` until it is stopped. ``name`` identifies the checkpoint in
    the target.

    ``errors`` is the policy for trouble with one table. ``config`` is the configuration's path as
    the user typed it, for the command lines in messages. ``mapping`` maps the tables.

    Guarantee: every committed transaction of a followed table is applied in commit order, exactly
    once or at least once, as the sink's ``capabilities`` say.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        sink: Sink,
        *,
        batch: BatchSettings,
        backfill: BackfillSettings,
        retry: RetrySettings,
        metrics: Metrics,
        errors: ErrorSettings | None = None,
        config: str = "",
        mapping: Mapping | None = None,
    ) -> None:
        self.name = name
        self.mapping = mapping or Mapping()
        self.source = source
        self.sink = sink
        self.batch = batch
        self.backfill = backfill
        self.metrics = metrics
        self.commands = CommandInbox()
        self._retries = Retries(name, source, sink, retry, self.commands)
        self.counters = Counters()
        self.state: PipelineState = "connecting"
        self._patience: asyncio.Timeout | None = None
        self._epoch: int | None = None
        self._goal: str | None = None
        self._attempt: _Attempt | None = None
        self._selection_done = False
        self._tables = TableStatuses(config)
        self.unlogged = UnloggedChanges(
            *(name, source, sink, backfill), errors or ErrorSettings(), config
        )
        self.stored = StoredCommands(name, source, sink, self.unlogged)

    async def run(
        self, *, until_caught_up: bool = False, deadline_seconds: float | None = None
    ) -> None:
        """Run until ``stop``, the end of a finite log, or an error that retrying cannot fix.

        With ``until_caught_up``, run until everything that the source holds at the start is applied
        and every table is live. ``DeadlineExceeded`` is raised if the run has not ended by itself
        after ``deadline_seconds``. Raises ``TailraceError``.
        """
        deadline = Deadline(deadline_seconds, self.stop)
        try:
            async with asyncio.timeout(None) as self._patience:
                await self._run(until_caught_up)
        except TimeoutError:
            if self._patience is None or not self._patience.expired():
                raise  # of a source or a sink, which is a bug there
            self._note_abort("no answer from source or target")
        finally:
            self.state, self._patience = "stopped", None
            deadline.cancel()
        deadline.check(self._retries.last_error)

    async def _run(self, until_caught_up: bool) -> None:
        if self.sink.capabilities.guarantee == "at least once":
            log.warning(
                "the sink stores each change at least once, a restart may repeat changes",
                extra={"pipeline": self.name},
            )
        while not self.commands.stopping:
            try:
                if await self._run_attempt(until_caught_up):
                    return
            except TailraceError as error:
                attempt, self._attempt = self._attempt, None
                if (id := self._table_of(error, attempt)) is not None:
                    self.unlogged.take(error, id)
                    continue
                self.state = "connecting"
                await self._retry(error, attempt)

    async def _retry(self, error: TailraceError, attempt: _Attempt | None) -> None:
        """Wait before the next attempt. Raises an error that retrying cannot fix."""
        retries = self._retries
        if attempt is not None:
            if attempt.reads:
                retries.worked()
            if attempt.writer.commits:
                retries.progressed()
            if attempt.writer.committed != attempt.start:
                retries.advanced()
        retries.take(error)
        self.counters.reconnects += 1
        self.metrics.reconnected("sink" if isinstance(error, SinkError) else "source")
        if self.commands.stopping:
            self._note_abort(str(error))
        else:
            await retries.wait(error, connected=attempt is not None and attempt.reads)

    def stop(self) -> None:
        """Read no more of the log, apply and commit whole transactions, then let ``run`` return.

        If that takes longer than STOP_SECONDS, the waits for source and target are ended. What was
        not committed then is read again by the next run.
        """
        if self._patience is not None and not self.commands.stopping:
            loop = asyncio.get_running_loop()
            if isinstance(self.sink, Interruptible):
                loop.call_later(STOP_SECONDS, self.sink.interrupt)
            self._patience.reschedule(loop.time() + STOP_SECONDS + ABORT_SECONDS)
        self.commands.put(Stop())
        if self.state in ("backfilling", "streaming"):
            self.state = "draining"
        self.source.stop()

    def status(self) -> Status:
        """The status now. ``lag_bytes`` is unknown: only the source can tell it."""
        attempt, counters = self._attempt, self.counters
        return Status(
            pipeline=self.name,
            state=self.state,
            epoch=self._epoch,
            position=(counters.position if attempt is None else attempt.writer.position) or None,
            rows=counters.rows,
            backfilled_rows=counters.backfilled_rows,
            reconnects=counters.reconnects,
            lag_seconds=counters.lag_seconds(time.time()),
            dead_letters=self.unlogged.letters.count,
            tables=self._tables.of(None if attempt is None else attempt.tracker.progress),
        )

    def _table_of(self, error: TailraceError, attempt: _Attempt | None) -> TableId | None:
        """The table to leave out after an error, so that the others can go on; None if there is
        none. Before the first checkpoint the error ends the pipeline, as `tailrace check` says.
        """
        if attempt is None or error.retryable or not error.of_one_table:
            return None
        id = error.id if isinstance(error, UnloggedChange) else attempt.find(error.table)
        return None if id is None or attempt.ignores(id) else id

    def _note_abort(self, error: str) -> None:
        log.warning(
            "stopped before everything that was read is applied, the next run resumes from the"
            " checkpoint",
            extra={"pipeline": self.name, "error": error},
        )

    async def _run_attempt(self, until_caught_up: bool) -> bool:
        """Run from the checkpoint on. False if the next attempt has to start at once."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self.source.close)
            stack.push_async_callback(self.sink.close)
            state = await self.sink.open(self._epoch)
            self._epoch = state.epoch
            if until_caught_up and self._goal is None:
                self._goal = await asyncio.to_thread(self.source.position)
            self._attempt = _Attempt(self, state)
            writer, tracker = self._attempt.writer, self._attempt.tracker
            if state.checkpoint is not None and not self._selection_done:
                await follow_selection(self.name, self.source, writer, tracker)
            self._selection_done = True
            await self.unlogged.record(writer, tracker, self._attempt.outdated)
            if state.checkpoint is not None:
                await self.stored.execute(writer, tracker)
            await self._attempt.prepare(first=state.checkpoint is None)
            return await self._attempt.run(self._goal)


class _Log(Enum):
    """What the last read of the log says about what is left in it."""

    #: Nothing was read yet, so the source has not accepted the position.
    UNREAD = "unread"
    #: The last batch was large, so more is likely to follow.
    BEHIND = "behind"
    FLOWING = "flowing"
    #: The last heartbeat says that nothing is left to read.
    SILENT = "silent"


class _Attempt:
    """One attempt, from the checkpoint that the target holds."""

    _queue: ReaderQueue

    def __init__(self, pipeline: Pipeline, state: State) -> None:
        checkpoint = state.checkpoint or Checkpoint(pipeline.name, state.epoch, "")
        self._first = state.checkpoint is None and isinstance(pipeline.source, SnapshotSource)
        self._pipeline = pipeline
        self._source = source = pipeline.source
        self._commands = commands = pipeline.commands
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
        )
        self.writer = writer = TargetWriter(
            *(source, pipeline.sink, tracker, twins, pipeline.mapping, checkpoint),
            epoch=state.epoch,
            metrics=pipeline.metrics,
            counters=pipeline.counters,
            letters=pipeline.unlogged.letters,
        )
        batch = pipeline.batch
        self._batcher = Batcher(batch.max_rows, batch.max_bytes, batch.max_age_seconds)
        self._backfill = Backfill(
            *(source, writer, tracker, pipeline.backfill),
            others_wait=self._others_wait,
            interrupted=lambda: commands.stopping or bool(commands),
        )
        self._discovery = Discovery(
            *(source, writer, tracker, pipeline.backfill),
            between=self._run_backfill,
            interrupted=lambda: commands.stopping,
            unlogged=pipeline.unlogged,
        )

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

    def find(self, name: str | None) -> TableId | None:
        """The table that an error names, if it is one of the followed tables."""
        if self._first and not self.writer.commits:
            return None
        found = [id for id in self.tracker.progress if str(id) == name]
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
            raise SourceError(
                "no table of the source matches",
                hint="correct tables and exclude in [source], and grant the user SELECT on these"
                " tables",
            )
        for _ in range(CATALOG_ATTEMPTS):
            self.writer.position = self._discovery.position
            if await self._discovery.start_following():
                return
        raise SourceError(
            "the source's tables change faster than they can be listed",
            hint="start again when no schema migration runs",
        )

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
            self._pipeline.batch.queue_bytes,
        )
        try:
            while not self._finished(goal):
                self._obey()
                self._pipeline.state = self._state()
                if await self._turn():
                    return False
            await self._finish()
            return True
        finally:
            self._source.stop()
            await self._queue.close()

    def _obey(self) -> None:
        """Act on the commands of this process, between two batches. ``Stop`` is the only one."""
        if self.writer.transaction is not Transaction.PARTIAL:
            self._commands.take()
        if self._commands.stopping:
            self._source.stop()

    def _state(self) -> PipelineState:
        """The state, in order of precedence."""
        if self._commands.stopping:
            return "draining"
        return "streaming" if self.tracker.next_table() is None else "backfilling"

    def _finished(self, goal: str | None) -> bool:
        if self._queue.ended and not self._batcher:
            if self.writer.transaction is Transaction.PARTIAL or self._commands.stopping:
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
            and self._source.reached(self.writer.position, goal)
        )

    async def _turn(self) -> bool:
        """Do these steps in order, each if it applies:

        1. Read what waits in the queue, and write one batch. Wait for the log if no table can be
           backfilled, or if a source transaction is applied only in part.
        2. Commit, if the transaction is whole and the commit is due.
        3. End the attempt if stored commands wait: the next one executes them at its start. Or if
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
        if self._commands.stopping:
            return False
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
        """Move what waits in the queue to the batcher."""
        between = self.writer.transaction is not Transaction.PARTIAL
        wait_seconds = 0.0 if between and self._backfill.possible() else POSITION_SECONDS
        for read in await self._queue.get(wait_seconds):
            if self._log is _Log.UNREAD:
                self._log = _Log.FLOWING
            self._batcher.add(read.changes, read.rows, read.size, time.monotonic())

    async def _write(self, batch: Batch) -> None:
        await self.writer.write(batch)
        limits = self._pipeline.batch
        share = max(batch.rows / limits.max_rows, batch.size / limits.max_bytes)
        if share > LARGE_SHARE:
            self._log = _Log.BEHIND
        elif isinstance(batch.end, Heartbeat) and time.time() - batch.end.at < SILENT_SECONDS:
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
        more = self._log is _Log.BEHIND and self._queue.ready and not self._commands.stopping
        return (
            not more or writer.seconds_since_commit >= COMMIT_SECONDS or self._backfill.possible()
        )

    async def _run_backfill(self) -> None:
        if self._backfill.possible():
            self._pipeline.state = "backfilling"
            await self._backfill.run_slice()

    async def _finish(self) -> None:
        """Commit whole transactions. A partial one is rolled back: the source never committed it,
        or it will be read again.
        """
        if self.writer.transaction is Transaction.PARTIAL:
            await self.writer.rollback()
        elif self.writer.transaction is Transaction.WHOLE or self.writer.moved:
            await self.writer.commit()

    def _others_wait(self) -> bool:
        """Whether a backfill slice keeps something else waiting."""
        waiting = self._discovery.found or self._queue.ready or self._queue.failed
        return bool(waiting) or self._commands_wait()

    def _commands_wait(self) -> bool:
        """Whether stored commands wait. They are executed once there is a checkpoint."""
        return self.writer.commits > 0 and self._pipeline.stored.wait
