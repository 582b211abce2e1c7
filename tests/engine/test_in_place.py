"""A table that is backfilled again in place: by ranges of its key, without a second table."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import msgspec
import pytest

from engine.change import (
    TWIN_PREFIX,
    Change,
    DeleteRange,
    InPlace,
    KeepKeys,
    Replace,
    Row,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.checkpoint import TableProgress
from engine.commands import BackfillTables
from engine.contract import Applied
from engine.errors import ApplyError, UnloggedChange
from engine.mapping.changes import Mapping
from engine.pipeline import backfill
from engine.schema import Column, Table, TableId, Type
from engine.settings.loader import BackfillSettings, ErrorSettings
from engine.settings.mapping import MaskSettings, TableRules
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, Unlogged
from tests.support.commands import submit
from tests.support.memory_pipeline import (
    ID,
    KEYED,
    KEYLESS,
    NAME,
    WatchedSink,
    assert_mirrored,
    delete,
    insert,
    make_pipeline,
    run,
    update,
)

#: The same table with a key that the target may sort otherwise.
TEXT_ID = Column("id", Type("text"), "varchar(9)", nullable=False)
LABELED = msgspec.structs.replace(KEYED, columns=(TEXT_ID, NAME))
KEYS = pytest.mark.parametrize("table", [KEYED, LABELED], ids=["range", "keys"])
QUARANTINE = BackfillSettings(chunk_rows=2, slice_seconds=0.0, unlogged_change="quarantine")
OLD = [(number, "old") for number in range(0, 20, 2)]
NEW = [(number, "new") for number in range(0, 24, 3)]


@pytest.fixture(autouse=True)
def commit_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "COMMIT_SECONDS", 0.0)


def sink_of(store: MemoryStore) -> MemorySink:
    return MemorySink(MemorySinkSettings("memory:test"), "test", store)


def quarantined(table: Table = KEYED) -> tuple[MemoryDatabase, MemoryStore]:
    """A stopped pipeline with a table in quarantine whose rows are others on the source now."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(table, OLD)
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(table, NEW))
    database.commit(insert(table, (100, "x")))
    run(make_pipeline(database, store, backfill=QUARANTINE), until_caught_up=True)
    assert store.rows(table.id) == OLD
    return database, store


def in_place(store: MemoryStore, *tables: str) -> int:
    return submit(sink_of(store), BackfillTables(tables, in_place=True))


class NoTwinSink(WatchedSink):
    """A target that refuses a second table, and to be emptied."""

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        for change in changes:
            assert not isinstance(change, Replace | Truncate)
            if isinstance(change, SchemaChange) and change.after is not None:
                twin = change.after.id.name.startswith(TWIN_PREFIX)
                assert not twin or change.after.columns == (TEXT_ID,)
            elif isinstance(change, DeleteRange):
                assert change.table.columns[0] == ID
        return await super().apply(changes, in_backfill)


@KEYS
def test_rows_take_the_place_of_others_and_none_is_missing(table: Table) -> None:
    database, store = quarantined(table)
    id = in_place(store, "shop.keyed")
    seen: list[list[Row]] = []
    sink = NoTwinSink(store, lambda: seen.append(store.rows(KEYED.id)))
    run(make_pipeline(database, store, sink=sink, backfill=QUARANTINE), until_caught_up=True)
    assert_mirrored(database, store)
    assert store.commands[id - 1][1].outcome == "shop.keyed: read again in place from now on"
    both = {number for number, _ in OLD} & {number for number, _ in NEW}
    assert all(both <= {number for number, _ in rows} for rows in seen)
    assert len({tuple(rows) for rows in seen}) > 3  # by several ranges


class Killed(Exception):
    """Stands for SIGKILL."""


