"""
The pipeline from a scripted source into a target in memory: resuming, stopping, and its states.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.change import Change, Truncate
from engine.checkpoint import Checkpoint
from engine.contract import Applied, State
from engine.errors import Fenced, SinkLost, SourceError, TailraceError
from engine.pipeline import writer
from engine.pipeline.loop import Pipeline
from engine.schema import Table, TableId
from engine.settings.loader import BatchSettings, RetrySettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import ABORT, END, MemoryDatabase, Unlogged
from tests.support.memory_pipeline import (
    KEYED,
    KEYLESS,
    WatchedSink,
    all_live,
    assert_mirrored,
    delete,
    insert,
    make_pipeline,
    run,
    stored_position,
    update,
)
from tests.support.waiting import wait_until_async


def test_backfills_follows_and_ends_with_the_log() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, f"old {n}") for n in range(9)])
    database.load(KEYLESS, [(1, "twice"), (1, "twice"), (2, None)])
    pipeline = make_pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(
            lambda: pipeline.status().state == "streaming" and pipeline.counters.backfilled_rows
        )
        database.commit(insert(KEYED, (100, "new")), delete(KEYLESS, (1, "twice")))
        database.commit(update(KEYED, (3, "old 3"), (103, "new key")))
        database.mark(END)
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)
    assert len(store.rows(KEYLESS.id)) == 2
    assert pipeline.counters.backfilled_rows == 12


def test_resumes_after_each_lost_connection_without_loss_or_repetition() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYLESS, [])
    run(make_pipeline(database, store), until_caught_up=True)
    for number in range(10):
        database.commit(insert(KEYLESS, (number, "once")), insert(KEYLESS, (number, "once")))
        if number % 3 == 0:
            database.mark(ABORT)
    database.mark(END)
    pipeline = make_pipeline(database, store)
    run(pipeline)
    assert_mirrored(database, store)
    assert pipeline.status().reconnects >= 1


def test_a_transaction_larger_than_every_limit_arrives_whole() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(*[insert(KEYED, (n, "many")) for n in range(500)])
    database.mark(END)
    run(make_pipeline(database, store, batch=BatchSettings(max_rows=3, queue_bytes=1000)))
    assert_mirrored(database, store)


def test_an_unfinished_transaction_that_is_old_does_not_stop_the_reading() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(*[insert(KEYED, (n, "slow")) for n in range(500)])
    database.mark(END)
    at_once = BatchSettings(max_rows=10_000, max_age_seconds=0.0, queue_bytes=1000)
    run(make_pipeline(database, store, batch=at_once))
    assert_mirrored(database, store)


def test_a_second_engine_fences_the_first() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    older, newer = make_pipeline(database, store), make_pipeline(database, store)

    async def scenario() -> None:
        first = asyncio.create_task(older.run())
        await wait_until_async(
            lambda: older.status().state == "streaming" and older.counters.backfilled_rows
        )
        second = asyncio.create_task(newer.run())
        await wait_until_async(lambda: newer.status().state == "streaming")
        database.commit(insert(KEYED, (2, "b")))
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 2)
        database.commit(insert(KEYED, (3, "c")))
        with pytest.raises(Fenced):
            await first
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 3)
        newer.stop()
        await second

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_an_error_that_retrying_cannot_fix_is_raised_at_once() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    database.commit(insert(KEYED, (1, "a")))
    run(make_pipeline(database, store), until_caught_up=True)
    database.transactions.clear()
    with pytest.raises(SourceError, match="beyond the log"):
        run(make_pipeline(database, store))


def test_stop_commits_whole_transactions() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    pipeline = make_pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.status().state == "streaming")
        for number in range(50):
            database.commit(insert(KEYED, (number, "x")))
        await wait_until_async(lambda: pipeline.counters.rows > 0)
        pipeline.stop()
        await running

    asyncio.run(scenario())
    assert len(store.rows(KEYED.id)) == int(stored_position(store) or 0)


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_position_without_rows_is_committed_after_a_while(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """GIVEN a transaction without a change to a followed table THEN its position is committed when
    the last commit is old enough, or when the pipeline stops."""
    monkeypatch.setattr("engine.pipeline.attempt.POSITION_SECONDS", seconds)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    pipeline = make_pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: all_live(pipeline))
        database.load(KEYLESS, [])
        database.commit(insert(KEYLESS, (1, "not followed")))
        await wait_until_async(lambda: pipeline.status().position == "1")
        if seconds:
            assert stored_position(store) == "0"
        else:
            await wait_until_async(lambda: stored_position(store) == "1")
        pipeline.stop()
        await running

    asyncio.run(scenario())
    assert stored_position(store) == "1"
    assert pipeline.counters.rows == 0


# -- the states ------------------------------------------------------------------------------------


class StateRecorder(MemorySink):
    """Records the pipeline's state at each call, without repetitions. The first change of the
    stream stops the pipeline.
    """

    pipeline: Pipeline

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self.states: list[str | None] = []

    def record(self) -> None:
        state = self.pipeline.status().state
        if self.states[-1:] != [state]:
            self.states.append(state)

    async def open(self, epoch: int | None = None) -> State:
        self.record()
        return await super().open(epoch)

    async def apply(self, changes: Sequence[Change], in_backfill: Collection[Any] = ()) -> Applied:
        self.record()
        if self.states[-1] == "streaming":
            self.pipeline.stop()
        return await super().apply(changes, in_backfill)

    async def commit(self, checkpoint: Checkpoint) -> None:
        self.record()
        await super().commit(checkpoint)


def test_the_state_goes_from_connecting_to_stopped() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "old") for n in range(9)])
    sink = StateRecorder(store)
    pipeline = sink.pipeline = make_pipeline(database, store, sink=sink)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: all_live(pipeline))
        database.commit(insert(KEYED, (100, "new")))
        await running

    asyncio.run(scenario())
    sink.record()
    assert sink.states == ["connecting", "backfilling", "streaming", "draining", "stopped"]
    assert_mirrored(database, store)


class Unreachable(MemorySink):
    """A target that refuses connections."""

    async def open(self, epoch: int | None = None) -> State:
        raise SinkLost("connection refused")


def test_stop_ends_the_pause_before_the_next_attempt() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    sink = Unreachable(MemorySinkSettings("memory:test"), "test", store)
    minutes = RetrySettings(first_seconds=600.0, max_seconds=600.0)
    pipeline = make_pipeline(database, store, sink=sink, retry=minutes)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.status().reconnects == 1)
        assert pipeline.status().state == "connecting"
        pipeline.stop()
        async with asyncio.timeout(20):
            await running

    asyncio.run(scenario())
    assert pipeline.status().state == "stopped"
    assert pipeline.status().reconnects == 1


class LostWhileDraining(StateRecorder):
    """The connection is lost at the first commit after the stop."""

    async def commit(self, checkpoint: Checkpoint) -> None:
        await super().commit(checkpoint)
        if self.states[-1] == "draining":
            raise SinkLost("the connection was lost")


def test_a_connection_lost_while_draining_ends_the_pipeline_without_a_pause() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    sink = LostWhileDraining(store)
    minutes = RetrySettings(first_seconds=600.0, max_seconds=600.0)
    pipeline = sink.pipeline = make_pipeline(database, store, sink=sink, retry=minutes)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: all_live(pipeline))
        database.commit(insert(KEYED, (1, "a")))
        await wait_until_async(lambda: pipeline.status().reconnects == 1)
        async with asyncio.timeout(2):
            await running

    asyncio.run(scenario())
    assert pipeline.status().state == "stopped"


# -- random histories ------------------------------------------------------------------------------

STEPS = st.tuples(st.sampled_from("iiuudt"), st.booleans(), st.integers(0, 9), st.integers(0, 9))
HISTORY = st.lists(st.one_of(st.lists(STEPS, min_size=1, max_size=4), st.just(ABORT)), max_size=25)


class Model:
    """Makes a history that a database could have produced."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self.serial = 0

    def write(self, steps: Sequence[tuple[str, bool, int, int]]) -> None:
        changes: list[Any] = []
        for kind, keyed, a, b in steps:
            table = KEYED if keyed else KEYLESS
            change = self._change(kind, table, a, b)
            if change is not None:
                changes.append(change)
                self.database._do(change)
        if changes:
            with self.database.changed:
                self.database.transactions.append(changes)
                self.database.changed.notify_all()

    def _change(self, kind: str, table: Table, a: int, b: int) -> Any:
        rows = {row[0]: row for row in self.database.contents[table.id]}
        self.serial += 1
        if kind == "i" and (not table.key or a not in rows):
            return insert(table, (a, f"{self.serial}"))
        if kind == "u" and a in rows and (not table.key or b not in rows or a == b):
            return update(table, rows[a], (b, f"{self.serial}"))
        if kind == "d" and a in rows:
            return delete(table, rows[a])
        return Truncate(table) if kind == "t" and not a % 3 else None


