"""
The open target transaction: when it may be committed, what a rollback undoes, and what is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import SimpleNamespace

import msgspec
import pytest

from engine.change import (
    Begin,
    Cascade,
    CaughtUp,
    Change,
    Chunk,
    Commit,
    Heartbeat,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Applied, Capabilities
from engine.errors import SchemaError, UnloggedChange
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics
from engine.pipeline.batching import Batch, weigh
from engine.pipeline.counters import Counters
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.twins import Twins
from engine.pipeline.writer import TargetWriter, Transaction
from engine.schema import ForeignKey, Table, TableId
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import KEYED, KEYLESS, delete, insert, stored_position, update
from tests.support.metric_samples import samples

EMPTY, WHOLE, PARTIAL = Transaction.EMPTY, Transaction.WHOLE, Transaction.PARTIAL


class RecordingSource(MemorySource):
    """Records the acknowledged positions."""

    def __init__(self) -> None:
        super().__init__(MemorySettings("memory:test"), MemoryDatabase())
        self.acknowledged: list[str] = []

    def acknowledge(self, position: str) -> None:
        self.acknowledged.append(position)


class RecordingSink(MemorySink):
    """Records the calls that change the target."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self.calls: list[str] = []

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        self.calls.append("apply")
        return await super().apply(changes, in_backfill)

    async def commit(self, checkpoint: Checkpoint) -> None:
        self.calls.append("commit")
        await super().commit(checkpoint)

    async def rollback(self) -> None:
        self.calls.append("rollback")
        await super().rollback()


class WithoutSchemaChanges(RecordingSink):
    """A target that cannot follow an altered table."""

    capabilities = Capabilities(
        guarantee="exactly once", transactional=True, upsert=True, schema_changes=False
    )


class Target:
    """A writer at position "0" with its source, its sink, its metrics and what is stored."""

    def __init__(self, sink: type[RecordingSink] = RecordingSink) -> None:
        self.store = MemoryStore()
        self.source = RecordingSource()
        self.sink = sink(self.store)
        self.metrics = Metrics("test")
        self.counters = Counters()
        self.tracker = ProgressTracker([], {}, self.source.includes)

    async def open(self, *tables: Table, pending: bool = False) -> TargetWriter:
        """Follow ``tables``, which are live unless they are ``pending``, and commit that."""
        epoch = (await self.sink.open()).epoch
        self.writer = TargetWriter(
            *(self.source, self.sink, self.tracker, Twins((), {}), Mapping()),
            Checkpoint("test", epoch, "0"),
            epoch=epoch,
            metrics=self.metrics,
            counters=self.counters,
        )
        created: list[Change] = [SchemaChange("CREATE", None, table) for table in tables]
        if pending:
            for table in tables:
                self.tracker.add(table, 0)
        else:
            created = self.tracker.admit(created)
        await self.writer.apply(created)
        await self.writer.commit()
        self.sink.calls.clear()
        self.source.acknowledged.clear()
        return self.writer


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


def piece(*changes: Change) -> Batch:
    """A piece of a transaction that continues in the next batch."""
    return Batch(list(changes), None, *weigh(changes))


def end(number: int, *changes: Change) -> Batch:
    """The last piece of a transaction."""
    commit = Commit(str(number), 1000.0 + number)
    return Batch([*changes, commit], commit, *weigh(changes))


def whole(number: int, *changes: Change) -> Batch:
    """A whole transaction."""
    return end(number, Begin(str(number), str(number - 1), 1000.0 + number), *changes)


def heartbeat(position: int, at: float) -> Batch:
    beat = Heartbeat(str(position), at)
    return Batch([beat], beat, 0, 0)


# -- the transaction -------------------------------------------------------------------------------


def test_a_transaction_is_empty_then_partial_then_whole() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        assert writer.transaction is EMPTY
        await writer.write(piece(Begin("1", "0", 1.0), insert(KEYED, (1, "a"))))
        assert (writer.transaction, writer.position, writer.moved) == (PARTIAL, "0", False)
        await writer.write(piece(insert(KEYED, (2, "b"))))
        assert writer.transaction is PARTIAL
        await writer.write(end(1, insert(KEYED, (3, "c"))))
        assert (writer.transaction, writer.position, writer.moved) == (WHOLE, "1", True)
        assert target.store.rows(KEYED.id) == []
        await writer.commit()
        assert (writer.transaction, writer.position, writer.moved) == (EMPTY, "1", False)
        assert len(target.store.rows(KEYED.id)) == 3
        assert target.sink.calls == ["apply", "apply", "apply", "commit"]

    run(work)


