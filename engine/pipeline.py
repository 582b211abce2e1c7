"""
The loop: open both sides, follow the log, copy the tables in between, commit, retry.

One attempt (``_Session``) runs from the target's checkpoint until the end, a stop, or an error.
After any retryable error both sides are dropped and the next attempt reads the checkpoint back from
the target: there is one path for a lost source, a lost target and a COMMIT of unknown outcome.

    intake (a thread decodes) → batcher → snapshot.admit → sink.apply → sink.commit
                                    chunks of tables ─────────▲   between two batches
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress

import msgspec

from engine.batching import Batch, Batcher
from engine.change import (
    Change,
    Chunk,
    Commit,
    Heartbeat,
    Rows,
    SchemaChange,
    Settled,
    Truncate,
)
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Sink, Source, State
from engine.errors import SchemaError, ShapeChanged, SourceError, TailraceError
from engine.intake import Intake
from engine.metrics import Metrics
from engine.schema import Table, TableId
from engine.settings import BatchSettings, RetrySettings, SnapshotSettings
from engine.snapshot import Snapshot

__all__ = ["Pipeline", "Progress"]

log = logging.getLogger("tailrace.pipeline")

#: How long a position that came without rows may stay unsaved.
SAVE_SECONDS = 1.0
#: How much copying one target transaction holds at least, unless the stream has its turn before.
COPY_SECONDS = 0.2
#: A heartbeat that is not older says that the log is silent.
QUIET_SECONDS = 1.0
#: How often the catalog is read again while it changes under our eyes, before we give up.
CATALOG_ATTEMPTS = 10
#: The changes that leave something in the target.
DATA = (Rows, SchemaChange, Truncate, Settled)


class Progress(msgspec.Struct, frozen=True):
    """How far a running pipeline is, for people; counts are since the start of the process.

    ``current_at`` is the Unix time at which the target was equal to the source last, as far as one
    can know: the commit time of the last applied transaction, or now while nothing is left to
    apply. So ``lag_seconds`` is 0 on an idle source and grows while a side is away; None before the
    first sign.
    """

    state: str
    rows: int
    copied_rows: int
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
        snapshot: SnapshotSettings,
        retry: RetrySettings,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.source = source
        self.sink = sink
        self.batch = batch
        self.snapshot = snapshot
        self.retry = retry
        self.metrics = metrics
        self.stopping = asyncio.Event()
        self.rows = 0
        self.copied_rows = 0
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
            copied_rows=self.copied_rows,
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
            self._session = await _Session.start(self, state)
            return await self._session.run(self._goal)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()


class _Session:
    """One attempt, from the checkpoint that the target holds."""

    _intake: Intake

    def __init__(self, pipeline: Pipeline, epoch: int, checkpoint: Checkpoint, snapshot: Snapshot):
        self._pipeline = pipeline
        self._source = pipeline.source
        self._sink = pipeline.sink
        self._metrics = pipeline.metrics
        self._epoch = epoch
        self.snapshot = snapshot
        self.position = checkpoint.position
        self.committed_at = checkpoint.committed_at
        self.commits = 0
        self.state = "streaming"
        pipeline.current_at = pipeline.current_at or checkpoint.committed_at
        self._saved_at = time.monotonic()
        self._unsaved = False  # ``position`` is ahead of the stored one, without rows
        self._accepted = False  # the source has taken our position: it has sent something
        self._quiet = False  # the source has said that there is nothing more to read
        self._open = False  # rows of an unfinished transaction are in the sink's transaction
        self._newcomers: list[Table] = []
        self._newcomers_at = ""
        self._blocked: tuple[Table, str] | None = None
        batch = pipeline.batch
        self._batcher = Batcher(batch.max_rows, batch.max_bytes, batch.max_age_seconds)

    # -- opening -----------------------------------------------------------------------------------

    @classmethod
    async def start(cls, pipeline: Pipeline, state: State) -> _Session:
        """Go on from the target's checkpoint, or make the first one."""
        checkpoint = state.checkpoint or Checkpoint(pipeline.name, state.epoch, "")
        snapshot = Snapshot(state.tables, checkpoint.snapshot, pipeline.source.includes)
        session = cls(pipeline, state.epoch, checkpoint, snapshot)
        await session._look_for_newcomers()
        if state.checkpoint is None and pipeline.source.can_snapshot:
            await session._begin_anew()
        return session

    async def _begin_anew(self) -> None:
        """The first checkpoint: a position at which the tables' shapes are known."""
        if not self._newcomers:
            log.warning(
                "no table of the source matches; only tables that are created later are followed",
                extra={"pipeline": self._pipeline.name},
            )
        for _ in range(CATALOG_ATTEMPTS):
            self.position = self._newcomers_at
            if await self._adopt_newcomers():
                return
        raise SourceError(
            "the source's tables change faster than they can be listed",
            hint="start again when no schema migration runs",
        )

    async def _look_for_newcomers(self) -> None:
        """Which tables of the source are not followed yet, and where its log was after we
        looked.
        """
        known = {table.id for table in self.snapshot.tables}
        catalog = await asyncio.to_thread(self._source.catalog)
        self._newcomers = [table for table in catalog if table.id not in known]
        if self._source.can_snapshot:
            self._newcomers_at = await asyncio.to_thread(self._source.position)

    async def _adopt_newcomers(self) -> bool:
        """Follow the newcomers from ``position`` on, once it is certain what they look like there:
        it is not before ``_newcomers_at``, and the catalog is still the same. False: not yet.
        """
        if not self._source.reached(self.position, self._newcomers_at):
            return False
        expected = self._newcomers
        await self._look_for_newcomers()
        if self._newcomers != expected:
            return False
        created: list[Change] = []
        for table in expected:
            change = SchemaChange("", None, table)
            if self._pipeline.snapshot.mode == "never":
                created += self.snapshot.admit([change])
            else:
                self.snapshot.add(table, await asyncio.to_thread(self._source.estimate, table))
                created.append(change)
        await self._sink.apply(created)
        await self._save()
        self._newcomers = []
        return True

    # -- running -----------------------------------------------------------------------------------

    async def run(self, goal: str | None) -> bool:
        """Follow the log, and copy in between, until the goal, a stop or the end of the log.

        False when newcomers were adopted: a stream follows the tables with which it was opened, so
        it takes a new one.
        """
        position, tables = self.position, self.snapshot.tables
        self._intake = Intake(
            lambda: self._source.stream(position or None, tables), self._pipeline.batch.queue_bytes
        )
        try:
            while not self._finished(goal):
                await self._stream_turn()
                if self._pipeline.stopping.is_set():
                    self._source.stop()
                elif not self._open:
                    if self._newcomers and await self._adopt_newcomers():
                        return False
                    await self._copying_turn()
            if self._unsaved:
                await self._save()
            return True
        finally:
            self._source.stop()
            await self._intake.close()

    def _finished(self, goal: str | None) -> bool:
        if self._intake.ended and not self._batcher:
            return True
        return (
            goal is not None
            and self._accepted
            and not self._open
            and self.snapshot.live
            and not self._newcomers
            and self._source.reached(self.position, goal)
        )

    async def _stream_turn(self) -> None:
        """Wait for changes unless something else is to be done; write at most one batch."""
        intake, batcher = self._intake, self._batcher
        now = time.monotonic()
        batch = batcher.take(now) if batcher.full(now) else None
        if batch is None:
            for arrival in await intake.get(0.0 if self._may_copy() else SAVE_SECONDS):
                self._accepted = True
                now = time.monotonic()
                batcher.add(arrival.changes, arrival.rows, arrival.size, now)
            if batcher.full(now) or not intake.ready:
                batch = batcher.take(now)
        if batch is not None:
            await self._write(batch)
        elif intake.ended and batcher:
            await self._drop_unfinished()
        if self._unsaved and not self._open and now - self._saved_at >= SAVE_SECONDS:
            await self._save()
        if self._quiet and not (intake.ready or batcher):
            self._pipeline.current_at = time.time()

    async def _drop_unfinished(self) -> None:
        """The log ended inside a transaction: it was not committed, or it will be sent again."""
        self._batcher.clear()
        self._open = False
        await self._sink.rollback()

    async def _write(self, batch: Batch) -> None:
        """Apply a batch; commit it if it ends with a transaction."""
        settling = self.snapshot.settling
        changes = self.snapshot.admit(batch.changes)
        if batch.end is not None:
            self.position = str(batch.end.position)
            if settling:
                changes = changes + self.snapshot.passed(self.position, self._source.reached)
        if any(isinstance(change, DATA) for change in changes):
            with self._metrics.stage("apply"):
                applied = await self._sink.apply(changes, settling)
            self._open = True
            self._pipeline.rows += sum(applied.rows.values())
            self._metrics.applied(applied)
            transactions = list(map(type, changes)).count(Commit)
            self._metrics.batch(batch.rows, batch.size, transactions)
        if batch.end is not None:
            self._note_time(batch)
            self._unsaved = True
            if self._open:
                await self._save()

    def _note_time(self, batch: Batch) -> None:
        """Up to when the target is equal to the source now: the last commit's time, or what a
        heartbeat says. One that says "now" means that the log is silent.
        """
        at = 0.0
        if isinstance(batch.end, Heartbeat):
            at = batch.end.at
            self._quiet = time.time() - at < QUIET_SECONDS
        elif batch.end is not None:
            at = batch.end.committed_at
            self._quiet = False
        if at:
            self.committed_at = self._pipeline.current_at = at

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
        self._open = self._unsaved = False
        self._saved_at = time.monotonic()
        self.commits += 1
        self._source.acknowledge(self.position)

    # -- between two batches -----------------------------------------------------------------------

    async def _copying_turn(self) -> None:
        """The target is at a commit: copy for a while."""
        started = time.monotonic()
        while self._may_copy() and (table := self.snapshot.next_table()) is not None:
            self.state = "copying"
            try:
                await (self._copy_chunks if table.key else self._copy_whole)(table, started)
            except ShapeChanged as error:
                await self._wait_for_shape(table, error)
            if self._round_over(started):
                break
        if self.state == "copying":
            await self._settle()
        if self._open:
            await self._save()
        if self.snapshot.next_table() is None:
            self.state = "streaming"

    async def _settle(self) -> None:
        """Where nothing was written to the source while a table was copied, it is right already."""
        settled = self.snapshot.passed(self.position, self._source.reached)
        if settled:
            await self._sink.apply(settled)
            self._open = True

    def _may_copy(self) -> bool:
        if self.snapshot.next_table() is None:
            return False
        return self._blocked is None or self._source.reached(self.position, self._blocked[1])

    def _round_over(self, started: float) -> bool:
        """Copying goes on while the stream has nothing to say, else for ``round_seconds``."""
        elapsed = time.monotonic() - started
        return self._pipeline.stopping.is_set() or (
            self._intake.ready and elapsed >= self._pipeline.snapshot.round_seconds
        )

    async def _copy_chunks(self, table: Table, started: float) -> None:
        """Copy chunk by chunk until the round is over. Small ones, perhaps of several tables, share
        a commit.
        """
        async with aclosing(self._chunks(table)) as chunks:
            async for chunk in chunks:
                await self._apply_chunk(chunk)
                self._open = True
                if time.monotonic() - self._saved_at >= COPY_SECONDS:
                    await self._save()
                if self._round_over(started):
                    break

    async def _copy_whole(self, table: Table, started: float) -> None:
        """Copy a table without a key in one target transaction, since it is read at one
        position.
        """
        if self._open:
            await self._save()
        saved = False
        try:
            await self._sink.apply([Truncate(table)], {table.id})
            async with aclosing(self._chunks(table)) as chunks:
                async for chunk in chunks:
                    await self._apply_chunk(chunk)
                    if self._pipeline.stopping.is_set():
                        break
            if self.snapshot.progress[table.id].state == "settling":
                await self._save()
                saved = True
        finally:
            if not saved:
                self.snapshot.restart(table.id)
                await self._sink.rollback()

    async def _apply_chunk(self, chunk: Chunk) -> None:
        rows = Rows(chunk.table, "read", None, chunk.rows, size=chunk.size)
        with self._metrics.stage("copy"):
            self._metrics.applied(await self._sink.apply([rows], {chunk.table.id}))
        self.snapshot.copied(chunk)
        self._blocked = None
        self._pipeline.copied_rows += len(chunk.rows)

    async def _chunks(self, table: Table) -> AsyncGenerator[Chunk, None]:
        """The table's chunks from its cursor on; the next is read while one is written."""
        chunks = self._source.chunks(
            table,
            self.snapshot.progress[table.id].cursor,
            self.position,
            rows=self._pipeline.snapshot.chunk_rows,
            readers=self._pipeline.snapshot.readers,
        )
        ahead = asyncio.ensure_future(asyncio.to_thread(next, chunks, None))
        try:
            while (chunk := await ahead) is not None:
                ahead = asyncio.ensure_future(asyncio.to_thread(next, chunks, None))
                yield chunk
        finally:
            # Shielded: a generator cannot be closed while a thread runs it.
            await asyncio.shield(_close_after(ahead, chunks))

    async def _wait_for_shape(self, table: Table, error: ShapeChanged) -> None:
        """The log is behind the live table: copy again when the stream has passed what is in it
        now.

        If it has and the shape still differs, the change is not in the log, so it never comes.
        """
        if self._blocked is not None and self._blocked[0] == table:
            raise SchemaError(
                "the table was altered in a way that the log does not tell",
                hint="undo the change, or remove the table from the pipeline and add it again",
                table=table.id,
                position=self.position,
            ) from error
        self._blocked = (table, await asyncio.to_thread(self._source.position))


async def _close_after(
    ahead: asyncio.Future[Chunk | None], chunks: Generator[Chunk, None, None]
) -> None:
    await asyncio.gather(ahead, return_exceptions=True)
    await asyncio.to_thread(chunks.close)
