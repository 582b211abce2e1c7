"""New columns whose values the log does not show: only these columns are backfilled."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.change import Change, ReplaceColumns, Row, Rows, SchemaChange, Truncate
from engine.contract import Capabilities
from engine.errors import SinkLost
from engine.mapping.changes import Mapping
from engine.ops.status import TableStatus
from engine.pipeline.columns import ColumnTwin, reads_alone
from engine.pipeline.hidden_rows import may_hide_values
from engine.schema import Column, ForeignKey, Index, Part, Table, TableId, Type
from engine.settings.loader import BackfillSettings
from engine.settings.mapping import TableRules
from engine.toolkit.memory_table import MemoryTable
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, Unlogged, UnloggedRows, UnloggedValues
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

ROWS = [(number, "old") for number in range(20)]
#: The new column stands between the others.
HASH = Column("hash", Type("int32"), "int", nullable=False, generated=True)
WIDER = Table(KEYED.id, (ID, HASH, NAME), key=(0,), version=2)
ADDED = SchemaChange("", KEYED, WIDER, unlogged=("hash",), reason="the log does not show it")


def wide(number: int, name: str) -> Row:
    return (number, hash(name) % 1000, name)


def added(rows: Sequence[Row] = ROWS) -> UnloggedValues:
    return UnloggedValues(ADDED, [wide(number, name) for number, name in rows])


def start(table: Table = KEYED) -> tuple[MemoryDatabase, MemoryStore]:
    """A pipeline whose table is live."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(table, list(ROWS))
    run(make_pipeline(database, store), until_caught_up=True)
    return database, store


def test_readers_see_the_values_of_all_rows_or_of_none() -> None:
    """GIVEN a new column WHEN it is backfilled THEN the stream's changes are on the target at once,
    and all values of the column appear together."""
    database, store = start()
    seen: list[list[Row]] = []
    names: set[str] = set()

    def meanwhile() -> None:
        seen.append(store.rows(KEYED.id))
        names.update(id.name for id in store.contents)
        if len(seen) < 12:
            number = len(seen)
            database.commit(
                update(WIDER, wide(number, "old"), wide(number, f"new {number}")),
                insert(WIDER, wide(100 + number, "more")),
            )

    database.commit(added(), delete(WIDER, wide(13, "old")), insert(WIDER, wide(13, "again")))
    database.commit(update(WIDER, wide(15, "old"), wide(1500, "moved")))
    pipeline = make_pipeline(database, store, sink=WatchedSink(store, meanwhile))
    run(pipeline, until_caught_up=True)
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)
    assert names == {"keyed", "tailrace_twin_keyed"}
    (table,) = pipeline.status().tables
    assert table.state == "live"
    wider = [rows for rows in seen if rows and len(rows[0]) == 3]
    assert len(wider) > 3
    for rows in wider:
        assert len({row[1] is None for row in rows}) == 1
    assert any(row[1] is None and row[2] == "new 3" for rows in wider for row in rows)


def test_the_number_of_rows_is_that_of_the_table() -> None:
    """It is not doubled by rows of which only a column is read again."""
    database, store = start()
    shown: list[tuple[int, int]] = []
    database.commit(added())
    pipeline = make_pipeline(database, store, sink=WatchedSink(store, lambda: shown.append(rows())))

    def rows() -> tuple[int, int]:
        (table,) = pipeline.status().tables or (TableStatus("", rows=0),)
        return table.rows, table.total

    run(pipeline, until_caught_up=True)
    assert rows() == (20, 20)
    assert {(0, 20), (20, 20)} == set(shown)


#: What happens while the column is backfilled.
MORE = Column("more", Type("int32"), "int")
WIDEST = Table(KEYED.id, (*WIDER.columns, MORE), key=(0,), version=3)
RENAMED = msgspec.structs.replace(WIDER, id=TableId(KEYED.id.schema, "renamed"), version=3)
REKEYED = Table(KEYED.id, (Column("id", ID.type, "bigint"), HASH, NAME), key=(0,), version=3)
DROPPED = msgspec.structs.replace(KEYED, version=3)
PARTIAL = Rows(WIDER, "update", [(9, None, None)], [(9, None, "partial")], 0b001, 0b101)
MOVED = Rows(WIDER, "update", [(9, None, None)], [(900, None, None)], 0b001, 0b001)
NEXT = SchemaChange("", WIDER, WIDEST, unlogged=("more",), reason="the log does not show it")
ALL = [(number, 1, "unlogged") for number in range(30)]

#: The rows as they are then, with one more column.
LATER = [(*wide(n, "old"), n) for n in range(20)] + [(*wide(5_000, "x"), 5_000)]

