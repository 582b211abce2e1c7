"""A repair leaves out what the log touches. Pure."""

from __future__ import annotations

import pytest

from engine.change import Change, Rows, SchemaChange, Truncate
from engine.pipeline.repair import TableRepair
from engine.schema import Column, Table, TableId, Type

ID = TableId("shop", "goods")
NUMBER, TEXT = Column("id", Type("int32"), "int"), Column("id", Type("text"), "varchar(9)")
VALUE = Column("v", Type("int32"), "int")


def table_of(key: Column) -> Table:
    return Table(ID, (key, VALUE), (0,))


def test_only_touched_rows_are_left_out() -> None:
    table = table_of(NUMBER)
    repair = TableRepair(table, [(1,), (2,), (3,)], [(8,), (9,)], [(1, 1), (2, 2), (3, 3)], "")
    repair.watch(Rows(table, "insert", None, [(7, 0)]))
    assert (len(repair), repair.extra) == (5, {(8,), (9,)})
    repair.watch(Rows(table, "update", [(1, 1)], [(1, 5)]))
    repair.watch(Rows(table, "update", [(20, 0)], [(3, 0)]))
    repair.watch(Rows(table, "insert", None, [(9, 0)]))
    assert (repair.rows, repair.extra) == ({(2,): (2, 2)}, {(8,)})


def test_a_new_key_may_be_equal_to_a_deleted_one_if_keys_are_texts() -> None:
    table = table_of(TEXT)
    for change in (
        Rows(table, "insert", None, [("new", 0)]),
        Rows(table, "update", [("b", 0)], [("B", 0)]),
        Rows(table, "update", [("a", 1)], [("a", 2)]),
    ):
        repair = TableRepair(table, [("a",)], [("X",)], [("a", 1)], "")
        repair.watch(Rows(table, "update", [("other", 1)], [("other", 2)]))
        assert repair.extra == {("X",)}
        repair.watch(change)
        assert not repair.extra


@pytest.mark.parametrize(
    "change",
    [
        Truncate(table_of(NUMBER)),
        SchemaChange("", table_of(NUMBER), None),
        Rows(table_of(NUMBER), "delete", [(1, 0), (8, 0)], None, before_present=1),
    ],
)
def test_a_change_of_the_whole_table_leaves_out_all(change: Change) -> None:
    repair = TableRepair(table_of(NUMBER), [(1,)], [(8,)], [(1, 1)], "")
    repair.watch(change)
    assert len(repair) == 0