@settings(max_examples=60, deadline=None)
@given(HISTORY, HISTORY, st.integers(1, 9))
def test_any_history_is_mirrored_during_the_backfill(
    first: list[Any], second: list[Any], max_rows: int
) -> None:
    """GIVEN tables with a history WHEN they are backfilled while a second history happens and
    connections are lost THEN both sides are equal."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    database.load(KEYLESS, [])
    model = Model(database)
    for entry in first:
        if entry is not ABORT:
            model.write(entry)

    left = iter(second)

    def happen() -> None:
        """The next transaction, after each commit of the target."""
        before = len(database.transactions)
        for entry in left:
            if entry is ABORT:
                database.mark(ABORT)
            else:
                model.write(entry)
            if len(database.transactions) > before:
                return
        database.mark(END)

    sink = WatchedSink(store, happen)
    run(make_pipeline(database, store, sink=sink, batch=BatchSettings(max_rows=max_rows)))
    assert not list(left)
    assert_mirrored(database, store)


def test_errors_carry_what_an_operator_needs() -> None:
    error = TailraceError("m", hint="h", table="t", position="p")
    assert (str(error), error.hint) == ("m [table t] [position p]", "h")


@pytest.mark.parametrize("stored_seconds", [0.0, 3600.0], ids=["while it runs", "at its end"])
def test_the_time_of_a_table_s_last_change_is_stored(
    monkeypatch: pytest.MonkeyPatch, stored_seconds: float
) -> None:
    """It is in the status at once, and it stays when the table is read again."""
    monkeypatch.setattr(writer, "TIMES_SECONDS", stored_seconds)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    database.load(KEYLESS, [(1, "a")])
    pipeline = make_pipeline(database, store)

    def stored() -> dict[TableId, float]:
        checkpoint = store.states["test"].checkpoint
        assert checkpoint is not None
        return {id: it.changed_at for id, it in checkpoint.progress.items()}

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: all_live(pipeline))
        before = time.time()
        database.commit(insert(KEYED, (2, "b")))
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 2)
        await wait_until_async(lambda: (pipeline.status().tables[0].changed_at or 0.0) >= before)
        assert pipeline.status().tables[1].changed_at is None
        if not stored_seconds:
            database.commit(insert(KEYED, (3, "c")))
            await wait_until_async(lambda: stored()[KEYED.id] >= before)
        else:
            assert not any(stored().values())
        pipeline.stop()
        await running
        assert stored()[KEYED.id] == pipeline.status().tables[0].changed_at
        assert stored()[KEYLESS.id] == 0.0

    asyncio.run(scenario())
    before = stored()
    database.commit(Unlogged(KEYED, [(1, "x")]))
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)
    assert stored() == before
