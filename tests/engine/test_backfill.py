"""The backfill and the discovery of tables, from a scripted source into a target in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from threading import Event
from typing import Any

import msgspec
import pytest

from engine.change import Begin, Change, Chunk, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import RowFilter, State
from engine.errors import SinkLost, SourceError, UnloggedChange
from engine.mapping.changes import Mapping
from engine.pipeline.reader_queue import ReaderQueue
from engine.schema import Column, Part, Table, TableId, Type
from engine.settings.loader import BackfillSettings, BatchSettings
from engine.settings.mapping import TableRules
from engine.toolkit.memory_table import MemoryTable
from sinks.memory import MemoryStore
from sources.memory import ABORT, END, MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import (
    ID,
    KEYED,
    KEYLESS,
    NAME,
    LogOnlySource,
    WatchedSink,
    all_live,
    assert_mirrored,
    delete,
    insert,
    make_pipeline,
    many_tables,
    run,
    stored_position,
)
from tests.support.waiting import wait_until_async


class StaleStatistics(MemorySource):
    """Estimates no row in any table, and records which tables are checked and read."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self.checked: list[int] = []
        self.backfilled: list[str] = []

    def estimates(self, tables: Sequence[Table]) -> dict[TableId, int]:
        return {}

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        self.checked.append(len(tables))
        return super().empty(tables, low_watermark)

    def chunks(self, table: Table, *arguments: Any, **more: Any) -> Any:
        self.backfilled.append(table.id.name)
        return super().chunks(table, *arguments, **more)


class FilteredStatistics(MemorySource):
    """Estimates the rows of which it was told that they are read."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self.told: dict[Table, RowFilter] = {}

    def filter(self, table: Table, rows: RowFilter) -> None:
        self.told[table] = rows

    def estimates(self, tables: Sequence[Table]) -> dict[TableId, int]:
        return {table.id: 7 if table in self.told else 1000 for table in tables}


class WaitingRead(MemorySource):
    """Its read of a table waits until ``stop``, like one that waits for a lock."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self.reading = Event()
        self.stopped = Event()
        self.closed = False

    def chunks(self, *arguments: Any, **more: Any) -> Generator[Chunk, None, None]:
        try:
            self.reading.set()
            assert self.stopped.wait(10), "the read was not stopped"
            yield from super().chunks(*arguments, **more)
        finally:
            self.closed = True

    def stop(self) -> None:
        super().stop()
        self.stopped.set()


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=str)
def test_a_backfill_is_cancelled_while_a_read_waits(table: Table) -> None:
    database = MemoryDatabase()
    database.load(table, [(1, "a"), (2, "b"), (3, "c")])
    source = WaitingRead(database)
    pipeline = make_pipeline(database, MemoryStore(), source=source)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(source.reading.is_set)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert source.closed


def test_the_estimate_of_a_filtered_table_is_that_of_the_rows_that_are_read() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, KEYLESS):
        database.load(table, [(1, "a"), (2, "b"), (3, "c")])
    source = FilteredStatistics(database)
    mapping = Mapping({str(KEYED.id): TableRules(where="id > 2")})
    pipeline = make_pipeline(database, store, source=source, mapping=mapping)
    run(pipeline, until_caught_up=True)
    estimates = {table.table: table.estimate for table in pipeline.status().tables}
    assert estimates == {str(KEYED.id): 7, str(KEYLESS.id): 1000}


def test_empty_tables_are_checked_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.pipeline.backfill.EMPTY_TABLES", 8)
    database, store = MemoryDatabase(), MemoryStore()
    for number, table in enumerate(many_tables(20)):
        database.load(table, [(1, "a"), (2, "b")] if number in (3, 17) else [])
    database.load(KEYLESS, [])
    source = StaleStatistics(database)
    pipeline = make_pipeline(database, store, source=source)
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert sorted(source.backfilled) == ["keyless", "t003", "t017"]
    assert sum(source.checked) == 20
    assert len(source.checked) <= 5
    assert pipeline.counters.backfilled_rows == 4
    assert {table.state for table in pipeline.status().tables} == {"live"}


