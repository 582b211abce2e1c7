"""Which rows a repair takes, and leaves out because the log touches them. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import cast

import pytest

from engine.change import Cascade, Change, Rows, SchemaChange, Truncate
from engine.cli.repair import Differing
from engine.contract import RowReader, StoredText
from engine.mapping.changes import Mapping
from engine.pipeline.repair import TableRepair
from engine.recovery import RepairKeys
from engine.schema import Column, Origin, Table, TableId, Type
from engine.verify.report import Difference, TableReport, VerifyReport

ID = TableId("shop", "goods")
NUMBER, FLOAT = Column("id", Type("int32"), "int"), Column("id", Type("float64"), "double")
TEXT = Column("id", Type("text"), "varchar(9)")
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


def test_texts_of_a_key_are_told_apart() -> None:
    table = table_of(TEXT)
    repair = TableRepair(table, [], [("X",), ("Y",)], [], "")
    repair.watch(Rows(table, "insert", None, [("x", 0), ("Y", 0)]))
    assert repair.extra == {("X",)}


def test_a_new_key_may_be_equal_to_a_deleted_one_if_a_value_has_several_forms() -> None:
    table = table_of(FLOAT)
    for change in (
        Rows(table, "insert", None, [(4.5, 0)]),
        Rows(table, "update", [(5.5, 0)], [(6.5, 0)]),
        Rows(table, "update", [(1.5, 1)], [(1.5, 2)]),
    ):
        repair = TableRepair(table, [(1.5,)], [(2.5,)], [(1.5, 1)], "")
        repair.watch(Rows(table, "update", [(3.5, 1)], [(3.5, 2)]))
        assert repair.extra == {(2.5,)}
        repair.watch(change)
        assert not repair.extra


@pytest.mark.parametrize(
    "change",
    [
        Truncate(table_of(NUMBER)),
        SchemaChange("", table_of(NUMBER), None),
        Cascade(TableId("shop", "makers"), ("id",), [(1,)], None, (table_of(NUMBER),)),
        Rows(table_of(NUMBER), "delete", [(1, 0), (8, 0)], None, before_present=1),
    ],
)
def test_a_change_of_the_whole_table_leaves_out_all(change: Change) -> None:
    repair = TableRepair(table_of(NUMBER), [(1,)], [(8,)], [(1, 1)], "")
    repair.watch(change)
    assert len(repair) == 0


class Target:
    """Stores the zero date of the key as another value."""

    def stored(self, table: Table) -> list[StoredText | None]:
        zero = {"0000-00-00": "-infinity"}
        back = {"-infinity": "0000-00-00"}
        return [StoredText(lambda it: zero.get(it, it), lambda it: back.get(it, it)), None]


def found(table: Table, *differences: Difference, asked: Differing | None = None) -> Differing:
    kinds = Counter(it.kind for it in differences)
    numbers = kinds["changed"], kinds["missing"], kinds["extra"]
    report = TableReport("it", 9, *numbers, 0.0, equal=False, differences=differences)
    result = Differing(asked)
    reader = cast("RowReader", Target())
    result.take(VerifyReport(False, 0.0, (report,)), {"it": table}, Mapping(), reader)
    return result


def test_rows_whose_keys_a_policy_changes_are_not_repaired() -> None:
    table = table_of(Column("day", Type("date"), "date"))
    result = found(
        table,
        Difference("changed", ("-infinity",), ("v",)),
        Difference("missing", ("2024-02-29",)),
        Difference("extra", ("2024-03-01",)),
    )
    assert result.keys == {ID: RepairKeys((("2024-02-29",),), (("2024-03-01",),))}
    assert result.counts == {str(ID): (1, 0, 1)}
    assert "policy changes the keys of 1 row," in result.refused[str(ID)]
    assert result.differences == 2


@pytest.mark.parametrize("text", ["\U000f00d9", "ж"])
def test_a_row_is_not_deleted_if_its_key_may_stand_for_bytes_of_the_source(text: str) -> None:
    table = table_of(Column("id", Type("text"), "varchar(9) character set hebrew"))
    result = found(table, Difference("extra", (text,)), Difference("extra", ("\u05d0",)))
    assert result.keys == {ID: RepairKeys((), (("\u05d0",),))}
    assert "cannot hold" in result.refused[str(ID)]


def test_only_rows_that_were_agreed_to_are_repaired_again() -> None:
    table = table_of(Column("day", Type("date"), "date"))
    asked = found(table, Difference("missing", ("2024-02-29",)))
    others = Difference("missing", ("2024-03-01",)), Difference("extra", ("-infinity",))
    again = found(table, Difference("extra", ("2024-02-29",)), *others, asked=asked)
    assert again.keys == {ID: RepairKeys((), (("2024-02-29",),))}
    assert again.counts == {str(ID): (0, 0, 1)}
    assert (again.differences, again.refused) == (0, {})
    again = found(table, *others, asked=asked)
    assert (again.counts, again.keys, again.refused) == ({}, {}, {})


def test_rows_without_a_key_are_not_repaired() -> None:
    result = found(Table(ID, (NUMBER, VALUE), ()), Difference("extra", ()))
    assert not result.keys
    assert "key" in result.refused[str(ID)]


def test_rows_of_no_table_do_not_count_towards_the_limit() -> None:
    share = Column("shop", Type("text"), "varchar(9)")
    sources = [Table(TableId("shop", name), (share, NUMBER, VALUE), (1,)) for name in ("a", "b")]
    merged = Table(
        *(ID, (share, NUMBER, VALUE), (0, 1)),
        origins=tuple(Origin(it, "", it.id.name) for it in sources),
    )
    strange = [Difference("extra", ("none", str(n))) for n in range(5)]
    result = found(merged, Difference("missing", ("a", "1")), *strange)
    assert result.differences == 1
    assert result.strange["shop.a + shop.b"].startswith("5 rows of shop.goods on the target alone")


def test_the_remedy_reads_all_tables_that_are_merged() -> None:
    sources = [Table(TableId("shop", name), (NUMBER, VALUE), ()) for name in ("it's", "two")]
    merged = Table(ID, (NUMBER, VALUE), (), origins=tuple(Origin(it, "") for it in sources))
    (plan,) = found(merged, Difference("extra", ())).plan("my shop.toml")
    assert (plan.table, plan.insert, plan.refused != "") == ("shop.it's + shop.two", 0, True)
    words = ["tailrace", "backfill", "my shop.toml", "shop.it's", "shop.two"]
    assert shlex.split(plan.remedy) == words
