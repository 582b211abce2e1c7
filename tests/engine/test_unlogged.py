"""Changes that the log does not show: the table is backfilled again, into a twin."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec
import pytest

from engine.change import Cascade, Change, Rows, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Applied, Capabilities
from engine.errors import SinkLost, UnloggedChange
from engine.pipeline.twins import Twins
from engine.schema import Column, ForeignKey, Table, TableId, Type
from engine.settings.loader import BackfillSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import ABORT, END, MemoryDatabase, MemorySettings, MemorySource, Unlogged
from tests.support.memory_pipeline import (
    ID,
    KEYED,
    KEYLESS,
    NAME,
    LogOnlySource,
    WatchedSink,
    assert_mirrored,
    delete,
    insert,
    make_pipeline,
    run,
)
from tests.support.waiting import wait_until_async

OTHER = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "other"))
WIDER = Table(
    KEYED.id,
    (ID, Column("code", Type("int32"), "int"), NAME),
    key=(0,),
    version=2,
)
ROWS = [(number, "old") for number in range(20)]
NEW_ROWS = [(number, "new") for number in range(30)]


def database_of(*tables: Table) -> MemoryDatabase:
    database = MemoryDatabase()
    for table in tables:
        database.load(table, list(ROWS))
    return database


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=["keyed", "keyless"])
def test_the_table_is_backfilled_again_and_the_others_go_on(table: Table) -> None:
    database, store = database_of(table, OTHER), MemoryStore()
    seen: list[list[tuple[object, ...]]] = []
    sink = WatchedSink(store, lambda: seen.append(store.rows(table.id)))
    run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    seen.clear()
    database.commit(insert(OTHER, (100, "before")))
    database.commit(Unlogged(table, NEW_ROWS), insert(OTHER, (101, "within")))
    database.commit(insert(table, (200, "after")), delete(table, (3, "new")))
    pipeline = make_pipeline(database, store, sink=sink)
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert {it.state for it in pipeline.status().tables} == {"live"}
    # A reader of the target sees all rows of the one or all rows of the other.
    assert {len(rows) for rows in seen} <= {len(ROWS), len(NEW_ROWS)}


def test_the_new_shape_is_discovered() -> None:
    database, store = database_of(KEYED), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(WIDER, [(1, 2, "wide")]))
    database.commit(insert(WIDER, (2, 3, "later")))
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)
    assert store.rows(KEYED.id) == [(1, 2, "wide"), (2, 3, "later")]


def test_changes_while_the_twin_is_backfilled_reach_the_twin() -> None:
    database, store = database_of(KEYED), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)
    renamed = msgspec.structs.replace(WIDER, id=TableId(KEYED.id.schema, "renamed"), version=3)
    steps = iter(
        [
            lambda: database.commit(insert(KEYED, (50, "x"))),
            lambda: database.commit(SchemaChange("", KEYED, WIDER)),
            lambda: database.commit(insert(WIDER, (51, 1, "y"))),
            lambda: database.commit(SchemaChange("", WIDER, renamed)),
            lambda: database.commit(insert(renamed, (52, 1, "z"))),
        ]
    )
    twin = TableId(KEYED.id.schema, f"tailrace_twin_{KEYED.id.name}")

    def meanwhile() -> None:
        if twin in store.contents and len(store.contents[twin]) and (step := next(steps, None)):
            step()

    database.commit(Unlogged(KEYED, NEW_ROWS))
    run(
        make_pipeline(database, store, sink=WatchedSink(store, meanwhile)),
        until_caught_up=True,
    )
    while step := next(steps, None):
        step()
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)
    assert list(store.contents) == [renamed.id]


def test_a_foreign_key_changes_the_twin() -> None:
    parent = TableId("shop", "parent")
    key = ForeignKey("f", ("id",), parent, ("id",), "cascade")
    child = msgspec.structs.replace(KEYED, foreign_keys=(key,))
    twin = msgspec.structs.replace(child, id=TableId("shop", f"tailrace_twin_{child.id.name}"))
    twins = Twins([child, twin, OTHER], {child.id: TableProgress("backfilling", again=True)})
    cascade = Cascade(parent, ("id",), [(1,)], None, (child, OTHER))
    assert twins.targets([cascade]) == [msgspec.structs.replace(cascade, tables=(twin, OTHER))]


@pytest.mark.parametrize("step", range(12))
def test_an_engine_that_is_killed_goes_on_where_it_was(step: int) -> None:
    """The engine loses the target after each of its commits in turn, and the source too."""
    database, store = database_of(KEYED, OTHER), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(WIDER, [(number, 0, "w") for number in range(9)]))
    database.mark(ABORT)
    database.commit(insert(OTHER, (300, "o")), insert(WIDER, (300, 0, "w")))
    commits = 0

    def lose() -> None:
        nonlocal commits
        commits += 1
        if commits == step + 1:
            raise SinkLost("the test lost the connection")

    run(make_pipeline(database, store, sink=WatchedSink(store, lose)), until_caught_up=True)
    assert_mirrored(database, store)


class Configured(MemorySource):
    """A source whose configuration may exclude all tables."""

    excluded = False

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        return [] if self.excluded else super().catalog(known)


@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "excluded"])
def test_only_a_logged_drop_drops_a_table_that_waits(dropped: bool) -> None:
    database, store = database_of(KEYED, OTHER), MemoryStore()
    source = Configured(MemorySettings("memory:test"), database)
    run(make_pipeline(database, store, source=source), until_caught_up=True)
    database.commit(Unlogged(KEYED, NEW_ROWS))
    if dropped:
        database.commit(SchemaChange("", KEYED, None))
    source.excluded = not dropped
    pipeline = make_pipeline(database, store, source=source)
    run(pipeline, until_caught_up=True)
    states = {it.table: it.state for it in pipeline.status().tables}
    if dropped:
        assert states == {str(OTHER.id): "live"}
        assert_mirrored(database, store)
    else:
        assert states == {str(KEYED.id): "quarantined", str(OTHER.id): "live"}
        assert store.rows(KEYED.id) == ROWS


def test_a_table_that_is_dropped_while_it_waits_and_created_again_is_followed() -> None:
    """The stream that ignores it is opened before it is dropped, and goes on after that."""
    database, store = database_of(KEYED, OTHER), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(KEYED, NEW_ROWS))
    database.commit(SchemaChange("", KEYED, None))
    pipeline = make_pipeline(database, store)

    async def follow() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: KEYED.id not in store.contents)
        database.commit(SchemaChange("", None, KEYED), insert(KEYED, (1, "again")))
        database.commit(insert(OTHER, (100, "later")))
        await wait_until_async(lambda: (100, "later") in store.rows(OTHER.id))
        try:
            await wait_until_async(lambda: KEYED.id in store.contents, 5)
            await wait_until_async(lambda: store.rows(KEYED.id) == [(1, "again")], 5)
        finally:
            pipeline.stop()
            await running

    asyncio.run(follow())
    assert_mirrored(database, store)


@pytest.mark.parametrize("commits", range(5))
def test_a_configuration_that_forbids_backfills_empties_no_table(commits: int) -> None:
    """GIVEN an engine that is killed while a table is backfilled again WHEN it starts with
    ``mode = "never"`` THEN the table has its old rows, or all new ones."""
    database, store = database_of(KEYED), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(KEYED, NEW_ROWS))
    left = commits

    def die() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with suppress(Killed):
        run(make_pipeline(database, store, sink=WatchedSink(store, die)), until_caught_up=True)
    pipeline = make_pipeline(database, store, backfill=BackfillSettings(mode="never"))
    run(pipeline, until_caught_up=True)
    (table,) = pipeline.status().tables
    expected = ROWS if table.state == "quarantined" else NEW_ROWS
    assert store.rows(KEYED.id) == expected


class Killed(Exception):
    """Stands for SIGKILL."""


class Named(MemorySink):
    """Records the tables that are in backfill when rows are applied."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self.strict: set[TableId] = set()

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        rows = {change.table.id for change in changes if isinstance(change, Rows)}
        self.strict |= rows - set(in_backfill)
        return await super().apply(changes, in_backfill)


