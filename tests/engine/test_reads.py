"""
Chunks of a backfill are applied while more of them are read, and a read goes on from time slice to
time slice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from engine.change import Chunk, Rows
from engine.contract import Applied
from engine.errors import ShapeChanged
from engine.schema import Table
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import (
    KEYED,
    KEYLESS,
    assert_mirrored,
    insert,
    make_pipeline,
    run,
    update,
)


class ReadingSink(MemorySink):
    """A sink that applies rows while more are read; ``runs`` is how many it got at a time."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self.runs: list[int] = []

    async def apply_reads(self, reads: AsyncIterator[Rows]) -> Applied:
        self.runs.append(0)
        async for rows in reads:
            self.runs[-1] += 1
            await self.apply([rows], {rows.table.id})
        return Applied()


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=str)
def test_chunks_are_applied_while_more_are_read(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a sink that can do it THEN all chunks until a commit is due are applied together."""
    monkeypatch.setattr("engine.pipeline.backfill.COMMIT_SECONDS", 60.0)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(table, [(n, "a") for n in range(15)])
    sink = ReadingSink(store)
    pipeline = make_pipeline(database, store, sink=sink)
    run(pipeline, until_caught_up=True)
    assert sink.runs == [8]
    assert pipeline.status().tables[0].rows == 15
    assert_mirrored(database, store)


class FailingRead(MemorySource):
    """The read of its table fails once, after two chunks."""

    failures = 1

    def chunks(self, *arguments: Any, **more: Any) -> Generator[Chunk, None, None]:
        for number, chunk in enumerate(super().chunks(*arguments, **more)):
            if number == 2 and self.failures:
                self.failures -= 1
                raise ShapeChanged("the live table has another shape", table=KEYED.id)
            yield chunk


def test_chunks_before_an_error_of_the_source_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a table that is altered while it is read WHEN the stream has passed the place THEN its
    backfill goes on after the chunks before the error."""
    monkeypatch.setattr("engine.pipeline.backfill.COMMIT_SECONDS", 60.0)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "a") for n in range(15)])
    sink = ReadingSink(store)
    source = FailingRead(MemorySettings("memory:test"), database)
    run(make_pipeline(database, store, source=source, sink=sink), until_caught_up=True)
    assert sink.runs == [2, 6]
    assert_mirrored(database, store)


class CountedReads(MemorySource):
    """Counts how often the read of a table begins. After its third chunk ``then`` is called once,
    and the chunk is late enough for what the log shows of it.
    """

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(MemorySettings("memory:test", heartbeat_seconds=0.001), database)
        self.reads: list[str | None] = []
        self.then = lambda: None

    def chunks(self, table: Table, *arguments: Any, **more: Any) -> Generator[Chunk, None, None]:
        self.reads.append(arguments[1])
        for number, chunk in enumerate(super().chunks(table, *arguments, **more)):
            if number == 3:
                then, self.then = self.then, lambda: None
                then()
            yield chunk


@pytest.mark.parametrize("changed", [None, KEYED, KEYLESS], ids=str)
def test_a_read_goes_on_if_the_stream_has_changed_nothing(changed: Table | None) -> None:
    """GIVEN a backfill in many time slices WHEN the stream has only heartbeats between two of them
    THEN what was read ahead is not read again; after a change of any table it is."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "a") for n in range(400)])
    database.load(KEYLESS, [])
    source = CountedReads(database)
    if changed is not None:
        old, new = (7, "a"), (7, "b")
        change = update(KEYED, old, new) if changed is KEYED else insert(KEYLESS, (1, "x"))
        source.then = lambda: database.commit(change) and None
    pipeline = make_pipeline(database, store, source=source)
    run(pipeline, until_caught_up=True)
    assert len(source.reads) == (2 if changed is None else 3)  # one is that of the other table
    assert_mirrored(database, store)
