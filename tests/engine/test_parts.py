"""A part of a table whose rows the log does not show: only this part is backfilled again."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.change import (
    CaughtUp,
    Change,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.contract import Applied, Capabilities
from engine.errors import SinkLost
from engine.mapping.changes import Mapping
from engine.pipeline.parts import divided
from engine.pipeline.twins import Twins
from engine.schema import Bound, Column, Part, Range, Table, TableId, Type, joined_ranges
from engine.settings.loader import BackfillSettings
from engine.settings.mapping import TableRules
from engine.toolkit.memory_table import MemoryTable
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, UnloggedRows
from tests.support.memory_pipeline import (
    ID,
    KEYED,
    KEYLESS,
    WatchedSink,
    assert_mirrored,
    delete,
    insert,
    make_pipeline,
    run,
    update,
)

ROWS = [(number, "old") for number in range(20)]
PART = Part("id", ((5, 10),))
NEW = [(number, "new") for number in (5, 7, 9)]

VALUES = st.one_of(st.none(), st.integers(-3, 12))
RANGES = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(-2, 11)), st.one_of(st.none(), st.integers(-2, 11)))
)


def is_range(each: Range) -> bool:
    lower, upper = each
    return lower is None or upper is None or (isinstance(lower, int) and lower < upper)  # type: ignore[operator]


@given(RANGES, RANGES, VALUES)
def test_ranges_are_joined_without_changing_what_they_hold(
    some: list[Range], more: list[Range], value: Bound
) -> None:
    first, second = (Part("c", tuple(filter(is_range, each))) for each in (some, more))
    both = first.joined(second)
    assert both.has(value) == (first.has(value) or second.has(value))
    assert joined_ranges(both.ranges) == both.ranges


def test_dates_are_compared_as_texts() -> None:
    part = Part("d", ((None, "2020-01-01"), ("2020-02-01", "2020-03-01")))
    values = [None, "0000-00-00", "2019-12-31", "2020-01-01", "2020-02-29", "2020-03-01"]
    assert [part.has(value) for value in values] == [True, True, True, False, True, False]


MASKS = st.sampled_from([(None, None), (0b11, 0b11)])
PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1)


@given(PAIRS, MASKS)
def test_divided_updates_are_the_same_as_the_whole(
    pairs: list[tuple[int, int]], masks: tuple[int | None, int | None]
) -> None:
    """Applied to the rows inside and outside of a part, and to all of them, in order."""
    part = Part("id", ((3, 6),))
    start = [(number, "a") for number in range(10)]
    whole, inside, outside = (MemoryTable(KEYED) for _ in range(3))
    whole.add(start)
    inside.add(row for row in start if part.has(row[0]))
    outside.add(row for row in start if not part.has(row[0]))
    befores, afters = [], []
    present = set(range(10))
    for number, (old, new) in enumerate(pairs):
        if old in present and (new == old or new not in present):
            present = (present - {old}) | {new}
            befores.append((old, "?"))
            afters.append((new, str(number)))
    if not befores:
        return
    rows = Rows(KEYED, "update", befores, afters, *masks)
    assert whole.apply(rows) == 0
    for belongs, piece in divided(rows, part):
        assert (inside if belongs else outside).apply(piece) == 0
    assert sorted([*inside, *outside]) == list(whole)
    assert all(part.has(row[0]) for row in inside)


def test_only_the_part_is_read_and_readers_see_the_rest_at_once() -> None:
    """GIVEN a table of which a part has other rows WHEN it is backfilled again THEN the changes of
    the other rows are on the target at once, and those of the part appear together."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, list(ROWS))
    seen: list[list[tuple[object, ...]]] = []
    commits = 0

    def meanwhile() -> None:
        nonlocal commits
        seen.append(store.rows(KEYED.id))
        commits += 1
        if seen[0] != seen[-1] and commits < 8:
            database.commit(update(KEYED, (7, "new"), (7, f"in {commits}")))

    run(make_pipeline(database, store), until_caught_up=True)
    sink = WatchedSink(store, meanwhile)
    database.commit(UnloggedRows(KEYED, PART, NEW), insert(KEYED, (100, "out")))
    database.commit(update(KEYED, (3, "old"), (3, "out")), update(KEYED, (5, "new"), (5, "in")))
    database.commit(update(KEYED, (9, "new"), (19_000, "moved out")), delete(KEYED, (4, "old")))
    database.commit(update(KEYED, (1, "old"), (8, "moved in")))
    pipeline = make_pipeline(database, store, sink=sink)
    run(pipeline, until_caught_up=True)
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)
    (table,) = pipeline.status().tables
    assert table.state == "live"
    assert table.rows == len(ROWS)
    assert (pipeline.status().backfilled_rows or 0) < 8  # only the part was read again
    old = {row for row in ROWS if PART.has(row[0])}
    inside = [{row for row in rows if PART.has(row[0])} for rows in seen]
    assert all(rows == old or not rows & old for rows in inside)
    assert any(rows == old and (3, "out") in all for rows, all in zip(inside, seen, strict=True))


