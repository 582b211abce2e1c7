"""
A pipeline from a scripted source into a target in memory, for tests of the pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.change import Row, Rows
from engine.checkpoint import Checkpoint
from engine.contract import Sink, Source
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics
from engine.ops.tracing import NO_TRACING, Tracing
from engine.pipeline.loop import Pipeline
from engine.schema import Column, Table, TableId, Type
from engine.settings.loader import (
    BackfillSettings,
    BatchSettings,
    ErrorSettings,
    RetrySettings,
)
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource

__all__ = [
    "ID",
    "KEYED",
    "KEYLESS",
    "NAME",
    "LogOnlySource",
    "WatchedSink",
    "all_live",
    "assert_mirrored",
    "delete",
    "insert",
    "make_pipeline",
    "many_tables",
    "run",
    "stored_position",
    "update",
]

ID = Column("id", Type("int32"), "int", nullable=False)
NAME = Column("name", Type("text"), "text")
KEYED = Table(TableId("shop", "keyed"), (ID, NAME), key=(0,))
KEYLESS = Table(TableId("shop", "keyless"), (ID, NAME))


def insert(table: Table, *rows: Row) -> Rows:
    return Rows(table, "insert", None, list(rows), size=10 * len(rows))


def update(table: Table, before: Row, after: Row) -> Rows:
    return Rows(table, "update", [before], [after], size=20)


def delete(table: Table, *rows: Row) -> Rows:
    return Rows(table, "delete", list(rows), None, size=10)


def many_tables(count: int) -> list[Table]:
    """Tables with a key, in the order of their names."""
    return [
        Table(TableId("shop", f"t{number:03}"), (ID, NAME), key=(0,)) for number in range(count)
    ]


class LogOnlySource:
    """A source that holds only a log: a ``MemorySource`` without the methods that read tables."""

    Settings = MemorySettings

    def __init__(self, database: MemoryDatabase) -> None:
        source = MemorySource(MemorySettings("memory:test"), database)
        self.check = source.check
        self.stream = source.stream
        self.position = source.position
        self.reached = source.reached
        self.includes = source.includes
        self.backlog = source.backlog
        self.acknowledge = source.acknowledge
        self.stop = source.stop
        self.close = source.close


class WatchedSink(MemorySink):
    """A target in memory that calls ``after_commit`` after each commit."""

    def __init__(self, store: MemoryStore, after_commit: Callable[[], None]) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self._after_commit = after_commit

    async def commit(self, checkpoint: Checkpoint) -> None:
        await super().commit(checkpoint)
        self._after_commit()


def make_pipeline(
    database: MemoryDatabase,
    store: MemoryStore,
    *,
    source: Source | None = None,
    sink: Sink | None = None,
    batch: BatchSettings | None = None,
    backfill: BackfillSettings | None = None,
    retry: RetrySettings | None = None,
    mapping: Mapping | None = None,
    errors: ErrorSettings | None = None,
    config: str = "",
    reload: Callable[[], str] | None = None,
    continues: bool = False,
    tracing: Tracing = NO_TRACING,
) -> Pipeline:
    """A pipeline named ``test``. Its batches and chunks are small, so that there are several."""
    return Pipeline(
        "test",
        source or MemorySource(MemorySettings("memory:test"), database),
        sink or MemorySink(MemorySinkSettings("memory:test"), "test", store),
        batch=batch or BatchSettings(max_rows=7),
        backfill=backfill or BackfillSettings(chunk_rows=2, slice_seconds=0.0),
        retry=retry or RetrySettings(first_seconds=0.001, max_seconds=0.01, give_up_seconds=5.0),
        metrics=Metrics("test"),
        mapping=mapping,
        errors=errors,
        config=config,
        reload=reload,
        continues=continues,
        tracing=tracing,
    )


def run(pipeline: Pipeline, *, until_caught_up: bool = False) -> None:
    """Run the pipeline to its end, in a new event loop."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await pipeline.run(until_caught_up=until_caught_up)

    asyncio.run(bounded())


def assert_mirrored(database: MemoryDatabase, store: MemoryStore) -> None:
    """Fail unless both sides hold the same tables with the same rows."""
    assert set(store.contents) == set(database.contents)
    for id in database.contents:
        assert sorted(store.rows(id), key=repr) == sorted(database.contents[id], key=repr), id


def all_live(pipeline: Pipeline) -> bool:
    """Whether the pipeline follows tables, and all of them are live."""
    tables = pipeline.status().tables
    return bool(tables) and all(table.state == "live" for table in tables)


def stored_position(store: MemoryStore) -> str | None:
    """The position of the stored checkpoint, or None if there is none."""
    state = store.states.get("test")
    return None if state is None or state.checkpoint is None else state.checkpoint.position
