"""
Chunks of a backfill are applied while more of them are read, and a read goes on from time slice to
time slice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any

import pytest

from engine.change import Chunk, Rows
from engine.contract import Applied
from engine.errors import ShapeChanged, SourceLost, TailraceError
from engine.mapping.changes import Mapping
from engine.schema import Table
from engine.settings.loader import BackfillSettings
from engine.settings.mapping import TableRules
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import (
    KEYED,
    KEYLESS,
    assert_mirrored,
    insert,
    make_pipeline,
    many_tables,
    run,
    update,
)

OTHER = many_tables(1)[0]


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
    """Reads of its table fail with ``errors``, after as many chunks as ``yielded`` says."""

    def __init__(
        self,
        database: MemoryDatabase,
        errors: Sequence[type[TailraceError]],
        yielded: Sequence[int],
    ) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self._failures = iter(zip(errors, yielded, strict=True))

    def chunks(self, *arguments: Any, **more: Any) -> Generator[Chunk, None, None]:
        error, yielded = next(self._failures, (None, None))
        for number, chunk in enumerate(super().chunks(*arguments, **more)):
            if error is not None and number == yielded:
                raise error("the live table is not read", table=KEYED.id)
            yield chunk


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=str)
@pytest.mark.parametrize("error", [ShapeChanged, SourceLost])
def test_chunks_before_an_error_of_the_source_are_applied(
    error: type[TailraceError], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a table that is altered while it is read, or whose server is lost THEN its backfill
    goes on after the chunks before the error; without a key it begins again."""
    monkeypatch.setattr("engine.pipeline.backfill.COMMIT_SECONDS", 60.0)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(table, [(n, "a") for n in range(15)])
    sink = ReadingSink(store)
    source = FailingRead(database, [error], [2])
    run(make_pipeline(database, store, source=source, sink=sink), until_caught_up=True)
    assert sink.runs == ([2, 6] if table.key else [2, 8])
    assert_mirrored(database, store)


def test_a_table_that_is_altered_again_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a table that is altered without the log, and altered back THEN it is read; WHEN it is
    altered once more, the log may have the change."""
    monkeypatch.setattr("engine.pipeline.backfill.COMMIT_SECONDS", 60.0)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "a") for n in range(15)])
    source = FailingRead(database, [ShapeChanged, ShapeChanged], [0, 2])
    sink = ReadingSink(store)
    settings = BackfillSettings(chunk_rows=2, slice_seconds=0.0, unlogged_change="stop")
    pipeline = make_pipeline(database, store, source=source, sink=sink, backfill=settings)
    run(pipeline, until_caught_up=True)
    assert sink.runs == [0, 2, 6]
    assert_mirrored(database, store)


def test_an_error_of_the_mapping_concerns_the_table_that_is_read() -> None:
    """GIVEN two tables that have each other's names on the target WHEN a row of one breaks its
    assert THEN this one is quarantined."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(n, "a") for n in range(15)])
    database.load(OTHER, [(1, "b")])
    rules = {
        str(KEYED.id): TableRules(to=str(OTHER.id), assert_="id < 9"),
        str(OTHER.id): TableRules(to=str(KEYED.id)),
    }
    pipeline = make_pipeline(database, store, sink=ReadingSink(store), mapping=Mapping(rules))
    run(pipeline, until_caught_up=True)
    states = {it.table: it.state for it in pipeline.status().tables}
    assert states == {str(KEYED.id): "quarantined", str(OTHER.id): "live"}


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