class Strict(WatchedSink):
    """Records the tables whose rows are applied as in no backfill."""

    strict: ClassVar[set[str]] = set()

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        rows = {change.table.id for change in changes if isinstance(change, Rows)}
        self.strict.update(id.name for id in rows - set(in_backfill))
        return await super().apply(changes, in_backfill)


def test_changes_within_the_same_batch_are_no_drift() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, list(ROWS))
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(UnloggedRows(KEYED, PART, NEW), update(KEYED, (7, "new"), (7, "later")))
    sink = Strict(store, lambda: None)
    run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    assert_mirrored(database, store)
    assert sink.strict == set()
    database.commit(UnloggedRows(KEYED, PART, NEW), update(KEYED, (3, "old"), (3, "outside")))
    run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    assert_mirrored(database, store)
    assert sink.strict == {KEYED.id.name}


def test_a_sink_or_a_table_for_which_the_part_is_not_enough() -> None:
    """The whole table is read again: a keyless one, one whose key does not tell the part, and all
    on a target that cannot replace a part."""
    by_name = Part("name", (("o", None),))
    for table, part, parts in (
        (KEYLESS, PART, True),
        (KEYED, by_name, True),
        (KEYED, PART, False),
    ):
        database, store = MemoryDatabase(), MemoryStore()
        database.load(table, list(ROWS))
        sink = MemorySink(MemorySinkSettings("memory:test"), "test", store)
        if not parts:
            lacking = msgspec.structs.replace(MemorySink.capabilities, parts=False)
            assert isinstance(lacking, Capabilities)
            sink.capabilities = lacking  # type: ignore[misc]
        run(make_pipeline(database, store, sink=sink), until_caught_up=True)
        database.commit(UnloggedRows(table, part, NEW), insert(table, (300, "z")))
        run(make_pipeline(database, store, sink=sink), until_caught_up=True)
        assert_mirrored(database, store)


def test_the_policy_decides() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, list(ROWS))
    backfill = BackfillSettings(unlogged_change="quarantine")
    run(make_pipeline(database, store, backfill=backfill), until_caught_up=True)
    database.commit(UnloggedRows(KEYED, PART, NEW))
    pipeline = make_pipeline(database, store, backfill=backfill)
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined"]
    assert store.rows(KEYED.id) == ROWS


MORE = Column("more", Type("int32"), "int")
WIDER = Table(KEYED.id, (*KEYED.columns, MORE), key=(0,), version=2)
RENAMED = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "renamed"), version=2)
REKEYED = Table(KEYED.id, (Column("id", ID.type, "bigint"), KEYED.columns[1]), key=(0,), version=2)
PARTIAL = Rows(KEYED, "update", [(9, None)], [(900, None)], 0b01, 0b01)

