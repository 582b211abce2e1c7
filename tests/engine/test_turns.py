"""
The turns of the loop: a busy stream, the backfill, commits and the lag do not wait for each other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from engine.change import Begin, Change, Commit, Heartbeat, Row, Rows, SchemaChange
from engine.checkpoint import Checkpoint
from engine.commands import Pause
from engine.contract import Applied
from engine.errors import SinkLost, SourceLost
from engine.pipeline.loop import Pipeline
from engine.schema import Table, TableId
from engine.settings.loader import BackfillSettings, BatchSettings, RetrySettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.commands import submit_now
from tests.support.memory_pipeline import (
    KEYED,
    KEYLESS,
    LogOnlySource,
    all_live,
    insert,
    make_pipeline,
    run,
)
from tests.support.waiting import wait_until_async

SETTINGS = MemorySettings("memory:test")


def live_database() -> tuple[MemoryDatabase, MemoryStore]:
    """A database with an empty table, which is live in the target."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [])
    run(make_pipeline(database, store), until_caught_up=True)
    return database, store


class Scripted(MemorySource):
    """A source whose stream a test writes. Its log seems to end where it began, so that tables are
    discovered and backfilled at once.
    """

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(SETTINGS, database)
        self.streams = 0
        self.released = threading.Event()

    def position(self) -> str:
        return "0"

    def _read(self, table: Table) -> tuple[list[Row], str]:
        return super()._read(table)[0], "0"

    def stop(self) -> None:
        self.released.set()
        super().stop()


class Busy(Scripted):
    """A stream that never pauses."""

    def stream(self, position: str | None, *tables: Any) -> Iterator[list[Change]]:
        here = int(position or 0)
        while not self._stopped:
            here += 1
            now = time.time()
            change = insert(KEYED, (here, "x"))
            yield [Begin(str(here), str(here - 1), now), change, Commit(str(here), now)]


def test_a_busy_stream_does_not_starve_the_backfill() -> None:
    """GIVEN a stream that never pauses WHEN a new table appears THEN it is discovered and
    backfilled while the stream is applied.
    """
    database, store = live_database()
    database.load(KEYLESS, [(n, "old") for n in range(500)])
    pipeline = make_pipeline(
        database,
        store,
        source=Busy(database),
        batch=BatchSettings(max_rows=100, queue_bytes=100_000),
        backfill=BackfillSettings(chunk_rows=50, slice_seconds=0.0),
    )

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.counters.backfilled_rows == 500)
        rows = pipeline.counters.rows
        await wait_until_async(lambda: pipeline.counters.rows > rows)
        pipeline.stop()
        await running

    asyncio.run(scenario())


def cut_off() -> list[Change]:
    """A large batch of whole transactions, and the first rows of one that does not end."""
    whole = insert(KEYED, *[(n, "x") for n in range(80)])
    return [Begin("1", "0", 1.0), whole, Commit("1", 1.0), Begin("2", "1", 1.0)]


class Broken(Scripted):
    """A stream that breaks inside the second transaction, three times."""

    def stream(self, position: str | None, *tables: Any) -> Iterator[list[Change]]:
        self.streams += 1
        if position == "0":
            yield [*cut_off(), insert(KEYED, (1000, "y"))]
        if self.streams < 3:
            raise SourceLost("it breaks inside the second transaction")


def test_whole_transactions_are_committed_before_the_reader_fails() -> None:
    """A connection that always breaks inside a transaction makes progress all the same."""
    database, store = live_database()
    batch = BatchSettings(max_rows=100)
    pipeline = make_pipeline(database, store, source=Broken(database), batch=batch)
    run(pipeline)
    assert len(store.rows(KEYED.id)) == 80
    assert pipeline.counters.rows == 80


