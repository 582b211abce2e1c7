"""
The loop: open both sides, follow the log, copy the tables in between, commit, retry.

One attempt (``_Session``) runs from the target's checkpoint until the end, a stop, or an error.
After any retryable error both sides are dropped and the next attempt reads the checkpoint back from
the target: there is one path for a lost source, a lost target and a COMMIT of unknown outcome.

    queue (a thread decodes) → batcher → snapshot.admit → sink.apply → sink.commit
                      copying: chunks of tables ──────────────▲   between two batches
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress

import msgspec

from engine.change import CaughtUp, Commit, Heartbeat, Rows, SchemaChange, Truncate
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Sink, Source, State
from engine.errors import SourceError, TailraceError
from engine.ops.metrics import Metrics
from engine.pipeline.backfill import Backfill
from engine.pipeline.batching import Batch, Batcher
from engine.pipeline.discovery import Discovery
from engine.pipeline.reader_queue import ReaderQueue
from engine.pipeline.table_progress import ProgressTracker
from engine.schema import TableId
from engine.settings.loader import BackfillSettings, BatchSettings, RetrySettings

__all__ = ["Pipeline", "Progress"]

log = logging.getLogger("tailrace.pipeline")

#: How long a position that came without rows may stay unsaved.
SAVE_SECONDS = 1.0
#: How long rows may stay uncommitted while more of the log waits to be applied.
COMMIT_SECONDS = 0.5
#: The share of the limits from which on a batch is large.
LARGE_SHARE = 0.5
#: A heartbeat that is not older says that the log is silent.
QUIET_SECONDS = 1.0
#: How often the catalog is read again while it changes under our eyes, before we give up.
CATALOG_ATTEMPTS = 10
#: The changes that leave something in the target.
DATA = (Rows, SchemaChange, Truncate, CaughtUp)


class Progress(msgspec.Struct, frozen=True):
    """How far a running pipeline is, for people; counts are since the start of the process.

    ``current_at`` is the Unix time at which the target was equal to the source last, as far as one
    can know: the commit time of the last applied transaction, or now while nothing is left to
    apply. So ``lag_seconds`` is 0 on an idle source and grows while a side is away; None before the
    first sign.
    """

    state: str
    rows: int
    backfilled_rows: int
    reconnects: int
    position: str
    current_at: float
    tables: Mapping[TableId, TableProgress]

    @property
    def lag_seconds(self) -> float | None:
        """The age of the target's state."""
        return max(0.0, time.time() - self.current_at) if self.current_at else None