#: What happens while a part is backfilled again.
MEANWHILE = {
    "nothing": [],
    "the same part again": [UnloggedRows(KEYED, PART, [(6, "newer")])],
    "another part": [UnloggedRows(KEYED, Part("id", ((10, 12), (None, 2))), [(0, "n"), (11, "n")])],
    "all rows removed": [Truncate(KEYED), insert(KEYED, (6, "t"), (60, "t"))],
    "a column added": [SchemaChange("", KEYED, WIDER), insert(WIDER, (6_000, "w", 1))],
    "renamed": [SchemaChange("", KEYED, RENAMED), insert(RENAMED, (6_000, "r"))],
    "dropped": [SchemaChange("", KEYED, None)],
    "the key's type changed": [SchemaChange("", KEYED, REKEYED), insert(REKEYED, (6_000, "k"))],
    "a partial image moves a row out": [PARTIAL],
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_happens_meanwhile_and_a_restart_after_each_commit(what: str) -> None:
    for step in range(10):
        database, store = MemoryDatabase(), MemoryStore()
        database.load(KEYED, list(ROWS))
        run(make_pipeline(database, store), until_caught_up=True)
        database.commit(UnloggedRows(KEYED, PART, NEW), insert(KEYED, (5_000, "x")))
        commits = 0

        def lose(step: int = step, database: MemoryDatabase = database) -> None:
            nonlocal commits
            commits += 1
            if commits == 2:
                for change in MEANWHILE[what]:
                    database.commit(change)
            if commits == step:
                raise SinkLost("the test lost the connection")

        run(make_pipeline(database, store, sink=WatchedSink(store, lose)), until_caught_up=True)
        run(make_pipeline(database, store), until_caught_up=True)
        assert_mirrored(database, store)
        assert {id.name for id in store.contents} <= {"keyed", "renamed"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_random_histories(seed: int) -> None:
    """GIVEN random changes, parts with other rows, and lost connections THEN both are equal."""
    dice = random.Random(seed)
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, list(ROWS))
    run(make_pipeline(database, store), until_caught_up=True)

    def change() -> None:
        rows = list(database.contents[KEYED.id])
        number, name = dice.randrange(25), str(dice.random())
        present = dict(rows)
        kind = dice.randrange(6)
        if kind == 0:
            lower = dice.randrange(20)
            part = Part("id", ((lower, lower + dice.randrange(1, 9)),))
            new = [(n, name) for n in range(25) if part.has(n) and dice.random() < 0.5]
            database.commit(UnloggedRows(KEYED, part, new))
        elif number not in present:
            database.commit(insert(KEYED, (number, name)))
        elif kind == 1:
            database.commit(delete(KEYED, (number, present[number])))
        else:
            other = dice.randrange(25)
            new_key = other if kind == 2 and other not in present else number
            database.commit(update(KEYED, (number, present[number]), (new_key, name)))

    left = 30

    def meanwhile() -> None:
        nonlocal left
        if left:
            left -= 1
            change()
            if dice.random() < 0.2:
                raise SinkLost("the test lost the connection")

    change()
    run(make_pipeline(database, store, sink=WatchedSink(store, meanwhile)), until_caught_up=True)
    run(make_pipeline(database, store), until_caught_up=True)
    assert_mirrored(database, store)


def test_the_part_of_a_mapped_table() -> None:
    """It has the names of the target, as do the table and its twin."""
    rules = TableRules(to="crm.customer", rename={"id": "key"})
    mapping, twins = Mapping({"shop.keyed": rules}), Twins([KEYED], {})
    mapping.targets([SchemaChange("", None, KEYED)])
    (made,) = mapping.targets(twins.targets([UnloggedPart(KEYED, PART, "")]))
    assert isinstance(made, SchemaChange)
    twin = made.after
    assert twin is not None
    (rows,) = mapping.targets(twins.targets([insert(KEYED, (6, "in"))]))
    assert isinstance(rows, Rows)
    assert rows.table == twin
    (replaced,) = mapping.targets(twins.targets([CaughtUp(KEYED)]))
    assert isinstance(replaced, ReplacePart)
    assert replaced.table == mapping.target(KEYED)
    assert (replaced.twin, replaced.part.column) == (twin, "key")
