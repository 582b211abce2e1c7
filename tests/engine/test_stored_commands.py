"""Commands that are stored in the target, on a running pipeline and on a stopped one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine.commands import BackfillTables, StoredCommand
from engine.schema import TableId
from engine.settings.loader import BackfillSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import END, MemoryDatabase, Unlogged
from tests.support.memory_pipeline import (
    KEYED,
    LogOnlySource,
    WatchedSink,
    assert_mirrored,
    insert,
    make_pipeline,
    run,
)
from tests.support.waiting import wait_until_async

OTHER = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "other"))
QUARANTINE = BackfillSettings(chunk_rows=2, unlogged_change="quarantine")


def submit(store: MemoryStore, text: str) -> int:
    sink = MemorySink(MemorySinkSettings("memory:test"), "test", store)
    return asyncio.run(sink.submit_command(text, "ann"))


def backfill(*tables: str) -> str:
    return msgspec.json.encode(BackfillTables(tables)).decode()


def outcome(store: MemoryStore, id: int) -> StoredCommand:
    return store.commands[id - 1][1]


def quarantined() -> tuple[MemoryDatabase, MemoryStore]:
    """A pipeline that has stopped, with one of its two tables in quarantine."""
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, OTHER):
        database.load(table, [(number, "old") for number in range(9)])
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(KEYED, [(number, "new") for number in range(12)]))
    database.commit(insert(KEYED, (100, "x")), insert(OTHER, (100, "x")))
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]
    return database, store


def test_a_stopped_pipeline_executes_a_command_at_its_start() -> None:
    database, store = quarantined()
    id = submit(store, backfill(str(KEYED.id)))
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert {it.state for it in pipeline.status().tables} == {"live"}
    assert outcome(store, id).outcome == f"{KEYED.id}: read again from now on"


def test_a_running_pipeline_executes_a_command_at_a_commit() -> None:
    database, store = quarantined()
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        sink = MemorySink(MemorySinkSettings("memory:test"), "test", store)
        await sink.submit_command(backfill(str(KEYED.id), str(OTHER.id)), "ann")
        await wait_until_async(lambda: outcome(store, 1).outcome is not None)
        await wait_until_async(lambda: {it.state for it in pipeline.status().tables} == {"live"})
        pipeline.stop()
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


@pytest.mark.parametrize("step", range(10))
def test_a_command_is_executed_once_whenever_the_engine_is_killed(step: int) -> None:
    database, store = quarantined()
    id = submit(store, backfill(str(KEYED.id)))
    commits = 0

    def die() -> None:
        nonlocal commits
        commits += 1
        if commits == step + 1:
            raise Killed

    try:
        run(make_pipeline(database, store, sink=WatchedSink(store, die)), until_caught_up=True)
    except Killed:
        run(make_pipeline(database, store), until_caught_up=True)
    assert outcome(store, id).outcome is not None
    assert_mirrored(database, store)


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (backfill("shop.keyed", "shop.none"), "the pipeline follows no table shop.none"),
        ('{"command": "dance"}', "does not know the command"),
        ("{", "does not know the command"),
    ],
)
def test_a_command_that_cannot_be_executed_is_refused(command: str, reason: str) -> None:
    database, store = quarantined()
    id = submit(store, command)
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert outcome(store, id).refused
    assert reason in (outcome(store, id).outcome or "")
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]


def test_a_log_without_a_server_refuses_to_read_a_table_again() -> None:
    database, store = quarantined()
    database.mark(END)
    id = submit(store, backfill(str(KEYED.id)))
    run(make_pipeline(database, store, source=LogOnlySource(database)))
    assert "a log without a server" in (outcome(store, id).outcome or "")
    assert store.rows(KEYED.id) == [(number, "old") for number in range(9)]


def test_the_engine_of_another_pipeline_takes_no_command() -> None:
    store = MemoryStore()
    other = MemorySink(MemorySinkSettings("memory:test"), "other", store)
    asyncio.run(other.submit_command(backfill("shop.keyed"), "ann"))
    database = MemoryDatabase()
    database.load(KEYED, [(1, "x")])
    run(make_pipeline(database, store), until_caught_up=True)
    assert outcome(store, 1).outcome is None