@KEYS
@pytest.mark.parametrize("seed", range(12))
def test_changes_in_between_and_kills(seed: int, table: Table) -> None:
    chance = random.Random(seed)
    database, store = quarantined(table)
    in_place(store, "shop.keyed")

    def change() -> None:
        nonlocal table
        rows = {row[0]: row for row in database.contents[table.id]}
        number = chance.randrange(30)
        choice = chance.random()
        if choice < 0.1 and len(table.columns) < 4:
            column = Column(f"c{len(table.columns)}", Type("text"), "text")
            wide = msgspec.structs.replace(
                table, columns=(*table.columns, column), version=table.version + 1
            )
            database.commit(SchemaChange("ALTER", table, wide))
            table = wide
        elif number not in rows:
            database.commit(insert(table, (number, "in", *[None] * (len(table.columns) - 2))))
        elif choice < 0.4:
            database.commit(delete(table, rows[number]))
        elif choice < 0.7:
            database.commit(update(table, rows[number], (number, "up", *rows[number][2:])))
        elif (free := number + 31) not in rows:
            database.commit(update(table, rows[number], (free, *rows[number][1:])))
        if chance.random() < 0.15:
            raise Killed

    sink = NoTwinSink(store, change)
    for _ in range(12):
        try:
            pipeline = make_pipeline(database, store, sink=sink, backfill=QUARANTINE)
            run(pipeline, until_caught_up=True)
        except Killed:
            sink = NoTwinSink(store, change)
    run(make_pipeline(database, store, backfill=QUARANTINE), until_caught_up=True)
    assert_mirrored(database, store)
    assert not any(it.in_place for it in progress(store).values())


def progress(store: MemoryStore) -> dict[TableId, TableProgress]:
    checkpoint = store.states["test"].checkpoint
    assert checkpoint is not None
    return dict(checkpoint.progress)


@KEYS
def test_another_unlogged_change_begins_anew_in_place(table: Table) -> None:
    database, store = quarantined(table)
    in_place(store, "shop.keyed")
    again = BackfillSettings(chunk_rows=2, slice_seconds=0.0)
    left = [1]

    def change() -> None:
        state = store.states["test"].checkpoint
        if left and state is not None and state.progress[KEYED.id].state == "backfilling":
            left.clear()
            database.commit(Unlogged(table, [(number, "newer") for number in range(5)]))

    sink = NoTwinSink(store, change)
    run(make_pipeline(database, store, sink=sink, backfill=again), until_caught_up=True)
    assert not left
    assert_mirrored(database, store)


@KEYS
def test_a_table_whose_twin_is_incomplete_goes_on_in_place(table: Table) -> None:
    database, store = quarantined(table)
    submit(sink_of(store), BackfillTables(("shop.keyed",)))
    commits: list[int] = []

    def die() -> None:
        commits.append(1)
        if len(commits) == 4:
            raise Killed

    with pytest.raises(Killed):
        run(make_pipeline(database, store, sink=WatchedSink(store, die), backfill=QUARANTINE))
    assert any(id.name.startswith(TWIN_PREFIX) for id in store.contents)
    in_place(store, "shop.*")
    run(make_pipeline(database, store, backfill=QUARANTINE), until_caught_up=True)
    assert_mirrored(database, store)


@KEYS
def test_a_table_in_place_goes_on_with_a_twin(table: Table) -> None:
    database, store = quarantined(table)
    in_place(store, "shop.keyed")
    commits: list[int] = []

    def die() -> None:
        commits.append(1)
        if len(commits) == 4:
            raise Killed

    with pytest.raises(Killed):
        run(make_pipeline(database, store, sink=WatchedSink(store, die), backfill=QUARANTINE))
    assert progress(store)[KEYED.id].in_place
    submit(sink_of(store), BackfillTables(("shop.keyed",)))
    run(make_pipeline(database, store, backfill=QUARANTINE), until_caught_up=True)
    assert_mirrored(database, store)