class Pipeline:
    """Mirrors ``source`` into ``sink`` until stopped. ``name`` is the checkpoint's key in the
    target.

    Guarantee: every committed transaction of a followed table is applied exactly once, in commit
    order, as far as the sink's own guarantee goes.
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
    ) -> None:
        self.name = name
        self.source = source
        self.sink = sink
        self.batch = batch
        self.backfill = backfill
        self.retry = retry
        self.metrics = metrics
        self.stopping = asyncio.Event()
        self.rows = 0
        self.backfilled_rows = 0
        self.current_at = 0.0
        self._epoch: int | None = None
        self._goal: str | None = None
        self._session: _Session | None = None
        self._reconnects = 0

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Run until ``stop``, the end of a finite log, or an error that waiting does not mend.

        With ``until_caught_up``, until everything that the source held at the start is applied and
        every table is copied. Raises ``TailraceError``.
        """
        delay = self.retry.first_seconds
        failing_since: float | None = None
        while not self.stopping.is_set():
            try:
                if await self._attempt(until_caught_up):
                    return
                continue
            except TailraceError as error:
                if self._session is not None and self._session.commits:
                    delay, failing_since = self.retry.first_seconds, None
                self._session = None
                failing_since = failing_since or time.monotonic()
                if not self._may_retry(error, failing_since):
                    raise
                self._note_retry(error, delay)
            await self._pause(delay * random.uniform(0.7, 1.0))
            delay = min(delay * 2, self.retry.max_seconds)

    def stop(self) -> None:
        """Finish: take no more from the log, apply and commit what is whole, then return."""
        self.stopping.set()
        self.source.stop()

    def progress(self) -> Progress:
        """Where the pipeline is now."""
        session = self._session
        return Progress(
            state="connecting" if session is None else session.state,
            rows=self.rows,
            backfilled_rows=self.backfilled_rows,
            reconnects=self._reconnects,
            position="" if session is None else session.position,
            current_at=self.current_at,
            tables={} if session is None else session.snapshot.progress,
        )

    def _may_retry(self, error: TailraceError, failing_since: float) -> bool:
        limit = self.retry.give_up_seconds
        return error.retryable and not (limit and time.monotonic() - failing_since > limit)

    def _note_retry(self, error: TailraceError, delay_seconds: float) -> None:
        self._reconnects += 1
        self.metrics.reconnected("source" if isinstance(error, SourceError) else "sink")
        log.warning(
            "a side cannot be reached, going on from the checkpoint when it can",
            extra={
                "pipeline": self.name,
                "error": str(error),
                "hint": error.hint,
                "delay_seconds": round(delay_seconds, 3),
            },
        )

    async def _attempt(self, until_caught_up: bool) -> bool:
        """Run from the checkpoint on; false if that is to be done again at once."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self.source.close)
            stack.push_async_callback(self.sink.close)
            state = await self.sink.open(self._epoch)
            self._epoch = state.epoch
            if until_caught_up and self._goal is None:
                self._goal = await asyncio.to_thread(self.source.position)
            self._session = _Session.of(self, state)
            await self._session.start(anew=state.checkpoint is None)
            return await self._session.run(self._goal)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()


class _Session:
    """One attempt, from the checkpoint that the target holds."""

    _queue: ReaderQueue

    def __init__(
        self, pipeline: Pipeline, epoch: int, checkpoint: Checkpoint, snapshot: ProgressTracker
    ):
        self._pipeline = pipeline
        self._source = pipeline.source
        self._sink = pipeline.sink
        self._metrics = pipeline.metrics
        self._epoch = epoch
        self.snapshot = snapshot
        self.position = checkpoint.position
        self.committed_at = checkpoint.committed_at
        self.commits = 0
        self.state = "connecting"
        pipeline.current_at = pipeline.current_at or checkpoint.committed_at
        self._saved_at = time.monotonic()
        self._unsaved = False  # ``position`` is ahead of the stored one
        self._accepted = False  # the source has taken our position: it has sent something
        self._quiet = False  # the source has said that there is nothing more to read
        self._open = False  # there are rows in the sink's transaction
        self._inside = False  # the last of them are of a transaction that goes on
        self._large = False  # the last batch was a large one: we are behind
        batch, ends = pipeline.batch, (pipeline.source, pipeline.sink, snapshot)
        self._batcher = Batcher(batch.max_rows, batch.max_bytes, batch.max_age_seconds)
        self._discovery = Discovery(
            *ends,
            pipeline.backfill,
            save=self._save,
            meanwhile=self._backfill_slice,
            stopping=pipeline.stopping.is_set,
        )
        self._backfill = Backfill(
            *ends,
            pipeline.backfill,
            pipeline.metrics,
            save=self._save,
            copied=self._count_copied,
            others_wait=self._others_wait,
            stopping=pipeline.stopping.is_set,
        )

    # -- opening -----------------------------------------------------------------------------------

    @classmethod
    def of(cls, pipeline: Pipeline, state: State) -> _Session:
        """At the target's checkpoint, or before the first one."""
        checkpoint = state.checkpoint or Checkpoint(pipeline.name, state.epoch, "")
        snapshot = ProgressTracker(state.tables, checkpoint.progress, pipeline.source.includes)
        return cls(pipeline, state.epoch, checkpoint, snapshot)

    async def start(self, *, anew: bool) -> None:
        """Look for new tables; ``anew``: make the first checkpoint with them."""
        await self._discovery.look()
        if anew and self._source.can_snapshot:
            await self._begin_anew()

    async def _begin_anew(self) -> None:
        """The first checkpoint: a position at which the tables' shapes are known."""
        if not self._discovery:
            log.warning(
                "no table of the source matches; only tables that are created later are followed",
                extra={"pipeline": self._pipeline.name},
            )
        for _ in range(CATALOG_ATTEMPTS):
            self.position = self._discovery.position
            if await self._discovery.adopt(self.position):
                return
        raise SourceError(
            "the source's tables change faster than they can be listed",
            hint="start again when no schema migration runs",
        )

    # -- running -----------------------------------------------------------------------------------

    async def run(self, goal: str | None) -> bool:
        """Follow the log, and copy in between, until the goal, a stop or the end of the log.

        False when newcomers were adopted: a stream follows the tables with which it was opened, so
        it takes a new one.
        """
        self.state = "streaming"
        position, tables, waiting = self.position, self.snapshot.tables, self._discovery.waiting
        self._queue = ReaderQueue(
            lambda: self._source.stream(position or None, tables, waiting),
            self._pipeline.batch.queue_bytes,
        )
        try:
            while not self._finished(goal):
                await self._stream_turn()
                if self._pipeline.stopping.is_set():
                    self._source.stop()
                elif not (self._open or self._inside):
                    if self._discovery and await self._discovery.adopt(self.position):
                        return False
                    await self._backfill_slice()
            if self._unsaved:
                await self._save()
            return True
        finally:
            self._source.stop()
            await self._queue.close()

    def _finished(self, goal: str | None) -> bool:
        if self._queue.ended and not self._batcher:
            return True
        return (
            goal is not None
            and self._accepted
            and not self._open
            and self.snapshot.live
            and not self._discovery
            and self._source.reached(self.position, goal)
        )

    async def _stream_turn(self) -> None:
        """Wait for changes unless something else is to be done; write at most one batch."""
        queue, batcher = self._queue, self._batcher
        now = time.monotonic()
        batch = batcher.take(now) if batcher.full(now) else None
        if batch is None:
            copying = self._may_backfill() and not self._inside
            for read in await queue.get(0.0 if copying else SAVE_SECONDS):
                self._accepted = True
                now = time.monotonic()
                batcher.add(read.changes, read.rows, read.size, now)
            if batcher.full(now) or not queue.ready:
                batch = batcher.take(now)
        if batch is not None:
            await self._write(batch)
        elif queue.ended and batcher:
            await self._drop_unfinished()
        if self._unsaved and not self._inside and self._save_due():
            await self._save()
        if self._quiet and not (queue.ready or batcher or self._inside):
            self._pipeline.current_at = time.time()

    async def _drop_unfinished(self) -> None:
        """The log ended inside a transaction: it was not committed, or it will be sent again."""
        self._batcher.clear()
        if self._unsaved and not self._inside:
            await self._save()
        else:
            self._open = self._inside = False
            await self._sink.rollback()

    async def _write(self, batch: Batch) -> None:
        """Apply a batch. What is whole stands by itself: a piece of a transaction that goes on may
        be rolled back, so what came before it is committed first.
        """
        if batch.end is None and self._unsaved and not self._inside:
            await self._save()
        in_backfill = self.snapshot.in_backfill
        changes = self.snapshot.admit(batch.changes)
        if batch.end is not None:
            self.position = str(batch.end.position)
            if in_backfill:
                changes = changes + self.snapshot.passed(self.position, self._source.reached)
        if any(isinstance(change, DATA) for change in changes):
            with self._metrics.stage("apply"):
                applied = await self._sink.apply(changes, in_backfill)
            self._open = True
            self._pipeline.rows += sum(applied.rows.values())
            self._metrics.applied(applied)
            transactions = list(map(type, changes)).count(Commit)
            self._metrics.batch(batch.rows, batch.size, transactions)
        self._inside = batch.end is None
        limits = self._pipeline.batch
        self._large = max(batch.rows / limits.max_rows, batch.size / limits.max_bytes) > LARGE_SHARE
        if batch.end is not None:
            self._note_time(batch.end)
            self._unsaved = True

    def _save_due(self) -> bool:
        """Rows are committed at once. But while large batches follow each other they are committed
        now and then, for each commit waits for the target's disk.
        """
        elapsed = time.monotonic() - self._saved_at
        if not self._open:
            return elapsed >= SAVE_SECONDS
        behind = self._large and self._queue.ready and not self._pipeline.stopping.is_set()
        return not behind or elapsed >= COMMIT_SECONDS or self._may_backfill()

    def _note_time(self, end: Commit | Heartbeat) -> None:
        """Up to when the target is equal to the source, once this is saved: the last commit's time,
        or what a heartbeat says. One that says "now" means that the log is silent.
        """
        at = end.at if isinstance(end, Heartbeat) else end.committed_at
        self._quiet = isinstance(end, Heartbeat) and time.time() - at < QUIET_SECONDS
        if at:
            self.committed_at = at
            if not self._open:
                self._pipeline.current_at = at

    async def _save(self) -> None:
        """Make everything applied durable together with the checkpoint."""
        checkpoint = Checkpoint(
            self._pipeline.name,
            self._epoch,
            self.position,
            self.committed_at,
            self.snapshot.progress,
        )
        with self._metrics.stage("commit"):
            await self._sink.commit(checkpoint)
        if self._unsaved and self._open:
            self._pipeline.current_at = max(self._pipeline.current_at, self.committed_at)
        self._open = self._unsaved = False
        self._saved_at = time.monotonic()
        self.commits += 1
        self._source.acknowledge(self.position)

    # -- between two batches -----------------------------------------------------------------------

    async def _backfill_slice(self) -> None:
        """The target is at a commit: copy for a while."""
        if self._may_backfill():
            self.state = "backfilling"
            await self._backfill.turn(self.position)
        if self.snapshot.next_table() is None:
            self.state = "streaming"

    def _may_backfill(self) -> bool:
        return self._backfill.possible(self.position)

    def _others_wait(self) -> bool:
        """Whether copying keeps something else from its turn."""
        return bool(self._discovery) or self._queue.ready

    def _count_copied(self, rows: int) -> None:
        self._pipeline.backfilled_rows += rows
