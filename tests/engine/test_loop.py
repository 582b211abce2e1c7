"""
The pipeline between a scripted source and a target in memory: what survives losing either side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.change import Chunk, Row, Rows, SchemaChange, Truncate
from engine.checkpoint import Checkpoint
from engine.errors import Fenced, SchemaError, SinkLost, SourceError, TailraceError
from engine.ops.metrics import Metrics
from engine.pipeline.loop import Pipeline
from engine.schema import Column, Table, TableId, Type
from engine.settings.loader import BackfillSettings, BatchSettings, RetrySettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import ABORT, END, MemoryDatabase, MemorySettings, MemorySource
from tests.support.waiting import wait_until_async

ID = Column("id", Type("int32"), "int", nullable=False)
NAME = Column("name", Type("text"), "text")
KEYED = Table(TableId("shop", "keyed"), (ID, NAME), key=(0,))
KEYLESS = Table(TableId("shop", "bag"), (ID, NAME))


def insert(table: Table, *rows: Row) -> Rows:
    return Rows(table, "insert", None, list(rows), size=10 * len(rows))


def update(table: Table, before: Row, after: Row) -> Rows:
    return Rows(table, "update", [before], [after], size=20)


def delete(table: Table, *rows: Row) -> Rows:
    return Rows(table, "delete", list(rows), None, size=10)


def pipeline(database: MemoryDatabase, store: MemoryStore, **options: Any) -> Pipeline:
    return Pipeline(
        "test",
        MemorySource(MemorySettings("memory:test"), database),
        MemorySink(MemorySinkSettings("memory:test"), "test", store),
        batch=options.get("batch", BatchSettings(max_rows=7)),
        backfill=options.get("backfill", BackfillSettings(chunk_rows=2, slice_seconds=0.0)),
        retry=RetrySettings(first_seconds=0.001, max_seconds=0.01, give_up_seconds=5.0),
        metrics=Metrics("test"),
    )


def run(work: Pipeline, **options: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work.run(**options)

    asyncio.run(bounded())


def assert_mirrored(database: MemoryDatabase, store: MemoryStore) -> None:
    assert set(store.contents) == set(database.contents)
    for id in database.contents:
        assert sorted(store.rows(id), key=repr) == sorted(database.contents[id], key=repr), id


def test_copies_follows_and_ends_with_the_log() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, f"old {n}") for n in range(9)])
    database.load(KEYLESS, [(1, "twice"), (1, "twice"), (2, None)])
    work = pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(
            lambda: work.status().state == "streaming" and work.counters.backfilled_rows
        )
        database.commit(insert(KEYED, (100, "new")), delete(KEYLESS, (1, "twice")))
        database.commit(update(KEYED, (3, "old 3"), (103, "moved")))
        database.mark(END)
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)
    assert len(store.rows(KEYLESS.id)) == 2
    assert work.counters.backfilled_rows == 12


def test_resumes_after_each_lost_connection_without_loss_or_repetition() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYLESS, [])
    run(pipeline(database, store), until_caught_up=True)
    for number in range(10):
        database.commit(insert(KEYLESS, (number, "once")), insert(KEYLESS, (number, "once")))
        if number % 3 == 0:
            database.mark(ABORT)
    database.mark(END)
    work = pipeline(database, store)
    run(work)
    assert_mirrored(database, store)
    assert work.status().reconnects >= 1


def test_a_transaction_larger_than_every_limit_arrives_whole() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    run(pipeline(database, store), until_caught_up=True)
    database.commit(*[insert(KEYED, (n, "many")) for n in range(500)])
    database.mark(END)
    run(pipeline(database, store, batch=BatchSettings(max_rows=3, queue_bytes=1000)))
    assert_mirrored(database, store)


def test_a_transaction_that_is_old_but_not_whole_does_not_stop_the_reading() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    run(pipeline(database, store), until_caught_up=True)
    database.commit(*[insert(KEYED, (n, "slow")) for n in range(500)])
    database.mark(END)
    at_once = BatchSettings(max_rows=10_000, max_age_seconds=0.0, queue_bytes=1000)
    run(pipeline(database, store, batch=at_once))
    assert_mirrored(database, store)


def many_tables(count: int) -> list[Table]:
    return [
        Table(TableId("shop", f"t{number:03}"), (ID, NAME), key=(0,)) for number in range(count)
    ]


class StaleStatistics(MemorySource):
    """Expects no row anywhere, and counts what it is asked."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self.asked: list[int] = []
        self.copied: list[str] = []

    def estimates(self, tables: Sequence[Table]) -> dict[TableId, int]:
        return {}

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        self.asked.append(len(tables))
        return super().empty(tables, low_watermark)

    def chunks(self, table: Table, *arguments: Any, **more: Any) -> Any:
        self.copied.append(table.id.name)
        return super().chunks(table, *arguments, **more)