def test_changes_to_a_table_that_was_empty_are_applied() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    for table in many_tables(20):
        database.load(table, [])
    pipeline = make_pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.status().state == "streaming")
        for table in many_tables(20):
            database.commit(insert(table, (1, "new"), (2, "new")), delete(table, (1, "new")))
        database.mark(END)
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_large_tables_are_backfilled_before_all_tables_are_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN more tables than one transaction creates WHEN the engine is interrupted after some of
    them THEN the largest are backfilled already, and nothing is lost."""
    monkeypatch.setattr("engine.pipeline.discovery.CREATED_TABLES", 3)
    database, store = MemoryDatabase(), MemoryStore()
    for number, table in enumerate(many_tables(10)):
        database.load(table, [(row, "old") for row in range(number)])
    commits: list[tuple[int, int]] = []

    def after_commit() -> None:
        rows = sum(len(contents) for contents in store.contents.values())
        commits.append((len(store.contents), rows))
        if len(store.contents) == 9 and not pipeline.status().reconnects:
            raise SinkLost("the engine ends here")

    pipeline = make_pipeline(database, store, sink=WatchedSink(store, after_commit))
    run(pipeline, until_caught_up=True)
    assert commits[0] == (3, 0)
    assert next(tables for tables, rows in commits if rows) == 3
    assert pipeline.status().reconnects >= 1
    assert_mirrored(database, store)


def test_tables_that_are_not_backfilled_are_followed_from_one_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.pipeline.discovery.CREATED_TABLES", 3)
    database, store = MemoryDatabase(), MemoryStore()
    for table in many_tables(10):
        database.load(table, [])
    created: list[int] = []
    pipeline = make_pipeline(
        database,
        store,
        sink=WatchedSink(store, lambda: created.append(len(store.contents))),
        backfill=BackfillSettings(mode="never"),
    )
    run(pipeline, until_caught_up=True)
    assert created[0] == 10
    assert pipeline.status().tables
    assert_mirrored(database, store)


def test_follows_schema_changes_during_the_backfill() -> None:
    wider = Table(KEYED.id, (ID, NAME, Column("more", Type("text"), "text")), (0,), version=2)
    created = Table(TableId("shop", "created"), (ID,), (0,))
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "x") for n in range(900)])
    pipeline = make_pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.counters.backfilled_rows > 2)
        database.commit(SchemaChange("ALTER", KEYED, wider))
        database.commit(insert(wider, (50, "y", "z")))
        database.commit(SchemaChange("CREATE", None, created))
        database.commit(insert(created, (7,)))
        database.mark(END)
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_a_new_table_of_the_configuration_is_discovered_and_followed() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(insert(KEYED, (2, "b")))
    database.load(KEYLESS, [(1, "late")])
    pipeline = make_pipeline(database, store)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(
            lambda: KEYLESS.id in store.contents and len(store.rows(KEYLESS.id)) == 1
        )
        database.commit(insert(KEYLESS, (2, "later")), insert(KEYED, (3, "c")))
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 3)
        pipeline.stop()
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)
    assert pipeline.status().reconnects == 0


def test_a_table_that_the_waiting_log_creates_is_not_backfilled() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    run(make_pipeline(database, store), until_caught_up=True)
    for number in range(2, 300):
        database.commit(insert(KEYED, (number, "waits")))
    database.commit(SchemaChange("CREATE", None, KEYLESS))
    database.commit(insert(KEYLESS, (1, "new")))
    pipeline = make_pipeline(database, store, batch=BatchSettings(queue_bytes=1))
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert pipeline.counters.backfilled_rows == 0


def test_an_alteration_that_is_not_in_the_log_is_an_unlogged_change() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "x") for n in range(900)])
    settings = BackfillSettings(chunk_rows=2, slice_seconds=0.0, unlogged_change="stop")
    pipeline = make_pipeline(database, store, backfill=settings)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.counters.backfilled_rows > 2)
        database.load(Table(KEYED.id, (ID,), (0,), version=9), [])
        async with asyncio.timeout(20):
            await running

    with pytest.raises(UnloggedChange) as caught:
        asyncio.run(scenario())
    assert caught.value.table == "shop.keyed"
    assert caught.value.hint
    altered = make_pipeline(database, store)
    run(altered, until_caught_up=True)
    assert_mirrored(database, store)


class MinimalChunks(MemorySource):
    """Its chunks show nothing after their low watermark: later commits are not visible yet. A chunk
    is read when the first piece of the log's transaction has arrived.
    """

    def __init__(self, settings: MemorySettings, database: MemoryDatabase) -> None:
        super().__init__(settings, database)
        self._arrived = Event()

    def _pieces(self, here: int, transaction: Iterable[Change]) -> Iterator[list[Change]]:
        for piece in super()._pieces(here, transaction):
            self._arrived.set()
            yield piece

    def chunks(
        self,
        table: Table,
        cursor: str | None,
        low_watermark: str,
        *,
        rows: int,
        readers: int,
        part: Part | None = None,
        columns: Collection[str] = (),
    ) -> Generator[Chunk, None, None]:
        for chunk in super().chunks(table, cursor, low_watermark, rows=rows, readers=readers):
            assert not self.database.transactions or self._arrived.wait(10)
            old = (
                [row for row in chunk.rows if row[1] == "old"]
                if low_watermark == "0"
                else chunk.rows
            )
            yield msgspec.structs.replace(chunk, rows=old, high_watermark=low_watermark)

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        return []


def test_no_backfill_runs_while_a_transaction_is_read_in_pieces() -> None:
    """GIVEN a transaction larger than a batch on a pending table WHEN it is applied THEN the
    backfill of the table starts before or after it: in between, its first pieces would be lost."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "old")])
    database.load(
        msgspec.structs.replace(KEYED, id=TableId("shop", "backfilled_first")),
        [(n, "old") for n in range(6)],
    )

    def after_commit() -> None:
        if not database.transactions:
            database.commit(*[insert(KEYED, (100 + n, "new")) for n in range(500)])

    pipeline = make_pipeline(
        database,
        store,
        source=MinimalChunks(MemorySettings("memory:test", changes_per_read=7), database),
        sink=WatchedSink(store, after_commit),
        batch=BatchSettings(max_rows=7, queue_bytes=1),
    )

    async def follow() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.status().position == "1" and all_live(pipeline))
        pipeline.stop()
        await running

    asyncio.run(follow())
    assert_mirrored(database, store)


