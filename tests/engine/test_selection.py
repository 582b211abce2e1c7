"""Edits of the configuration's tables: at the next start, also for tables that are followed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec
import pytest

from engine.change import SchemaChange
from engine.errors import ConfigError, SourceRejected
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics
from engine.schema import Table, TableId
from engine.settings.mapping import MaskSettings, TableRules
from sinks.memory import MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import (
    KEYED,
    KEYLESS,
    WatchedSink,
    assert_mirrored,
    insert,
    make_pipeline,
    run,
)
from tests.support.metric_samples import samples
from tests.support.waiting import wait_until_async

OTHER = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "other"))


class Selecting(MemorySource):
    """A source whose configuration excludes tables."""

    def __init__(self, database: MemoryDatabase, *excluded: Table) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self._excluded = {table.id for table in excluded}

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        return super().catalog({*known, *self._excluded})

    def selected(self, ids: Collection[TableId]) -> set[TableId]:
        return set(ids) - self._excluded


def mirrored() -> tuple[MemoryDatabase, MemoryStore]:
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, KEYLESS, OTHER):
        database.load(table, [(1, "old"), (2, "old")])
    run(make_pipeline(database, store, source=Selecting(database)), until_caught_up=True)
    return database, store


def test_an_excluded_table_is_left_as_it_is_until_it_is_selected_again() -> None:
    database, store = mirrored()
    database.commit(*(insert(table, (3, "x")) for table in (KEYED, KEYLESS, OTHER)))
    for _ in range(2):
        source = Selecting(database, KEYED, KEYLESS)
        pipeline = make_pipeline(database, store, source=source)
        run(pipeline, until_caught_up=True)
        assert [(it.table, it.state) for it in pipeline.status().tables] == [
            (str(OTHER.id), "live")
        ]
        assert store.rows(KEYED.id) == store.rows(KEYLESS.id) == [(1, "old"), (2, "old")]
        assert store.rows(OTHER.id) == [(1, "old"), (2, "old"), (3, "x")]
    seen: list[int] = []
    sink = WatchedSink(store, lambda: seen.append(len(store.rows(KEYED.id))))
    pipeline = make_pipeline(database, store, source=Selecting(database), sink=sink)
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert set(seen) == {2, 3}
    assert {it.state for it in pipeline.status().tables} == {"live"}


def test_an_excluded_table_that_is_dropped_stays_on_the_target() -> None:
    database, store = mirrored()
    run(make_pipeline(database, store, source=Selecting(database, KEYED)), until_caught_up=True)
    database.commit(SchemaChange("DROP", KEYED, None))
    run(make_pipeline(database, store, source=Selecting(database, KEYED)), until_caught_up=True)
    assert store.rows(KEYED.id) == [(1, "old"), (2, "old")]


@pytest.mark.parametrize("step", range(8))
def test_a_kill_at_each_commit(step: int) -> None:
    database, store = mirrored()
    database.commit(insert(KEYED, (3, "x")))
    run(make_pipeline(database, store, source=Selecting(database, KEYED)), until_caught_up=True)
    commits = 0

    def die() -> None:
        nonlocal commits
        commits += 1
        if commits == step + 1:
            raise Killed

    try:
        sink = WatchedSink(store, die)
        pipeline = make_pipeline(database, store, source=Selecting(database), sink=sink)
        run(pipeline, until_caught_up=True)
    except Killed:
        run(make_pipeline(database, store, source=Selecting(database)), until_caught_up=True)
    assert_mirrored(database, store)


class Killed(Exception):
    """Stands for SIGKILL."""


def test_a_selection_of_none_of_the_tables_is_refused() -> None:
    database, store = mirrored()
    source = Selecting(database, KEYED, KEYLESS, OTHER)
    with pytest.raises(ConfigError, match="none of the tables"):
        run(make_pipeline(database, store, source=source), until_caught_up=True)
    run(make_pipeline(database, store, source=Selecting(database)), until_caught_up=True)
    assert_mirrored(database, store)


class Rejecting(Selecting):
    """A source that rejects the user."""

    def position(self) -> str:
        raise SourceRejected("access denied")


NO_COLUMN = Mapping({"shop.keyed": TableRules(select="id, nane")}, MaskSettings())


@pytest.mark.parametrize(
    ("source", "excluded", "mapping"),
    [
        (Selecting, (KEYED, KEYLESS, OTHER), None),
        (Selecting, (), NO_COLUMN),
        (Rejecting, (), None),
    ],
    ids=["tables", "mapping", "password"],
)
def test_a_wrong_configuration_ends_no_engine_that_runs(
    source: type[Selecting], excluded: tuple[Table, ...], mapping: Mapping | None
) -> None:
    database, store = mirrored()

    async def scenario() -> None:
        pipeline = make_pipeline(database, store, source=Selecting(database))
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        epoch = store.states["test"].epoch
        wrong = make_pipeline(database, store, source=source(database, *excluded), mapping=mapping)
        with pytest.raises((ConfigError, SourceRejected)):
            await wrong.run()
        assert store.states["test"].epoch == epoch
        database.commit(insert(KEYED, (3, "x")))
        await wait_until_async(lambda: (3, "x") in store.rows(KEYED.id))
        pipeline.stop()
        await running

    asyncio.run(scenario())


def test_metrics_show_no_excluded_table() -> None:
    database, store = mirrored()
    pipeline = make_pipeline(database, store, source=Selecting(database, KEYED))
    run(pipeline, until_caught_up=True)
    shown = samples(Metrics("p"), status=pipeline.status())
    assert not any(str(KEYED.id) in name for name in shown)
    assert shown["tailrace_tables{live}"] == 2
    assert shown["tailrace_tables{excluded}"] == shown["tailrace_tables{quarantined}"] == 0
