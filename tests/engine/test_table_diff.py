"""
The differences of two versions of a table.
"""

from __future__ import annotations

from msgspec.structs import replace

from engine.schema import Column, Index, Table, TableId, Type
from engine.toolkit.table_diff import (
    AddColumn,
    AddIndex,
    ChangeDefault,
    ChangeKey,
    ChangeNullability,
    DropColumn,
    DropIndex,
    RenameColumn,
    RenameIndex,
    RenameTable,
    Retype,
    differences,
)


def column(name: str, kind: str = "int32") -> Column:
    return Column(name, Type(kind), kind)  # type: ignore[arg-type]


A, B, C = column("a"), column("b"), column("c")
TABLE = Table(TableId("shop", "t"), (A, B, C), key=(0,))


def test_the_order_of_columns_is_no_difference() -> None:
    assert differences(TABLE, TABLE) == ()
    assert differences(TABLE, replace(TABLE, columns=(C, A, B), key=(1,), version=2)) == ()


def test_columns_added_and_dropped() -> None:
    after = replace(TABLE, columns=(A, column("d"), C))
    assert differences(TABLE, after) == (DropColumn(B), AddColumn(column("d")))


def test_a_renamed_column_keeps_its_values_and_its_key() -> None:
    after = replace(TABLE, columns=(column("z"), B, C))
    assert differences(TABLE, after, [("a", "z")]) == (RenameColumn("a", "z"),)


def test_a_renamed_column_takes_the_name_of_a_dropped_one() -> None:
    after = replace(TABLE, columns=(A, C))
    before = replace(TABLE, columns=(A, B, replace(C, name="x")))
    assert differences(before, after, [("x", "c")]) == (DropColumn(B), RenameColumn("x", "c"))
    taken = replace(TABLE, columns=(A, replace(C, name="b")))
    assert differences(TABLE, taken, [("c", "b")]) == (DropColumn(B), RenameColumn("c", "b"))


def test_columns_that_swap_names() -> None:
    after = replace(TABLE, columns=(A, C, B))
    found = differences(TABLE, after, [("b", "c"), ("c", "b")])
    assert found == (RenameColumn("b", "c"), RenameColumn("c", "b"))


def test_a_column_with_every_kind_of_change() -> None:
    new = Column("y", Type("int64"), "bigint", nullable=False, default="5")
    found = differences(TABLE, replace(TABLE, columns=(A, new, C)), [("b", "y")])
    assert found == (
        RenameColumn("b", "y"),
        Retype(replace(B, name="y"), new),
        ChangeNullability(new),
        ChangeDefault(new),
    )


def test_a_changed_key() -> None:
    assert differences(TABLE, replace(TABLE, key=(1, 2))) == (ChangeKey(("a",), ("b", "c")),)
    assert differences(TABLE, replace(TABLE, key=())) == (ChangeKey(("a",), ()),)


def test_indexes() -> None:
    before = replace(TABLE, indexes=(Index("i", (1,)), Index("j", (2,)), Index("k", (1, 2))))
    after = replace(TABLE, indexes=(Index("i", (1,)), Index("j", (2,), True), Index("n", (1, 2))))
    assert differences(before, after) == (
        DropIndex(Index("j", (2,))),
        RenameIndex("k", "n"),
        AddIndex(Index("j", (2,), True)),
    )


def test_an_index_follows_its_columns_to_other_ordinals_and_names() -> None:
    before = replace(TABLE, indexes=(Index("i", (1,)),))
    after = replace(TABLE, columns=(A, C, column("z")), indexes=(Index("i", (2,)),))
    assert differences(before, after, [("b", "z")]) == (RenameColumn("b", "z"),)


def test_a_renamed_table() -> None:
    after = replace(TABLE, id=TableId("shop", "u"))
    assert differences(TABLE, after) == (RenameTable(TABLE.id, after.id),)
