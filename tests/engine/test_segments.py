"""
A batch is cut into segments at schema changes, and only there.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.change import (
    Begin,
    Cascade,
    CaughtUp,
    Change,
    Commit,
    Heartbeat,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.schema import Table, TableId
from engine.toolkit.compaction import net_changes
from engine.toolkit.segments import CaughtUpTables, NewTables, RowRuns, Segment, segments
from tests.support.histories import KEYED, KEYLESS, number


def rows(table: Table, key: int = 1) -> Rows:
    return Rows(table, "insert", None, [(key, *[None] * (len(table.columns) - 1))])


def new(table: Table) -> SchemaChange:
    return SchemaChange("CREATE", None, table)


def cut(*changes: Change) -> list[Segment]:
    return list(segments(changes))


def test_rows_are_collected_by_table_across_transactions() -> None:
    begin, commit = Begin("t", "p", 1.0), Commit("p", 1.0)
    one, two, three, four = rows(KEYED, 1), rows(KEYLESS, 2), rows(KEYED, 3), rows(KEYED, 4)
    changes = (begin, one, two, three, commit, Heartbeat("p", 1.0), begin, four, commit)
    assert cut(*changes) == [RowRuns({KEYED.id: [one, three, four], KEYLESS.id: [two]})]


def test_a_batch_without_changes_of_tables_has_no_segment() -> None:
    assert cut() == []
    assert cut(Begin("t", "p", 1.0), Commit("p", 1.0), Heartbeat("p", 1.0)) == []


def test_schema_changes_and_truncations_keep_their_place() -> None:
    wide = replace(KEYED, columns=(*KEYED.columns, number("c")), version=2)
    alter, drop = SchemaChange("ALTER", KEYED, wide), SchemaChange("DROP", wide, None)
    before, after, last = rows(KEYED), rows(wide), rows(KEYLESS)
    assert cut(before, alter, after, Truncate(wide), drop, last) == [
        RowRuns({KEYED.id: [before]}),
        alter,
        RowRuns({wide.id: [after]}),
        Truncate(wide),
        drop,
        RowRuns({KEYLESS.id: [last]}),
    ]


def test_new_tables_in_a_row_are_one_segment_and_so_are_those_that_caught_up() -> None:
    tables = [replace(KEYED, id=TableId("shop", f"t{n}")) for n in range(3)]
    a, b, c = tables
    change = rows(a)
    assert cut(*map(new, tables), *map(CaughtUp, tables)) == [
        NewTables(tables),
        CaughtUpTables(tables),
    ]
    changes = (new(a), Truncate(a), new(b), CaughtUp(b), new(c), change, CaughtUp(c))
    assert cut(*changes) == [
        NewTables([a]),
        Truncate(a),
        NewTables([b]),
        CaughtUpTables([b]),
        NewTables([c]),
        RowRuns({a.id: [change]}),
        CaughtUpTables([c]),
    ]


CHANGES: list[Change] = [
    *(Begin("t", "p", 1.0), Commit("p", 1.0), Heartbeat("p", 1.0)),
    *(each(table) for table in (KEYED, KEYLESS) for each in (rows, new, CaughtUp, Truncate)),
    SchemaChange("ALTER", KEYED, replace(KEYED, version=2)),
    SchemaChange("DROP", KEYLESS, None),
]


@given(st.lists(st.sampled_from(CHANGES), max_size=12))
def test_any_batch_keeps_its_changes_and_the_order_of_each_table(changes: list[Change]) -> None:
    restored: list[Any] = []
    for segment in segments(changes):
        match segment:
            case RowRuns(by_table):
                assert by_table
                restored += [run for runs in by_table.values() for run in runs]
                assert all(net_changes(runs) for runs in by_table.values())
            case NewTables(tables):
                assert tables
                restored += map(new, tables)
            case CaughtUpTables(tables):
                assert tables
                restored += map(CaughtUp, tables)
            case _:
                restored.append(segment)
    kept = [it for it in changes if not isinstance(it, Begin | Commit | Heartbeat)]

    def of_a_table(changes: list[Any], id: TableId) -> list[Any]:
        return [it for it in changes if _table(it).id == id]

    for id in (KEYED.id, KEYLESS.id):
        assert of_a_table(restored, id) == of_a_table(kept, id)

    def order(changes: list[Any]) -> list[Any]:
        return [it if not isinstance(it, Rows) else None for it in changes]

    assert order(restored) == order(kept)


def _table(change: Any) -> Table:
    if isinstance(change, SchemaChange):
        table = change.after or change.before
        assert table is not None
        return table
    return change.table  # type: ignore[no-any-return]


def test_a_cascade_is_a_segment_of_its_own() -> None:
    cascade = Cascade(TableId("shop", "p"), ("id",), [(1,)], None, (KEYED,))
    one, two = rows(KEYED, 1), rows(KEYED, 2)
    found = cut(one, cascade, two)
    assert found == [RowRuns({KEYED.id: [one]}), cascade, RowRuns({KEYED.id: [two]})]


def test_cascades_are_collected_until_rows_of_their_tables_follow() -> None:
    def cascade(key: int) -> Cascade:
        return Cascade(TableId("shop", "p"), ("id",), [(key,)], None, (KEYED,))

    one, two, three = rows(KEYLESS, 1), rows(KEYLESS, 2), rows(KEYED, 3)
    joined = replace(cascade(1), before=[(1,), (2,)])
    update = replace(cascade(3), after=[(4,)])
    assert cut(one, cascade(1), two, cascade(2), update, three, cascade(5)) == [
        RowRuns({KEYLESS.id: [one, two]}),
        joined,
        update,
        RowRuns({KEYED.id: [three]}),
        cascade(5),
    ]