def test_the_end_of_a_split_transaction_is_whole_even_if_it_holds_no_rows() -> None:
    async def work() -> None:
        writer = await Target().open(KEYED)
        await writer.write(piece(Begin("1", "0", 1.0), insert(KEYED, (1, "a"))))
        await writer.write(end(1))
        assert writer.transaction is WHOLE

    run(work)


def test_a_chunk_or_a_new_table_makes_the_transaction_whole() -> None:
    async def work() -> None:
        writer = await Target().open(KEYED, pending=True)
        await writer.backfill(Chunk(KEYED, [], None, "0"))
        assert writer.transaction is WHOLE
        await writer.commit()
        await writer.apply([CaughtUp(KEYED)])
        assert writer.transaction is WHOLE

    run(work)


def test_pending_work_is_committed_before_the_first_piece() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        await writer.write(whole(1, insert(KEYED, (1, "a"))))
        await writer.write(whole(2, insert(KEYED, (2, "b"))))
        assert target.sink.calls == ["apply", "apply"]
        await writer.write(piece(Begin("3", "2", 1.0), insert(KEYED, (3, "c"))))
        assert target.sink.calls == ["apply", "apply", "commit", "apply"]
        assert stored_position(target.store) == "2"
        await writer.write(piece(insert(KEYED, (4, "d"))))
        assert target.sink.calls[-2:] == ["apply", "apply"]

    run(work)


def test_a_position_without_rows_is_committed_before_the_first_piece_too() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        await writer.write(heartbeat(7, 1.0))
        await writer.write(piece(Begin("8", "7", 1.0), insert(KEYED, (1, "a"))))
        assert target.sink.calls == ["commit", "apply"]
        assert stored_position(target.store) == "7"

    run(work)


def test_a_rollback_undoes_the_pieces_and_nothing_before_them() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        await writer.write(whole(1, insert(KEYED, (1, "a"))))
        await writer.write(piece(Begin("2", "1", 1.0), delete(KEYED, (1, "a"))))
        await writer.write(piece(insert(KEYED, (2, "b"))))
        await writer.rollback()
        assert (writer.transaction, writer.position) == (EMPTY, "1")
        assert target.sink.calls[-1] == "rollback"
        assert target.store.rows(KEYED.id) == [(1, "a")]
        await writer.write(whole(2, insert(KEYED, (3, "c"))))
        await writer.commit()
        assert target.store.rows(KEYED.id) == [(1, "a"), (3, "c")]

    run(work)


# -- the position ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [heartbeat(5, 1005.0), whole(5)], ids=["heartbeat", "no rows"])
def test_a_position_without_rows_moves_and_does_not_touch_the_sink(batch: Batch) -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        assert not writer.moved
        await writer.write(batch)
        assert (writer.moved, writer.transaction) == (True, EMPTY)
        assert (writer.position, writer.committed_at) == ("5", 1005.0)
        assert target.counters.current_at == 1005.0
        assert target.sink.calls == []
        assert stored_position(target.store) == "0"
        await writer.commit()
        assert not writer.moved
        assert stored_position(target.store) == "5"

    run(work)


def test_a_commit_is_acknowledged_counted_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        now = 100.0
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr("engine.pipeline.writer.time", clock)
        target = Target()
        writer = await target.open(KEYED)
        assert (writer.commits, writer.seconds_since_commit) == (1, 0.0)
        now += 5.0
        await writer.write(whole(1, insert(KEYED, (1, "a"))))
        assert (target.source.acknowledged, writer.seconds_since_commit) == ([], 5.0)
        await writer.commit()
        assert (writer.commits, writer.seconds_since_commit) == (2, 0.0)
        assert target.source.acknowledged == ["1"]

    run(work)


