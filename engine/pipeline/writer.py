"""
The open target transaction: map → apply → count → commit with the checkpoint → acknowledge.

``TargetWriter`` is the only caller of ``Sink.apply``, ``commit`` and ``rollback``. The loop, the
backfill and the discovery write through it, so whatever has to happen to every change on its way
into the target has its place here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from enum import Enum

from engine.change import (
    Cascade,
    CaughtUp,
    Change,
    Chunk,
    Commit,
    DeletePart,
    Heartbeat,
    Row,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.checkpoint import Cause, Checkpoint, LeftState
from engine.contract import Applied, ReadsByPolicy, RowFilter, Sink, Source
from engine.distance import AppliesAtOnce, AppliesReads
from engine.errors import ConfigError, TailraceError
from engine.log_status import now_at
from engine.mapping.changes import Mapping
from engine.mapping.single_rows import deletion, mapped
from engine.ops.metrics import Metrics, Stage
from engine.ops.tracing import NO_TRACING, Tracing
from engine.pipeline.batching import Batch, first_commit
from engine.pipeline.counters import Counters, WorkCounter
from engine.pipeline.dead_letters import DeadLetters
from engine.pipeline.events import Events
from engine.pipeline.impossible import refuse_impossible
from engine.pipeline.in_place import others_of, why_not_in_place
from engine.pipeline.notices import note_columns, note_part, note_replaced
from engine.pipeline.reads import Reads
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.twins import Twins
from engine.recovery import DeadLetter
from engine.schema import Table, TableId
from engine.settings.loader import ErrorSettings
from engine.toolkit.key_order import is_ordered

__all__ = ["TargetWriter", "Transaction"]

#: The changes that change the target.
DATA = (Rows, SchemaChange, Truncate, DeletePart, UnloggedPart, Cascade, CaughtUp)


#: How often the times of the tables' last changes are stored.
TIMES_SECONDS = 10.0


class Transaction(Enum):
    """What the open target transaction holds."""

    #: Nothing: the target is at a commit.
    EMPTY = "empty"
    #: Whole source transactions, or backfilled rows. It may be committed.
    WHOLE = "whole"
    #: A source transaction that continues in the next batch. It must not be committed yet.
    PARTIAL = "partial"


class TargetWriter:
    """Writes into ``sink``, from ``checkpoint`` on, as the engine of ``epoch``. ``twins`` and
    ``mapping`` know the tables that the target has.

    After an error of the sink, the writer must not be used again: the next attempt reopens the sink
    and reads the checkpoint again.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        tracker: ProgressTracker,
        twins: Twins,
        mapping: Mapping,
        checkpoint: Checkpoint,
        *,
        epoch: int,
        metrics: Metrics,
        counters: Counters,
        letters: DeadLetters | None = None,
        events: Events | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._tracing = tracing
        self._events = events or Events(checkpoint.pipeline)
        self._letters = letters or DeadLetters(checkpoint.pipeline, sink, ErrorSettings())
        self._mapping = mapping
        self._source = source
        self._reads_by_policy = source if isinstance(source, ReadsByPolicy) else None
        self._sink = sink
        self._applies_at_once = sink if isinstance(sink, AppliesAtOnce) else None
        self._applies_reads = sink if isinstance(sink, AppliesReads) else None
        self._tracker = tracker
        self._twins = twins
        self._pipeline = checkpoint.pipeline
        self._metrics = metrics
        self._counters = counters
        self._work = WorkCounter()
        #: When the source had committed the transactions of the open target transaction.
        self._times: list[float] = []
        known_at = counters.current_at or checkpoint.committed_at
        counters.current_at = min(known_at, now_at(source))
        self._epoch = epoch
        #: Everything up to here is applied. The transaction may hold it without a commit.
        self.position = checkpoint.position
        #: The position of the stored checkpoint.
        self.committed = checkpoint.position
        #: The progress in the stored checkpoint.
        self.committed_progress = checkpoint.progress
        #: Whether a command has paused the pipeline.
        self.paused = checkpoint.paused
        #: The time of ``position`` on the source's clock, in Unix seconds.
        self.committed_at = checkpoint.committed_at
        self.transaction = Transaction.EMPTY
        #: Whether ``position`` or its time is newer than in the stored checkpoint.
        self.moved = False
        #: The number of batches that have changed something on the source.
        self.changes = 0
        #: The number of commits.
        self.commits = 0
        self._last_commit = self._times_stored = time.monotonic()

    @property
    def seconds_since_commit(self) -> float:
        """The time since the last commit, or since the writer was made."""
        return time.monotonic() - self._last_commit

    @property
    def tables(self) -> Sequence[Table]:
        """The followed tables."""
        return self._tracker.tables

    def row_filter(self, table: Table) -> RowFilter | None:
        """The rows of a table that its backfill need not read."""
        return self._mapping.row_filter(table)

    def check_mapping(self, tables: Iterable[Table]) -> None:
        """Raise ConfigError unless these tables, with the followed ones, can be mapped."""
        self._mapping.check([*self._tracker.tables, *tables])
        self._check_merges()

    def misfits(self, tables: Iterable[Table]) -> dict[TableId, ConfigError]:
        """Those of these tables that cannot be mapped, with the followed ones. Raises ConfigError
        if the followed ones cannot.
        """
        return self._mapping.misfits(self._tracker.tables, tables)

    def _check_merges(self) -> None:
        if self._mapping.merges and not self._sink.capabilities.parts:
            raise ConfigError(
                "tables are merged, which this sink cannot do", hint="leave out merge in [mapping]"
            )

    def begin(self, position: str, at: float) -> None:
        """Have the first checkpoint at a position that shows all that the source had committed at
        this time.
        """
        self.position, self.committed_at = position, at
        self._counters.current_at = at

    async def write(self, batch: Batch) -> None:
        """Apply a batch of the stream.

        Pending work is committed before the first piece of an oversized transaction, so that a
        rollback undoes only the pieces.
        """
        if batch.end is None and self.transaction is not Transaction.PARTIAL and self.moved:
            await self.commit()
        self.changes += batch.has_data
        in_backfill = self._tracker.in_backfill
        changes = self._tracker.admit(batch.changes)
        before = self.position
        if batch.end is not None:
            self.position = str(batch.end.position)
            if in_backfill:
                changes = changes + self._tracker.caught_up(self.position, self._source.reached)
        has_data = any(isinstance(change, DATA) for change in changes)
        commits = self.commits
        if has_data:
            if self.transaction is Transaction.EMPTY:
                self._counters.begin(self._not_later(first_commit(changes)))
            end = batch.end if self.transaction is Transaction.EMPTY else None
            with self._tracing.inside("batch", rows=batch.rows, bytes=batch.size):
                self._counters.rows += await self._apply(
                    changes, in_backfill | self._tracker.in_backfill, "apply", end
                )
            times = [change.committed_at for change in changes if type(change) is Commit]
            self._times += filter(None, times)
            self._metrics.batch(batch.rows, batch.size, len(times))
        if batch.end is None:
            self.transaction = Transaction.PARTIAL
        else:
            if has_data or self.transaction is Transaction.PARTIAL:
                self.transaction = Transaction.WHOLE
            self._note_end(batch.end, moved=self.position != before)
        if self.commits > commits:
            self._note_commit()

    async def backfill(self, chunk: Chunk) -> None:
        """Apply the rows of a chunk, and record the progress of its table."""
        table, id = chunk.table, chunk.table.id
        if self._is_by_range(table):
            await self._apply([others_of(chunk)], {id}, "backfill")
        if chunk.rows:
            rows = [Rows(table, "read", None, chunk.rows, size=chunk.size)]
            if self._tracker.progress[id].columns and self._letters.concern(rows):
                self._tracker.restart(id)  # which raises: a letter has all columns
            with self._tracing.inside("chunk", table=str(id), rows=len(chunk.rows)):
                self._counters.backfilled_rows += await self._apply(rows, {id}, "backfill")
        self._note_chunk(chunk)
        self.transaction = Transaction.WHOLE

    def applies_reads(self, table: Table) -> bool:
        """Whether chunks of a table can be applied while more of them are read."""
        progress = self._tracker.progress[table.id]
        apart = progress.in_place or progress.columns or table.id in self._letters.guarded
        return self._applies_reads is not None and not apart

    async def backfill_reads(self, table: Table, chunks: AsyncIterator[Chunk]) -> None:
        """As ``backfill`` with each of these chunks, of a table for which ``applies_reads``."""
        assert self._applies_reads is not None
        reads = Reads(
            chunks, self._twins, self._mapping, self._note_chunk, self._work, self._metrics
        )
        with (
            self._tracing.inside("chunk", table=str(table.id)),
            self._twins.own_errors(reads.last),
            self._tracing.inside("apply"),
        ):
            try:
                applied = await self._applies_reads.apply_reads(reads.rows())
            except TailraceError as error:
                if error is reads.error:
                    raise
                own = self._mapping.own_error(error, reads.last)
                if own is error:
                    raise
                raise own from error
        reads.count(self._found(self._mapping.found(applied)))
        self._counters.backfilled_rows += reads.read_rows
        self.transaction = Transaction.WHOLE

    def _note_chunk(self, chunk: Chunk) -> None:
        self._tracker.backfilled(chunk, self._source.reached)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes that are not part of the stream: tables that are created, emptied or live.

        Their time is recorded under the stage ``backfill``.
        """
        await self._apply(changes, (), "backfill")
        self.transaction = Transaction.WHOLE

    def _is_by_range(self, table: Table) -> bool:
        return self._tracker.progress[table.id].in_place and is_ordered(table)

    def why_not_in_place(self, id: TableId, after: Table | None = None) -> str:
        """Why a table cannot be backfilled again in place, as its version of now or ``after``;
        empty if it can.
        """
        before = self._twins.left(id) or self._tracker.table(id)
        if before is None:
            return "the target does not have the table"
        return why_not_in_place(before, after or before, self._sink, self._mapping)

    def why_not_repaired(self, table: Table) -> str:
        """Why single rows of a live table cannot be written again; empty if they can."""
        if not (table.key and self._sink.capabilities.upsert):
            return "they have no key by which they are found"
        return self._mapping.why_not_in_place(table, table)

    def target(self, table: Table) -> Table:
        """The target's table that has the rows of a live table."""
        return self._mapping.now(table)

    async def leave(
        self, id: TableId, cause: Cause, state: LeftState, *, in_place: bool | None = None
    ) -> None:
        """Stop following a table. The target keeps the rows that it has. ``in_place`` is that of
        ``ProgressTracker.leave``.
        """
        table = self._tracker.leave(id, cause, state, in_place=in_place)
        self._twins.set_in_place(id, self._tracker.progress[id].in_place)
        if table is not None:
            await self._sink.apply(self._mapping.targets(self._twins.leave(table)))
        what = "is read again" if state == "pending" else f"is {state}"
        await self._letters.supersede(id, f"the table {what}")
        self.transaction = Transaction.WHOLE

    @property
    def has_times(self) -> bool:
        """Whether the times of tables' last changes are to be stored."""
        return bool(self._counters.changed)

    async def commit(self, *, last: bool = False) -> None:
        """Make everything applied durable together with the checkpoint. ``last``: before a stop."""
        if last:
            self._times_stored = -TIMES_SECONDS
        with self._metrics.stage("commit"), self._tracing.commit(self.position):
            await self._sink.commit(self._checkpoint(self.committed_at))
        self.commits += 1
        self._note_commit()

    def _checkpoint(self, committed_at: float) -> Checkpoint:
        changed, now = self._counters.changed, time.monotonic()
        if changed and now - self._times_stored >= TIMES_SECONDS:
            self._tracker.changed(changed)
            self._counters.changed, self._times_stored = {}, now
        return Checkpoint(
            *(self._pipeline, self._epoch, self.position, committed_at, self._tracker.progress),
            paused=self.paused,
        )

    def _note_commit(self) -> None:
        """Everything applied is durable."""
        self._tracker.committed()
        if self.moved and self.transaction is Transaction.WHOLE:
            self._counters.current_at = max(self._counters.current_at, self.committed_at)
        self.transaction, self.moved = Transaction.EMPTY, False
        self._last_commit = time.monotonic()
        self.committed, self.committed_progress = self.position, self._tracker.progress
        self._counters.committed(self.position)
        self._metrics.committed(self._times, now_at(self._source))
        self._times = []
        self._tracing.end_transaction()
        if self._tracker.moved:
            self._events.tables(self._tracker.moved, self._tracker.progress)
            self._tracker.moved.clear()
        self._source.acknowledge(self.position)

    async def rollback(self) -> None:
        """Undo what is not committed."""
        self.transaction, self._times = Transaction.EMPTY, []
        self._tracker.moved.clear()
        self._tracing.end_transaction("rolled back")
        await self._sink.rollback()

    async def retry(self, chosen: Sequence[DeadLetter]) -> str:
        """Apply open dead letters. Returns what became of them."""

        async def apply(changes: Sequence[Change]) -> int:
            tables = {change.table.id for change in changes if type(change) is Rows}
            return await self._apply_all(changes, tables, "apply")

        return await self._letters.retry(chosen, self._tracker.tables, apply)

    async def repair(
        self, table: Table, keys: Collection[Row], rows: Sequence[Row], *, anew: bool = False
    ) -> tuple[int, int]:
        """Write rows of the source over those of the target, and remove the target's rows with
        these keys that the source does not have, or that the mapping leaves out. Returns the
        numbers of rows that were written and removed. With ``anew``, the rows that are written are
        removed first, so they may have each other's unique values on the target.
        """
        written, target = mapped(self._mapping, table, rows), self.target(table)
        gone = deletion(self._mapping, table, keys, written)
        removed = [] if gone is None else [gone]
        if anew:
            removed.append(Rows(target, "delete", list(written), None))
        await self._sink.apply(removed, {target.id})
        if rows:
            read = [Rows(table, "read", None, list(rows))]
            self._counters.backfilled_rows += await self._apply(read, {table.id}, "backfill")
        self.transaction = Transaction.WHOLE
        return len(written), 0 if gone is None else len(gone)

    async def _apply(
        self,
        changes: Sequence[Change],
        in_backfill: Collection[TableId],
        stage: Stage,
        end: Commit | Heartbeat | None = None,
    ) -> int:
        """Apply and count, with a table whose rows the target may refuse apart."""
        if self._letters.concern(changes):
            return await self._letters.apply(
                changes, lambda run: self._apply_all(run, in_backfill, stage)
            )
        return await self._apply_all(changes, in_backfill, stage, end)

    async def _apply_all(
        self,
        changes: Sequence[Change],
        in_backfill: Collection[TableId],
        stage: Stage,
        end: Commit | Heartbeat | None = None,
    ) -> int:
        """Map, apply and count. Returns the number of row changes.

        Few changes are committed, too, if they have an ``end``.
        """
        refuse_impossible(changes, self._sink.capabilities)
        # A twin that is made in these changes, or replaces its table, is in backfill, too. A table
        # with a part in backfill is not: its indexes are there, and its rows must move in order.
        names, divided = self._twins.target_ids(in_backfill), self._twins.divided
        targets = self._twins.targets(changes)
        if targets is not changes:
            names = {*names, *self._twins.target_ids(in_backfill)} - divided - self._twins.divided
        with self._twins.own_errors(changes):
            applied = await self._apply_mapped(targets, names, stage, end)
        for change in changes:
            if type(change) is UnloggedPart:
                note_part(self._pipeline, change)
            elif type(change) is SchemaChange and change.unlogged:
                note_columns(self._pipeline, change)
        found = self._found(applied)
        work = self._work.count(changes)
        self._metrics.applied(work, found)
        if times := self._work.take_times():
            self._counters.changed.update(times)
            self._metrics.tables.changed(times)
        return sum(it.rows for it in work.values())

    def _found(self, applied: Applied) -> Applied:
        """What the sink and the source's policies have found, by the tables' own names."""
        found = self._twins.found(applied)
        if self._reads_by_policy is not None:
            for place, count in self._reads_by_policy.take_replaced().items():
                found.replaced[place] = found.replaced.get(place, 0) + count
        if found.replaced:
            note_replaced(self._pipeline, found.replaced, self._counters.replaced)
        return found

    async def _apply_mapped(
        self,
        changes: Sequence[Change],
        in_backfill: Collection[TableId],
        stage: Stage,
        end: Commit | Heartbeat | None,
    ) -> Applied:
        """Apply changes to the tables that they are mapped to."""
        mapping = self._mapping
        if not mapping.active:
            with self._metrics.stage(stage), self._tracing.inside("apply"):
                return await self._apply_or_commit(changes, in_backfill, end)
        # First the names: a table that is dropped or renamed in these changes has its old one.
        in_backfill = mapping.target_ids(in_backfill)
        found = Applied()
        for run in mapping.runs(changes):
            at_once = end if run is changes else None
            with self._metrics.stage("map"):
                targets = mapping.targets(run)
            try:
                with self._metrics.stage(stage), self._tracing.inside("apply"):
                    applied = await self._apply_or_commit(targets, in_backfill, at_once)
            except TailraceError as error:
                own = mapping.own_error(error, run)
                if own is error:
                    raise
                raise own from error
            found = found.joined(mapping.found(applied))
        return found

    async def _apply_or_commit(
        self,
        targets: Sequence[Change],
        in_backfill: Collection[TableId],
        end: Commit | Heartbeat | None,
    ) -> Applied:
        """Apply, and commit too if there is an ``end`` and the sink can do both at once."""
        if end is not None and self._applies_at_once is not None:
            checkpoint = self._checkpoint(self._time_of(end) or self.committed_at)
            applied = await self._applies_at_once.apply_and_commit(targets, in_backfill, checkpoint)
            if applied is not None:
                self.commits += 1
                return applied
        return await self._sink.apply(targets, in_backfill)

    def _note_end(self, end: Commit | Heartbeat, *, moved: bool) -> None:
        """Record the time up to which the target equals the source after the next commit.
        ``moved``: the position is another one.
        """
        if at := self._time_of(end):
            self.committed_at = at
            if self.transaction is Transaction.EMPTY:
                self._counters.beat(at, moved=moved)
        self.moved = True

    def _time_of(self, end: Commit | Heartbeat) -> float:
        return self._not_later(end.at if isinstance(end, Heartbeat) else end.committed_at)

    def _not_later(self, at: float) -> float:
        """A time of the log, or that of now if it is later: a session may set the time of its
        statements, and a time in the future would hide the lag until then.
        """
        return min(at, now_at(self._source))