def test_an_error_of_the_reader_interrupts_the_backfill() -> None:
    """GIVEN a lost stream WHEN tables are backfilled THEN the pipeline reconnects after the time
    slice, so that the log cannot be purged meanwhile."""
    database, store = MemoryDatabase([ABORT]), MemoryStore()
    database.load(KEYED, [(n, "old") for n in range(400)])
    rows_at_reconnect: list[int] = []

    class Watched(MemorySource):
        def close(self) -> None:
            rows_at_reconnect.append(pipeline.counters.backfilled_rows)
            super().close()

    source = Watched(MemorySettings("memory:test"), database)
    pipeline = make_pipeline(database, store, source=source)
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert pipeline.status().reconnects == 1
    assert rows_at_reconnect[0] < 400


# -- a log that ends -------------------------------------------------------------------------------


def test_an_unfinished_backfill_is_finished_after_the_end_of_the_log() -> None:
    database, store = MemoryDatabase([END]), MemoryStore()
    database.load(KEYED, [(n, "old") for n in range(300)])
    database.load(KEYLESS, [(1, "twice"), (1, "twice")])
    pipeline = make_pipeline(database, store)
    run(pipeline)
    assert_mirrored(database, store)
    assert all_live(pipeline)


def test_a_discovered_table_is_followed_before_a_finite_log_ends_the_pipeline() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    run(make_pipeline(database, store), until_caught_up=True)
    for number in range(300):
        database.commit(insert(KEYED, (number, "waits")))
    database.load(KEYLESS, [(1, "late")])
    database.mark(END)
    run(make_pipeline(database, store))
    assert_mirrored(database, store)


class CutOff(MemorySource):
    """A finite log that ends inside a transaction."""

    def stream(self, *arguments: Any) -> Any:
        yield [Begin("1", "0", 0.0), insert(KEYLESS, *[(n, "new") for n in range(50)])]


def test_a_log_that_ends_inside_a_large_transaction_ends_the_pipeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN a pending table WHEN the log ends inside a transaction larger than a batch THEN the
    transaction is rolled back, and the next run backfills the table."""
    database, store = MemoryDatabase([END]), MemoryStore()
    progress = {KEYED.id: TableProgress(estimate=1), KEYLESS.id: TableProgress("live")}
    for table in (KEYED, KEYLESS):
        database.load(table, [(1, "old")] if table.key else [])
        store.contents[table.id] = MemoryTable(table)
    store.states["test"] = State(1, Checkpoint("test", 1, "0", 0.0, progress), (KEYED, KEYLESS))
    reads = 0
    real = ReaderQueue.get

    async def get(queue: ReaderQueue, timeout_seconds: float, *room: int) -> Any:
        nonlocal reads
        reads += queue.ended
        assert reads < 100, "the loop reads a queue that has ended"
        return await real(queue, timeout_seconds, *room)

    monkeypatch.setattr(ReaderQueue, "get", get)
    source = CutOff(MemorySettings("memory:test"), database)
    run(make_pipeline(database, store, source=source))
    assert store.rows(KEYLESS.id) == []
    run(make_pipeline(database, store))
    assert_mirrored(database, store)


# -- a source that holds only a log ----------------------------------------------------------------


def test_a_source_that_holds_only_a_log_is_streamed_without_discovery() -> None:
    """The database has a table that only a catalog would show, so it is not followed."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYLESS, [(1, "not in the log")])
    database.commit(SchemaChange("CREATE", None, KEYED))
    database.commit(insert(KEYED, (1, "a"), (2, "b")))
    database.commit(delete(KEYED, (1, "a")))
    database.mark(END)
    pipeline = make_pipeline(database, store, source=LogOnlySource(database))
    run(pipeline)
    assert list(store.contents) == [KEYED.id]
    assert store.rows(KEYED.id) == [(2, "b")]
    assert stored_position(store) == "3"
    assert all_live(pipeline)
    assert pipeline.counters.backfilled_rows == 0


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=["keyed", "keyless"])
def test_a_source_that_holds_only_a_log_refuses_a_pending_table(table: Table) -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(table, [(1, "a")])
    store.contents = {table.id: MemoryTable(table)}
    progress = {table.id: TableProgress(estimate=1)}
    store.states["test"] = State(1, Checkpoint("test", 1, "0", 0.0, progress), (table,))
    with pytest.raises(SourceError, match="holds only a log") as caught:
        run(make_pipeline(database, store, source=LogOnlySource(database)))
    assert "set [source] url" in caught.value.hint
    assert "`tailrace reset CONFIG`" in caught.value.hint
    assert store.rows(table.id) == []