MEANWHILE: dict[str, list[object]] = {
    "nothing": [],
    "a partial image": [PARTIAL],
    "a partial image moves a row": [MOVED],
    "all rows removed": [Truncate(WIDER), insert(WIDER, wide(6, "t"), wide(60, "t"))],
    "rows of a part removed": [UnloggedRows(WIDER, Part("id", ((3, 9),)), [(4, 4, "part")])],
    "another new column": [UnloggedValues(NEXT, LATER)],
    "a column added": [SchemaChange("", WIDER, WIDEST), insert(WIDEST, (6_000, 1, "w", 1))],
    "the column dropped": [SchemaChange("", WIDER, DROPPED), insert(DROPPED, (6_000, "w"))],
    "renamed": [SchemaChange("", WIDER, RENAMED), insert(RENAMED, wide(6_000, "r"))],
    "dropped": [SchemaChange("", WIDER, None)],
    "dropped and created": [
        SchemaChange("", WIDER, None),
        SchemaChange("", None, KEYED),
        insert(KEYED, (1, "anew")),
    ],
    "the key's type changed": [SchemaChange("", WIDER, REKEYED), insert(REKEYED, wide(6_000, "k"))],
    "all rows changed": [Unlogged(WIDER, ALL)],
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_happens_meanwhile_and_a_restart_after_each_commit(what: str) -> None:
    for step in range(12):
        database, store = start()
        database.commit(added(), insert(WIDER, wide(5_000, "x")))
        commits = 0

        def lose(step: int = step, database: MemoryDatabase = database) -> None:
            nonlocal commits
            commits += 1
            if commits == 3:
                for change in MEANWHILE[what]:
                    database.commit(change)  # type: ignore[arg-type]
            if commits == step:
                raise SinkLost("the test lost the connection")

        run(make_pipeline(database, store, sink=WatchedSink(store, lose)), until_caught_up=True)
        run(make_pipeline(database, store), until_caught_up=True)
        assert_mirrored(database, store)
        tables = {id: contents.table for id, contents in database.contents.items()}
        assert {id: contents.table for id, contents in store.contents.items()} == tables


UNIQUE = msgspec.structs.replace(WIDER, indexes=(Index("u", (1,), unique=True),))
INDEXED = msgspec.structs.replace(WIDER, indexes=(Index("i", (1, 0)),))
CHILD = (ForeignKey("f", ("hash",), KEYED.id, ("id",), "cascade"),)
CHANGED_TOO = msgspec.structs.replace(
    WIDER, columns=(ID, HASH, Column("name", Type("text", 20), "varchar(20)"))
)
BY_HASH = msgspec.structs.replace(WIDER, key=(1,))
LONELY = msgspec.structs.replace(KEYED, key=())


@pytest.mark.parametrize(
    ("alone", "change"),
    [
        (True, ADDED),
        (True, msgspec.structs.replace(ADDED, computed=("hash",))),
        (True, msgspec.structs.replace(ADDED, after=INDEXED)),
        (False, msgspec.structs.replace(ADDED, after=UNIQUE)),
        (False, msgspec.structs.replace(ADDED, after=CHANGED_TOO)),
        (False, msgspec.structs.replace(ADDED, after=BY_HASH)),
        (False, msgspec.structs.replace(ADDED, after=RENAMED)),
        (False, msgspec.structs.replace(ADDED, renamed=(("a", "b"),))),
        (False, msgspec.structs.replace(ADDED, computed=("name",))),
        (False, msgspec.structs.replace(ADDED, before=LONELY)),
        (
            False,
            msgspec.structs.replace(
                ADDED, after=msgspec.structs.replace(WIDER, foreign_keys=CHILD)
            ),
        ),
    ],
)
def test_when_the_new_columns_are_enough(alone: bool, change: SchemaChange) -> None:
    assert reads_alone(change) == alone


def test_a_sink_a_table_or_a_mapping_for_which_the_columns_are_not_enough() -> None:
    """All columns are read again."""
    keyless = msgspec.structs.replace(WIDER, id=KEYLESS.id, key=())
    unkeyed = msgspec.structs.replace(ADDED, before=KEYLESS, after=keyless)
    lacking = msgspec.structs.replace(MemorySink.capabilities, columns=False)
    assert isinstance(lacking, Capabilities)
    for table, change, capabilities, rules in (
        (KEYLESS, unkeyed, MemorySink.capabilities, {}),
        (KEYED, ADDED, lacking, {}),
        (KEYED, ADDED, MemorySink.capabilities, {"shop.keyed": TableRules(rename={"id": "key"})}),
    ):
        mapping = Mapping(rules)
        database, store = MemoryDatabase(), MemoryStore()
        database.load(table, list(ROWS))
        sink = MemorySink(MemorySinkSettings("memory:test"), "test", store)
        sink.capabilities = capabilities  # type: ignore[misc]
        run(make_pipeline(database, store, sink=sink, mapping=mapping), until_caught_up=True)
        database.commit(UnloggedValues(change, [wide(*row) for row in ROWS]))
        run(make_pipeline(database, store, sink=sink, mapping=mapping), until_caught_up=True)
        assert_mirrored(database, store)


def test_the_policy_decides() -> None:
    database, store = start()
    database.commit(added())
    pipeline = make_pipeline(
        database, store, backfill=BackfillSettings(unlogged_change="quarantine")
    )
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined"]
    assert store.rows(KEYED.id) == ROWS


def test_the_twin_is_restored_from_the_tables_of_the_target() -> None:
    twin = ColumnTwin(WIDER, ("hash",))
    assert twin.table.columns[1] == Column("hash", HASH.type, "int")
    assert twin.twin.names == ("id", "hash")
    assert ColumnTwin.restored(twin.table, twin.twin, ("hash",)).source == WIDER


def test_a_partial_image_without_a_computed_column_may_hide_its_value() -> None:
    assert may_hide_values(PARTIAL, ["hash"])
    assert not may_hide_values(PARTIAL, ["name"])  # nobody computes it
    whole = Rows(WIDER, "update", [(9, None, None)], [(9, 7, "x")], 0b001, 0b111)
    for change in (whole, insert(WIDER, wide(1, "x")), update(WIDER, wide(1, "x"), wide(1, "y"))):
        assert not may_hide_values(change, ["hash"])


def test_a_partial_image_changes_the_twin_only_if_it_has_a_new_column() -> None:
    twin = ColumnTwin(WIDER, ("hash",))
    changes = list(twin.divided(PARTIAL))
    assert [it.table for it in changes] == [twin.table]
    with_value = Rows(WIDER, "update", [(9, None, None)], [(9, 7, None)], 0b001, 0b011)
    own, other = twin.divided(with_value)
    assert (own.after, own.after_present) == ([(9, None, None)], 0b011)
    assert (other.after, other.before_present, other.after_present) == ([(9, 7)], 0b01, 0b11)


def test_the_memory_table_takes_values_over() -> None:
    table, twin = MemoryTable(WIDER), MemoryTable(WIDER.narrowed(["hash"]))
    table.add([(1, None, "a"), (2, None, "b")])
    twin.add([(1, 5), (3, 6)])
    table.fill(twin, ["hash"])
    assert list(table) == [(1, 5, "a"), (2, None, "b")]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_random_histories(seed: int) -> None:
    """GIVEN random changes and lost connections while columns are added and dropped THEN both are
    equal, and no reader has seen a part of the values."""
    dice = random.Random(seed)
    database, store = start()

    def change() -> None:
        contents = database.contents[KEYED.id]
        has = len(contents.table.columns) == 3
        row_of = wide if has else lambda number, name: (number, name)
        present = {row[0]: row for row in contents}
        number, name, kind = dice.randrange(25), str(dice.random()), dice.randrange(12)
        if kind == 0:
            database.commit(Truncate(contents.table))
        elif kind < 3 and not has:
            database.commit(added([(row[0], row[1]) for row in contents]))
        elif kind == 1:
            database.commit(SchemaChange("", WIDER, KEYED))
        elif number not in present:
            database.commit(insert(contents.table, row_of(number, name)))
        elif kind < 5:
            database.commit(delete(contents.table, present[number]))
        else:
            other = dice.randrange(25)
            new = other if kind < 8 and other not in present else number
            database.commit(update(contents.table, present[number], row_of(new, name)))

    left = 40

    def meanwhile() -> None:
        nonlocal left
        rows = store.rows(KEYED.id)
        assert len({row[1] is None for row in rows}) <= 1
        if left:
            left -= 1
            change()
            if dice.random() < 0.2:
                raise SinkLost("the test lost the connection")

    database.commit(added())
    run(make_pipeline(database, store, sink=WatchedSink(store, meanwhile)), until_caught_up=True)
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)


def test_the_changes_of_the_sink_at_the_end() -> None:
    database, store = start()
    database.commit(added())
    applied: list[Change] = []

    class Recording(MemorySink):
        async def apply(self, changes, in_backfill=()):  # type: ignore[no-untyped-def]
            applied.extend(changes)
            return await super().apply(changes, in_backfill)

    sink = Recording(MemorySinkSettings("memory:test"), "test", store)
    run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    twin = ColumnTwin(WIDER, ("hash",))
    ends = [it for it in applied if isinstance(it, ReplaceColumns)]
    assert ends == [ReplaceColumns(twin.table, twin.twin, WIDER, ("hash",))]
    reads = [it for it in applied if isinstance(it, Rows) and it.op == "read"]
    assert {it.table for it in reads} == {twin.twin}