class Burst(Scripted):
    """Small transactions, all of which are read before the first one is applied."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.read = threading.Event()

    def stream(self, position: str | None, *tables: Any) -> Iterator[list[Change]]:
        for here in range(1, 51):
            rows = [(10 * here + n, "x") for n in range(10)]
            begin = Begin(str(here), str(here - 1), 1.0)
            yield [begin, insert(KEYED, *rows), Commit(str(here), 1.0)]
        self.read.set()


class Slow(MemorySink):
    """A target that applies nothing before everything is read, and records the rows of batches."""

    def __init__(self, store: MemoryStore, read: threading.Event) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self._read = read
        self.rows: list[int] = []

    async def apply(self, changes: Sequence[Change], in_backfill: Collection[TableId]) -> Applied:
        await asyncio.to_thread(self._read.wait, 20)
        self.rows.append(sum(len(it.after or ()) for it in changes if isinstance(it, Rows)))
        return await super().apply(changes, in_backfill)


def test_a_batch_is_not_larger_because_much_waits() -> None:
    database, store = live_database()
    source = Burst(database)
    sink = Slow(store, source.read)
    run(make_pipeline(database, store, source=source, sink=sink, batch=BatchSettings(max_rows=20)))
    assert sum(sink.rows) == 500
    assert max(sink.rows) == 20


class Compared(MemorySink):
    """Compares, at each commit, what the status shows with what is stored."""

    pipeline: Pipeline
    compared = 0

    async def commit(self, checkpoint: Checkpoint) -> None:
        state = self.store.states.get("test")
        stored = state.checkpoint.progress if state and state.checkpoint else {}
        shown = {it.table: (it.state, it.rows) for it in self.pipeline.status().tables}
        assert shown == {str(id): (it.state, it.rows) for id, it in stored.items()}
        self.compared += bool(shown)
        await super().commit(checkpoint)


def test_the_status_shows_what_is_committed() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, KEYLESS):
        database.load(table, [(n, "x") for n in range(5)])
    sink = Compared(MemorySinkSettings("memory:test"), "test", store)
    sink.pipeline = make_pipeline(database, store, sink=sink)
    run(sink.pipeline, until_caught_up=True)
    assert sink.compared >= 3
    assert all_live(sink.pipeline)


def test_a_pipeline_that_is_paused_at_its_first_start_shows_its_lag() -> None:
    """GIVEN a pipeline that has read no transaction yet WHEN it is paused THEN its lag is the time
    since its tables were found, so that the end of its log is seen to come.
    """
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "x")])

    async def scenario() -> None:
        began = time.time()
        pipeline = make_pipeline(database, store, source=Silent(database))
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: all_live(pipeline))
        await submit_now(MemorySink(MemorySinkSettings("memory:test"), "test", store), Pause())
        await wait_until_async(lambda: pipeline.state == "paused")
        await wait_until_async(lambda: (pipeline.status().lag_seconds or 0.0) > 0.2)
        assert (pipeline.status().lag_seconds or 0.0) <= time.time() - began
        pipeline.stop()
        await running

    asyncio.run(scenario())


class Silent(Scripted):
    """A log whose heartbeats do not tell the time."""

    def stream(self, position: str | None, *tables: Any) -> Iterator[list[Change]]:
        while not self.released.wait(0.1):
            yield [Heartbeat("0", 0.0)]


class Paused(Scripted):
    """A stream that pauses inside the second transaction."""

    def stream(self, position: str | None, *tables: Any) -> Iterator[list[Change]]:
        yield [*cut_off(), insert(KEYED, (1000, "y"))]
        self.released.wait(20)


def test_whole_transactions_are_committed_before_the_loop_waits() -> None:
    database, store = live_database()
    batch = BatchSettings(max_rows=100)
    pipeline = make_pipeline(database, store, source=Paused(database), batch=batch)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.counters.rows == 80)
        begun = time.monotonic()
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 80)
        assert time.monotonic() - begun < 0.5
        pipeline.stop()
        await running

    asyncio.run(scenario())


class Late(Scripted):
    """A heartbeat and, when the test says so, a row, both 100 seconds old; then a heartbeat that
    says that nothing is left.
    """

    proceed = threading.Event()

    def stream(self, position: str | None, *tables: Any) -> Iterator[list[Change]]:
        old = time.time() - 100
        yield [Heartbeat("0", old)]
        self.proceed.wait(20)
        yield [Begin("1", "0", old), insert(KEYED, (1, "x")), Commit("1", old)]
        yield [Heartbeat("1", time.time())]
        self.released.wait(20)


class HangingCommit(MemorySink):
    """A target that is lost in the commit of position 1, when the test says so."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self.hangs = asyncio.Event()
        self.released = asyncio.Event()

    async def commit(self, checkpoint: Checkpoint) -> None:
        if checkpoint.position == "1":
            self.hangs.set()
            await self.released.wait()
            raise SinkLost("the target is lost")
        await super().commit(checkpoint)


def test_the_lag_counts_until_the_commit() -> None:
    """The last heartbeat says that nothing is left to read. Until the row before it is committed,
    the target is still 100 seconds behind.
    """
    database, store = live_database()

    async def scenario() -> None:
        source, sink = Late(database), HangingCommit(store)
        pipeline = make_pipeline(
            database,
            store,
            source=source,
            sink=sink,
            retry=RetrySettings(first_seconds=600.0, max_seconds=600.0),
        )
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: (pipeline.status().lag_seconds or 0) > 99)
        source.proceed.set()
        async with asyncio.timeout(10):
            await sink.hangs.wait()
        assert (pipeline.status().lag_seconds or 0) > 99
        sink.released.set()
        await wait_until_async(lambda: pipeline.status().reconnects == 1)
        assert (pipeline.status().lag_seconds or 0) > 99
        pipeline.stop()
        await running

    asyncio.run(scenario())


class Strict(LogOnlySource):
    """A source that holds only a log, and can order only positions that are not empty."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        reached = self.reached

        def strict(position: str, goal: str) -> bool:
            assert position, "there is no position before the first commit"
            return reached(position, goal)

        self.reached = strict


def test_a_log_without_tables_is_followed_until_it_is_caught_up() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    changes = [insert(KEYED, (n, "x")) for n in range(500)]
    database.commit(SchemaChange("", None, KEYED), *changes)
    # The transaction is read in several pieces, and written in one batch.
    batch = BatchSettings(max_rows=10_000, queue_bytes=1)
    pipeline = make_pipeline(database, store, source=Strict(database), batch=batch)
    run(pipeline, until_caught_up=True)
    assert len(store.rows(KEYED.id)) == 500


class Forgetful(MemorySink):
    """A sink that may store a change more than once."""

    capabilities = msgspec.structs.replace(MemorySink.capabilities, guarantee="at least once")


@pytest.mark.parametrize("kind", [MemorySink, Forgetful])
def test_a_sink_that_may_repeat_changes_is_warned_about(
    kind: type[MemorySink], caplog: pytest.LogCaptureFixture
) -> None:
    database, store = live_database()
    sink = kind(MemorySinkSettings("memory:test"), "test", store)
    run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    warned = any("at least once" in record.message for record in caplog.records)
    assert warned == (kind is Forgetful)