def test_rows_of_a_twin_are_applied_as_in_a_backfill_to_the_end() -> None:
    database, store = database_of(KEYED), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(KEYED, NEW_ROWS))
    sink, twin = Named(store), TableId(KEYED.id.schema, f"tailrace_twin_{KEYED.id.name}")
    numbers = iter(range(1000, 1040))
    commit = sink.commit

    async def written(checkpoint: Checkpoint) -> None:
        await commit(checkpoint)
        if twin in store.contents and (number := next(numbers, None)) is not None:
            database.commit(insert(KEYED, (number, "x")))
            database.commit(delete(KEYED, (number, "x")))

    sink.commit = written  # type: ignore[method-assign]
    run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    assert twin not in sink.strict
    assert_mirrored(database, store)


def test_a_quarantined_table_keeps_its_rows_and_its_reason() -> None:
    database, store = database_of(KEYED, OTHER), MemoryStore()
    settings = BackfillSettings(chunk_rows=2, unlogged_change="quarantine")
    run(make_pipeline(database, store, backfill=settings), until_caught_up=True)
    database.commit(Unlogged(KEYED, NEW_ROWS), insert(OTHER, (100, "o")))
    database.commit(insert(KEYED, (200, "ignored")))
    for _ in range(2):  # also after a restart
        pipeline = make_pipeline(database, store, backfill=settings)
        run(pipeline, until_caught_up=True)
        states = {it.table: (it.state, it.reason) for it in pipeline.status().tables}
        assert states[str(KEYED.id)] == ("quarantined", "the log does not show it")
        assert states[str(OTHER.id)] == ("live", "")
        assert store.rows(KEYED.id) == ROWS
        assert (100, "o") in store.rows(OTHER.id)


