"""
The differences between the items of two schemas, and what a mapping leaves of a table's details.
"""

from __future__ import annotations

import msgspec

from engine.mapping.changes import Mapping
from engine.mapping.structure import wanted_counters, wanted_tables
from engine.schema import Column, Expression, ForeignKey, Table, TableId, Type
from engine.settings.mapping import TableRules
from engine.structure import Check, Counter, Item, Structure, TableDetails
from engine.toolkit.schema_diff import Difference, differences

MAKE = ("CREATE it",)
FINISH = ("FINISH it",)
INDEX = Item("index", "s.t", "by_a", "btree (a)", MAKE, FINISH, harmless=True)
DEFAULT = Item("default", "s.t", "a", "1", MAKE)
CHECK = Item("check", "s.t", "positive", "CHECK ((a > 0))", MAKE, FINISH)
VIEW = Item("view", "s", "v", advice="translate it", by_name=True)


def states(wanted: list[Item], existing: list[Item]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(it.name, it.state, it.statements) for it in differences(wanted, existing)]


def test_equal_schemas_have_no_differences() -> None:
    items = [INDEX, DEFAULT, CHECK, VIEW]
    assert differences(items, items) == []


def test_an_index_of_another_name_is_enough() -> None:
    other = msgspec.structs.replace(INDEX, name="theirs")
    assert differences([INDEX], [other]) == []
    unfinished = msgspec.structs.replace(other, unfinished=True)
    assert states([INDEX], [unfinished]) == [("by_a", "missing", MAKE), ("theirs", "extra", ())]


def test_what_is_missing_is_made_and_what_is_unfinished_is_finished() -> None:
    unfinished = [msgspec.structs.replace(it, unfinished=True) for it in (INDEX, CHECK)]
    assert states([INDEX, CHECK], []) == [
        ("by_a", "missing", MAKE),
        ("positive", "missing", MAKE),
    ]
    assert states([INDEX, CHECK], unfinished) == [
        ("by_a", "unfinished", FINISH),
        ("positive", "unfinished", FINISH),
    ]


def test_a_default_is_replaced_and_a_constraint_is_not() -> None:
    wanted = [DEFAULT, CHECK, INDEX]
    existing = [msgspec.structs.replace(it, definition="other") for it in wanted]
    assert states(wanted, existing) == [
        ("a", "different", MAKE),
        ("by_a", "different", ()),
        ("positive", "different", ()),
    ]
    assert all(it.advice for it in differences(wanted, existing) if not it.statements)
    stale = msgspec.structs.replace(existing[2], unfinished=True)
    assert states([INDEX], [stale]) == [("by_a", "unfinished", FINISH)]


def test_what_cannot_be_compared_is_found_by_its_name() -> None:
    assert differences([VIEW], [msgspec.structs.replace(VIEW, definition="own")]) == []
    (missing,) = differences([VIEW], [])
    assert missing == Difference("view", "s", "v", "missing", advice="translate it")


def test_what_only_the_target_has_is_a_note_if_it_is_harmless() -> None:
    found = differences([], [INDEX, CHECK])
    assert [(it.name, it.state, it.note) for it in found] == [
        ("by_a", "extra", True),
        ("positive", "extra", False),
    ]


def column(name: str) -> Column:
    return Column(name, Type("int32"), "int", nullable=False)


PARENT = Table(TableId("s", "p"), (column("id"),), (0,), foreign_keys=())
KEY = ForeignKey("buyer", ("p",), PARENT.id, ("id",), on_delete="cascade")
OTHER = ForeignKey("far", ("p",), TableId("s", "unknown"), ("id",))
CHILD = Table(
    *(TableId("s", "c"), (column("id"), column("p"), column("n")), (0,)),
    foreign_keys=(KEY, OTHER),
)
POSITIVE = Expression("less", (Expression("number", text="0"), Expression("column", text="n")))
DETAILS = TableDetails(
    "all", {"id": "one", "n": "number"}, "id", ("n",), (Check("c", "", POSITIVE),)
)
STRUCTURE = Structure({CHILD.id: DETAILS}, ())


def test_a_table_that_is_not_mapped_gets_everything() -> None:
    child, _ = wanted_tables(Mapping(), [CHILD, PARENT], STRUCTURE)
    assert (child.details, child.foreign_keys) == (DETAILS, (KEY,))
    assert child.notes == ("the foreign key far is left out: s.unknown is not followed",)


def test_counters_have_the_names_of_the_target() -> None:
    """GIVEN a table that is renamed with its column, one whose column is left out, and two that
    are merged THEN the first has its counter."""
    ids = [TableId("s", name) for name in ("a", "b", "m1", "m2")]
    tables = [Table(id, (column("id"), column("n")), (0,)) for id in ids]
    rules = {
        "s.a": TableRules(to="t.x", rename={"n": "number"}),
        "s.b": TableRules(drop=("n",)),
        "s.m*": TableRules(to="t.merged", merge={"origin": "table"}),
    }
    counters = {id: Counter("n", 7) for id in ids}
    found = wanted_counters(Mapping(rules), tables, counters)
    assert found == {TableId("t", "x"): Counter("number", 7)}


def test_a_mapping_renames_and_leaves_out() -> None:
    rules = {
        "s.c": TableRules(to="t.child", rename={"p": "parent"}, drop=("n",)),
        "s.p": TableRules(to="t.*", rename={"id": "number"}),
    }
    child, _ = wanted_tables(Mapping(rules), [CHILD, PARENT], STRUCTURE)
    assert child.table.id == TableId("t", "child")
    assert (child.details.comments, child.details.numbered) == ({"id": "one"}, "id")
    (check,) = child.details.checks
    assert check.condition.name == "inexact"
    (key,) = child.foreign_keys
    assert (key.columns, key.parent, key.parent_columns) == (
        *(("parent",), TableId("t", "p")),
        ("number",),
    )


def test_a_filtered_parent_gets_no_foreign_keys() -> None:
    rules = {"s.p": TableRules(where="id > 5")}
    child, _ = wanted_tables(Mapping(rules), [CHILD, PARENT], STRUCTURE)
    assert child.foreign_keys == ()
    assert "has not all rows of s.p" in child.notes[0]


def test_a_merged_table_gets_columns_and_indexes_alone() -> None:
    rules = {"s.c": TableRules(to="all.c", merge={"origin": "schema"})}
    child, _ = wanted_tables(Mapping(rules), [CHILD, PARENT], STRUCTURE)
    assert child.details == TableDetails()
    assert "merged" in child.notes[0]