@pytest.mark.parametrize(
    "after",
    [None, msgspec.structs.replace(LABELED, id=TableId("shop", "renamed"), version=2)],
    ids=["dropped", "renamed"],
)
def test_a_table_that_loses_its_name_meanwhile_leaves_no_twin(after: Table | None) -> None:
    database, store = quarantined(LABELED)
    in_place(store, "shop.keyed")
    left = [1]

    def change() -> None:
        state = store.states["test"].checkpoint
        if left and state is not None and state.progress[KEYED.id].state == "backfilling":
            left.clear()
            database.commit(insert(LABELED, (50, "in")), SchemaChange("", LABELED, after))

    sink = NoTwinSink(store, change)
    again = BackfillSettings(chunk_rows=2, slice_seconds=0.0)
    run(make_pipeline(database, store, sink=sink, backfill=again), until_caught_up=True)
    run(make_pipeline(database, store, backfill=again), until_caught_up=True)
    assert not left
    assert_mirrored(database, store)


def test_a_change_of_the_key_is_followed_in_the_twin_of_keys() -> None:
    """It is one that a range has shown with the key before, or that none shows with the new one."""
    database, store = quarantined(LABELED)
    in_place(store, "shop.keyed")
    left = [1]

    def change() -> None:
        state = store.states["test"].checkpoint
        progress = None if state is None else state.progress[KEYED.id]
        if left and progress is not None and progress.state == "backfilling" and progress.rows:
            left.clear()
            moves = [((0, "new"), (99, "moved")), ((21, "new"), (1, "moved"))]
            database.commit(*(update(LABELED, *move) for move in moves))
            database.commit(
                Rows(LABELED, "update", [(3, "new")], [(3, "same")]), delete(LABELED, (6, "new"))
            )

    run(make_pipeline(database, store, sink=NoTwinSink(store, change)), until_caught_up=True)
    assert not left
    assert_mirrored(database, store)


class ShapelessSink(WatchedSink):
    """A target that cannot give a table with rows the shape of now."""

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        for change in changes:
            assert not isinstance(change, KeepKeys)
            if isinstance(change, InPlace):
                raise UnloggedChange("no value", table=change.after.id, needs_twin=True)
        return await super().apply(changes, in_backfill)


@KEYS
def test_a_table_that_cannot_get_its_shape_in_place_gets_a_twin(table: Table) -> None:
    database, store = quarantined(table)
    in_place(store, "shop.keyed")
    run(make_pipeline(database, store, sink=ShapelessSink(store, int)), until_caught_up=True)
    assert_mirrored(database, store)
    assert progress(store)[table.id].state == "live"


def test_a_table_that_cannot_get_its_shape_in_place_is_quarantined_by_policy() -> None:
    database, store = quarantined()
    in_place(store, "shop.keyed")
    sink = ShapelessSink(store, int)
    pipeline = make_pipeline(database, store, sink=sink, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    (table,) = pipeline.status().tables
    assert (table.state, table.reason) == ("quarantined", "no value")


def test_a_table_without_a_key_is_refused() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYLESS, [(1, "a"), (2, "b")])
    run(make_pipeline(database, store), until_caught_up=True)
    id = in_place(store, "shop.*")
    run(make_pipeline(database, store), until_caught_up=True)
    done = store.commands[id - 1][1]
    assert done.refused
    assert "the table has no key" in (done.outcome or "")
    assert_mirrored(database, store)


def test_a_table_whose_key_has_changed_meanwhile_is_quarantined_with_the_reason() -> None:
    database, store = quarantined()
    other = msgspec.structs.replace(KEYED, key=(1,), version=2)
    database.commit(Unlogged(KEYED, []))
    database.load(other, [(1, "a")])
    in_place(store, "shop.keyed")
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    (table,) = pipeline.status().tables
    assert table.state == "quarantined"
    assert "cannot be backfilled in place: the key of the table has changed" in table.reason
    assert "tailrace backfill" in table.remedy


def test_a_table_whose_key_has_changed_meanwhile_gets_a_twin_if_the_policy_says_so() -> None:
    database, store = quarantined()
    other = msgspec.structs.replace(
        KEYED, columns=(Column("id", Type("text"), "text", nullable=False), NAME), version=2
    )
    database.commit(Unlogged(KEYED, []))
    database.load(other, [("1", "a")])
    in_place(store, "shop.keyed")
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)
    assert progress(store)[KEYED.id].state == "live"