def test_the_target_is_current_up_to_a_transaction_after_its_commit() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        await writer.write(whole(1, insert(KEYED, (1, "a"))))
        assert target.counters.current_at == 0.0
        await writer.commit()
        assert target.counters.current_at == 1001.0
        await writer.write(heartbeat(1, 0.0))
        assert target.counters.current_at == 1001.0

    run(work)


def test_a_commit_time_in_the_future_does_not_hide_the_lag() -> None:
    """GIVEN a transaction, and a checkpoint, whose session has set the time to tomorrow WHEN the
    target stops answering THEN the lag grows from now on.
    """

    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        target.counters.current_at = 1000.0
        tomorrow = int(time.time()) + 86400
        before = time.time()
        await writer.write(whole(tomorrow - 1000, insert(KEYED, (1, "a"))))
        for _ in range(2):
            assert before <= target.counters.current_at <= time.time()
            assert (target.counters.lag_seconds(time.time() + 60.0) or 0.0) > 59.0
            assert before <= writer.committed_at <= time.time()
            await writer.commit()
        found = (await target.sink.open()).checkpoint
        assert found is not None
        assert found.committed_at <= time.time()
        target.counters.current_at = 0.0
        stored = Checkpoint("test", 1, "0", float(tomorrow))
        TargetWriter(
            *(target.source, target.sink, target.tracker, Twins((), {}), Mapping(), stored),
            epoch=1,
            metrics=target.metrics,
            counters=target.counters,
        )
        assert before <= target.counters.current_at <= time.time()

    run(work)


# -- the backfill ----------------------------------------------------------------------------------


def test_a_chunk_is_written_with_the_progress_of_its_table() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED, pending=True)
        await writer.backfill(Chunk(KEYED, [(1, "a"), (2, "b")], "[2]", "3"))
        await writer.backfill(Chunk(KEYED, [], None, "4"))
        assert target.sink.calls == ["apply"]
        await writer.commit()
        state = target.store.states["test"]
        assert state.checkpoint is not None
        assert state.checkpoint.progress == {
            KEYED.id: TableProgress("catching_up", None, 2, 0, "4"),
        }
        assert target.counters.backfilled_rows == 2
        assert target.counters.rows == 0

    run(work)


def test_changes_are_admitted_by_the_progress_of_their_table() -> None:
    """A pending table takes no changes, and one that the stream has passed becomes live."""

    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED, pending=True)
        await writer.write(whole(1, insert(KEYED, (1, "a"))))
        assert target.sink.calls == []
        await writer.backfill(Chunk(KEYED, [(1, "a")], None, "2"))
        await writer.commit()
        await writer.write(whole(2))
        assert target.tracker.live
        await writer.commit()
        assert target.store.rows(KEYED.id) == [(1, "a")]

    run(work)


# -- counting --------------------------------------------------------------------------------------


def test_rows_are_counted_by_table_and_operation() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED, KEYLESS)
        changes = (
            insert(KEYED, (1, "a"), (2, "b")),
            insert(KEYLESS, (1, "x"), (2, "y"), (3, "z")),
            update(KEYED, (1, "a"), (1, "c")),
            insert(KEYED, (3, "d")),
            Truncate(KEYLESS),
            delete(KEYED, (2, "b"), (9, "gone")),
        )
        await writer.write(whole(1, *changes))
        await writer.write(whole(2, insert(KEYED, (4, "e"))))
        shown = samples(target.metrics, "test")
        assert {name: n for name, n in shown.items() if name.startswith("tailrace_rows_total")} == {
            "tailrace_rows_total{insert,shop.keyed}": 4,
            "tailrace_rows_total{insert,shop.keyless}": 3,
            "tailrace_rows_total{update,shop.keyed}": 1,
            "tailrace_rows_total{delete,shop.keyed}": 2,
        }
        assert target.counters.rows == 10
        assert shown["tailrace_drift_total{shop.keyed}"] == 1
        assert shown["tailrace_transactions_total"] == 2
        assert shown["tailrace_batch_rows_count"] == 2
        assert shown["tailrace_batch_rows_sum"] == 10
        assert shown["tailrace_stage_seconds_count{apply}"] == 2

    run(work)