def test_empty_tables_are_passed_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.pipeline.backfill.EMPTY_TABLES", 8)
    database, store = MemoryDatabase(), MemoryStore()
    for number, table in enumerate(many_tables(20)):
        database.load(table, [(1, "a"), (2, "b")] if number in (3, 17) else [])
    database.load(KEYLESS, [])
    work = pipeline(database, store)
    work.source = source = StaleStatistics(database)
    run(work, until_caught_up=True)
    assert_mirrored(database, store)
    assert sorted(source.copied) == ["bag", "t003", "t017"]
    assert sum(source.asked) == 20
    assert len(source.asked) <= 5
    assert work.counters.backfilled_rows == 4
    assert {progress.state for progress in work.status().tables} == {"live"}


def test_changes_to_a_table_that_was_empty_are_applied() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    for table in many_tables(20):
        database.load(table, [])
    work = pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(lambda: work.status().state == "streaming")
        for table in many_tables(20):
            database.commit(insert(table, (1, "new"), (2, "new")), delete(table, (1, "new")))
        database.mark(END)
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_large_tables_are_copied_before_all_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an engine that ends in the middle of the making loses nothing."""
    monkeypatch.setattr("engine.pipeline.discovery.CREATED_TABLES", 3)
    database, store = MemoryDatabase(), MemoryStore()
    tables = many_tables(10)
    for number, table in enumerate(tables):
        database.load(table, [(row, "old") for row in range(number)])
    work = pipeline(database, store)
    made: list[tuple[int, int]] = []

    class Watched(MemorySink):
        async def commit(self, checkpoint: Checkpoint) -> None:
            await super().commit(checkpoint)
            rows = sum(len(contents) for contents in store.contents.values())
            made.append((len(store.contents), rows))
            if len(store.contents) == 9 and not work.status().reconnects:
                raise SinkLost("the engine ends here")

    work.sink = Watched(MemorySinkSettings("memory:test"), "test", store)
    run(work, until_caught_up=True)
    assert made[0] == (3, 0)
    assert next(count for count, rows in made if rows) == 3
    assert work.status().reconnects >= 1
    assert_mirrored(database, store)


def test_tables_that_are_not_copied_are_adopted_at_one_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.pipeline.discovery.CREATED_TABLES", 3)
    database, store = MemoryDatabase(), MemoryStore()
    for table in many_tables(10):
        database.load(table, [])
    work = pipeline(database, store, backfill=BackfillSettings(mode="never"))
    made: list[int] = []

    class Watched(MemorySink):
        async def commit(self, checkpoint: Checkpoint) -> None:
            await super().commit(checkpoint)
            made.append(len(store.contents))

    work.sink = Watched(MemorySinkSettings("memory:test"), "test", store)
    run(work, until_caught_up=True)
    assert made[0] == 10
    assert work.status().tables
    assert_mirrored(database, store)


def test_a_second_engine_fences_the_first() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    older, newer = pipeline(database, store), pipeline(database, store)

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


def test_follows_schema_changes_in_the_middle_of_the_copy() -> None:
    wider = Table(KEYED.id, (ID, NAME, Column("more", Type("text"), "text")), (0,), version=2)
    made = Table(TableId("shop", "made"), (ID,), (0,))
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "x") for n in range(900)])
    work = pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(lambda: work.counters.backfilled_rows > 2)
        database.commit(SchemaChange("ALTER", KEYED, wider))
        database.commit(insert(wider, (50, "y", "z")))
        database.commit(SchemaChange("CREATE", None, made))
        database.commit(insert(made, (7,)))
        database.mark(END)
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_a_new_table_of_the_configuration_is_adopted_and_followed() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    run(pipeline(database, store), until_caught_up=True)
    database.commit(insert(KEYED, (2, "b")))
    database.load(KEYLESS, [(1, "late")])
    work = pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(
            lambda: KEYLESS.id in store.contents and len(store.rows(KEYLESS.id)) == 1
        )
        database.commit(insert(KEYLESS, (2, "later")), insert(KEYED, (3, "c")))
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 3)
        work.stop()
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)
    assert work.status().reconnects == 0


def test_a_table_that_the_backlog_creates_is_left_to_the_backlog() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    run(pipeline(database, store), until_caught_up=True)
    for number in range(2, 300):
        database.commit(insert(KEYED, (number, "waits")))
    database.commit(SchemaChange("CREATE", None, KEYLESS))
    database.commit(insert(KEYLESS, (1, "new")))
    work = pipeline(database, store, batch=BatchSettings(queue_bytes=1))
    run(work, until_caught_up=True)
    assert_mirrored(database, store)
    assert work.counters.backfilled_rows == 0


def test_an_alteration_that_is_not_in_the_log_stops_the_pipeline_with_a_remedy() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "x") for n in range(900)])
    work = pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(lambda: work.counters.backfilled_rows > 2)
        database.load(Table(KEYED.id, (ID,), (0,), version=9), [])
        async with asyncio.timeout(20):
            await running

    with pytest.raises(SchemaError) as caught:
        asyncio.run(scenario())
    assert caught.value.table == "shop.keyed"
    assert caught.value.hint


def test_an_error_that_waiting_does_not_mend_is_raised_at_once() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    database.commit(insert(KEYED, (1, "a")))
    run(pipeline(database, store), until_caught_up=True)
    database.transactions.clear()
    with pytest.raises(SourceError, match="beyond the log"):
        run(pipeline(database, store))


def test_stop_finishes_what_is_whole() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    work = pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(lambda: work.status().state == "streaming")
        for number in range(50):
            database.commit(insert(KEYED, (number, "x")))
        await wait_until_async(lambda: work.counters.rows > 0)
        work.stop()
        await running

    asyncio.run(scenario())
    state = store.states["test"]
    assert state.checkpoint is not None
    assert len(store.rows(KEYED.id)) == int(state.checkpoint.position)


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
def test_any_history_is_mirrored_while_it_is_copied(
    first: list[Any], second: list[Any], max_rows: int
) -> None:
    """GIVEN tables with a history WHEN they are copied while a second history happens and
    connections are lost THEN both sides are equal."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    database.load(KEYLESS, [])
    model = Model(database)
    for entry in first:
        if entry is not ABORT:
            model.write(entry)

    async def scenario() -> None:
        work = pipeline(database, store, batch=BatchSettings(max_rows=max_rows))
        running = asyncio.create_task(work.run())
        for entry in second:
            if entry is ABORT:
                database.mark(ABORT)
            else:
                model.write(entry)
            await asyncio.sleep(0.0005)
        database.mark(END)
        async with asyncio.timeout(20):
            await running
            # The log may end before everything is copied: then it takes another run.
            database._end = None
            await pipeline(database, store).run(until_caught_up=True)

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_errors_carry_what_an_operator_needs() -> None:
    error = TailraceError("m", hint="h", table="t", position="p")
    assert (str(error), error.hint) == ("m [table t] [position p]", "h")