def test_the_policy_stop_stops_with_the_way_on() -> None:
    database, store = database_of(KEYED), MemoryStore()
    settings = BackfillSettings(chunk_rows=2, unlogged_change="stop")
    run(make_pipeline(database, store, backfill=settings), until_caught_up=True)
    database.commit(Unlogged(KEYED, NEW_ROWS))
    with pytest.raises(UnloggedChange) as caught:
        run(make_pipeline(database, store, backfill=settings), until_caught_up=True)
    assert 'unlogged_change = "backfill"' in caught.value.hint
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)


class AppendOnly(MemorySink):
    """A target that follows no schema change, so it cannot replace a table."""

    capabilities = Capabilities(
        guarantee="exactly once", transactional=True, upsert=True, schema_changes=False
    )


@pytest.mark.parametrize("kind", ["log only", "append only", "never"])
def test_a_table_that_cannot_be_backfilled_again_is_quarantined(kind: str) -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.commit(SchemaChange("", None, KEYED), SchemaChange("", None, OTHER))
    database.commit(insert(KEYED, (1, "a")))
    database.commit(Unlogged(KEYED, NEW_ROWS))
    database.commit(insert(OTHER, (2, "b")), insert(KEYED, (100, "b")))
    database.mark(END)
    settings = BackfillSettings(mode="never") if kind == "never" else None
    pipeline = make_pipeline(
        database,
        store,
        source=LogOnlySource(database) if kind != "append only" else None,
        sink=AppendOnly(MemorySinkSettings("memory:test"), "test", store)
        if kind == "append only"
        else None,
        backfill=settings,
    )
    run(pipeline)
    if kind == "append only":
        return  # it was discovered with its rows of now, so nothing is unlogged
    assert store.rows(KEYED.id) == [(1, "a")]
    assert store.rows(OTHER.id) == [(2, "b")]


def test_a_table_that_changes_so_all_the_time_is_quarantined() -> None:
    database, store = database_of(KEYED), MemoryStore()
    run(make_pipeline(database, store), until_caught_up=True)

    def meanwhile() -> None:
        states = {it.table: it.state for it in pipeline.status().tables}
        if states.get(str(KEYED.id)) == "live":
            database.commit(Unlogged(KEYED, NEW_ROWS))

    pipeline = make_pipeline(database, store, sink=WatchedSink(store, meanwhile))
    database.commit(Unlogged(KEYED, NEW_ROWS))

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(
            lambda: {it.state for it in pipeline.status().tables} == {"quarantined"}
        )
        pipeline.stop()
        await running

    asyncio.run(scenario())


def test_an_outdated_table_is_named_until_its_twin_has_the_new_form() -> None:
    id, twin = TableId("shop", "items"), TableId("shop", "tailrace_twin_items")
    other = Table(TableId("shop", "other"), (Column("id", Type("int32"), "int"),))
    old, new = (msgspec.structs.replace(other, id=it) for it in (id, twin))
    reasons = {id: "a policy", other.id: "another one"}
    assert Twins([old, other], {}).outdated(reasons) == reasons
    progress = {id: TableProgress(again=True)}
    assert Twins([old, new, other], progress).outdated(reasons) == {other.id: "another one"}
    assert Twins([old, new], progress).outdated({twin: "changed meanwhile"}) == {
        id: "changed meanwhile"
    }
    assert Twins([old], progress).outdated({id: "a policy"}) == {}