def test_backfilled_rows_are_counted_as_read() -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED, pending=True)
        stages = samples(target.metrics, "test")["tailrace_stage_seconds_count{backfill}"]
        await writer.backfill(Chunk(KEYED, [(1, "a"), (2, "b")], "[2]", "0"))
        shown = samples(target.metrics, "test")
        assert shown["tailrace_rows_total{read,shop.keyed}"] == 2
        assert shown["tailrace_stage_seconds_count{backfill}"] == stages + 1
        assert shown["tailrace_batch_rows_count"] == 0
        assert shown["tailrace_transactions_total"] == 0

    run(work)


# -- what the sink cannot do -----------------------------------------------------------------------

NARROWER = msgspec.structs.replace(KEYED, columns=KEYED.columns[:1], version=2)
RENAMED = msgspec.structs.replace(KEYED, id=TableId("shop", "renamed"), version=2)


@pytest.mark.parametrize("after", [NARROWER, RENAMED, None], ids=["altered", "renamed", "dropped"])
def test_a_sink_without_schema_changes_refuses_them(after: Table | None) -> None:
    async def work() -> None:
        target = Target(WithoutSchemaChanges)
        writer = await target.open(KEYED)
        with pytest.raises(SchemaError) as caught:
            await writer.write(
                whole(1, insert(KEYED, (1, "a")), SchemaChange("ALTER", KEYED, after))
            )
        assert caught.value.table == "shop.keyed"
        assert "`tailrace reset CONFIG`" in caught.value.hint
        assert target.sink.calls == []

    run(work)


class Refusing(RecordingSink):
    """Refuses every change of a table."""

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        if any(type(change) is SchemaChange and change.before for change in changes):
            raise SchemaError("the target refuses it", table=KEYED.id)
        return await super().apply(changes, in_backfill)


def test_an_error_has_the_statement_without_its_strings() -> None:
    async def work() -> None:
        writer = await Target(Refusing).open(KEYED)
        sql = "ALTER TABLE keyed\n  ALTER name SET DEFAULT 'secret'"
        with pytest.raises(SchemaError) as caught:
            await writer.write(whole(1, SchemaChange(sql, KEYED, NARROWER)))
        assert caught.value.statement == "ALTER TABLE keyed ALTER name SET DEFAULT …"

    run(work)


def test_a_table_that_a_foreign_key_changes_is_not_followed_by_a_sink_that_cannot_do_it() -> None:
    parent = TableId("shop", "parent")
    key = ForeignKey("f", ("id",), parent, ("id",), "cascade")
    child = msgspec.structs.replace(KEYED, foreign_keys=(key,))

    async def work() -> None:
        target = Target(WithoutSchemaChanges)
        writer = await target.open(child)
        cascade = Cascade(parent, ("id",), [(1,)], None, (child,))
        with pytest.raises(UnloggedChange, match="cannot do") as caught:
            await writer.write(whole(1, insert(child, (1, "a")), cascade))
        assert caught.value.id == child.id
        assert target.sink.calls == []

    run(work)


def test_a_sink_without_schema_changes_takes_new_tables_rows_and_truncations() -> None:
    async def work() -> None:
        target = Target(WithoutSchemaChanges)
        writer = await target.open(KEYED)
        rows: list[Rows] = [insert(KEYED, (1, "a")), insert(KEYED, (2, "b"))]
        created = SchemaChange("CREATE", None, KEYLESS)
        await writer.write(whole(1, rows[0], Truncate(KEYED), created, rows[1]))
        await writer.commit()
        assert target.store.rows(KEYED.id) == [(2, "b")]
        assert KEYLESS.id in target.store.contents

    run(work)


@pytest.mark.parametrize("after", [NARROWER, RENAMED, None], ids=["altered", "renamed", "dropped"])
def test_a_sink_with_schema_changes_follows_them(after: Table | None) -> None:
    async def work() -> None:
        target = Target()
        writer = await target.open(KEYED)
        await writer.write(whole(1, SchemaChange("ALTER", KEYED, after)))
        await writer.commit()
        assert list(target.store.contents) == ([] if after is None else [after.id])

    run(work)