class Unsettled(MemorySource):
    """Its chunks show no more than they must: what is logged is not visible yet."""

    def chunks(
        self, table: Table, cursor: str | None, low_watermark: str, *, rows: int, readers: int
    ) -> Generator[Chunk, None, None]:
        for chunk in super().chunks(table, cursor, low_watermark, rows=rows, readers=readers):
            time.sleep(0.005)  # so that pieces arrive between chunks
            old = (
                [row for row in chunk.rows if row[1] == "old"]
                if low_watermark == "0"
                else chunk.rows
            )
            yield msgspec.structs.replace(chunk, rows=old, high_watermark=low_watermark)

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        return []


def test_no_table_is_copied_while_a_transaction_is_read_in_pieces() -> None:
    """GIVEN a transaction larger than a batch on a table whose copy has not begun
    THEN the copy begins before it or after it: its first pieces would be lost in between."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "old")])
    database.load(
        msgspec.structs.replace(KEYED, id=TableId("shop", "copied_first")),
        [(n, "old") for n in range(6)],
    )
    work = pipeline(database, store, batch=BatchSettings(max_rows=7, queue_bytes=1))
    work.source = Unsettled(MemorySettings("memory:test", changes_per_read=7), database)

    class Watched(MemorySink):
        async def commit(self, checkpoint: Checkpoint) -> None:
            await super().commit(checkpoint)
            if not database.transactions:
                database.commit(*[insert(KEYED, (100 + n, "new")) for n in range(500)])

    work.sink = Watched(MemorySinkSettings("memory:test"), "test", store)

    async def follow() -> None:
        running = asyncio.create_task(work.run())
        await wait_until_async(lambda: work.status().position == "1" and _all_live(work))
        work.stop()
        await running

    asyncio.run(follow())
    assert_mirrored(database, store)


def _all_live(work: Pipeline) -> bool:
    tables = work.status().tables
    return bool(tables) and all(progress.state == "live" for progress in tables)