ORDERS = Table(TableId("north", "orders"), (ID, NAME), key=(0,))
SOUTH = Table(TableId("south", "orders"), (ID, NAME), key=(0,))


def mirror(database: MemoryDatabase, store: MemoryStore, rules: dict[str, TableRules]) -> None:
    mapping = Mapping(rules, MaskSettings(key="0123456789abcdef"))
    pipeline = make_pipeline(database, store, mapping=mapping)
    run(pipeline, until_caught_up=True)


def test_a_merged_table_loses_only_rows_of_its_own_source() -> None:
    rules = {"*.orders": TableRules(to="all.orders", merge={"shop": "schema"})}
    database, store = MemoryDatabase(), MemoryStore()
    database.load(ORDERS, OLD)
    database.load(SOUTH, OLD)
    mirror(database, store, rules)
    target = TableId("all", "orders")
    wrong = store.contents[target]
    wrong.add([("north", 7, "wrong"), ("south", 7, "kept"), ("north", 99, "wrong")])
    in_place(store, "north.orders")
    mirror(database, store, rules)
    expected = [("north", *row) for row in OLD] + [("south", *row) for row in OLD]
    assert store.rows(target) == sorted([*expected, ("south", 7, "kept")])


def test_a_mapped_table_keeps_only_rows_that_the_filter_lets_through() -> None:
    rules = {
        "north.orders": TableRules(
            to="*.bought", select="name AS title, id AS number", where="id < 9"
        )
    }
    database, store = MemoryDatabase(), MemoryStore()
    database.load(ORDERS, OLD)
    mirror(database, store, rules)
    target = TableId("north", "bought")
    store.contents[target].add([("wrong", 3), ("wrong", 77), ("wrong", 4)])
    in_place(store, "north.orders")
    mirror(database, store, rules)
    assert store.rows(target) == [(name, number) for number, name in OLD if number < 9]


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (TableRules(mask={"id": "hash"}), "changes the values of the column id of the key"),
        (TableRules(select="id, id + 1 AS name"), "the mapping of the table has changed"),
    ],
)
def test_a_mapping_of_the_key_is_refused(rules: TableRules, reason: str) -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(ORDERS, [(1, "a")])
    masked = bool(rules.mask)
    mirror(database, store, {"*.*": rules} if masked else {})
    id = in_place(store, "north.orders")
    mirror(database, store, {"*.*": rules})
    assert reason in (store.commands[id - 1][1].outcome or "")


def test_a_mapped_table_whose_key_may_be_sorted_otherwise_is_refused() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(msgspec.structs.replace(ORDERS, columns=(TEXT_ID, NAME)), [("1", "a")])
    rules = {"*.*": TableRules(to="*.bought")}
    mirror(database, store, rules)
    id = in_place(store, "north.orders")
    mirror(database, store, rules)
    assert "the table is mapped" in (store.commands[id - 1][1].outcome or "")


class RefusingSink(WatchedSink):
    """A target that refuses to remove rows of a range."""

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        for change in changes:
            if isinstance(change, DeleteRange):
                raise ApplyError("refused by a trigger", table=change.table.id)
        return await super().apply(changes, in_backfill)


@pytest.mark.parametrize("again", [ORDERS, SOUTH])
def test_an_error_of_a_merged_table_concerns_the_source_that_is_read_in_place(
    again: Table,
) -> None:
    rules = {"*.orders": TableRules(to="all.orders", merge={"shop": "schema"})}
    database, store = MemoryDatabase(), MemoryStore()
    database.load(ORDERS, OLD)
    database.load(SOUTH, OLD)
    mirror(database, store, rules)
    in_place(store, str(again.id))
    mapping = Mapping(rules, MaskSettings(key="0123456789abcdef"))
    sink = RefusingSink(store, lambda: None)
    errors = ErrorSettings(on_error="quarantine")
    pipeline = make_pipeline(database, store, sink=sink, mapping=mapping, errors=errors)
    run(pipeline, until_caught_up=True)
    states = {id: it.state for id, it in progress(store).items()}
    assert states == {ORDERS.id: "live", SOUTH.id: "live"} | {again.id: "quarantined"}
