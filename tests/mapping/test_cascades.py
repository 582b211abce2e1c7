"""
The actions of foreign keys in the tables and columns of the target.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.change import Cascade, SchemaChange
from engine.errors import UnloggedChange
from engine.mapping.changes import Mapping
from engine.schema import Column, ForeignKey, ReferentialAction, Table, TableId, Type
from engine.settings.mapping import TableRules

INT = Type("int32")


def make(name: str, parent: str = "", on_delete: ReferentialAction = "cascade") -> Table:
    key = ForeignKey(f"{name}_fk", ("up",), TableId("shop", parent), ("id",), on_delete, "cascade")
    columns = (Column("id", INT, "int", nullable=False), Column("up", INT, "int"))
    return Table(TableId("shop", name), columns, key=(0,), foreign_keys=(key,) if parent else ())


PARENT, CHILD, LAST = make("parent"), make("child", "parent"), make("last", "child")
DELETED = Cascade(PARENT.id, ("id",), [(1,)], None, (CHILD, LAST))
CHANGED = Cascade(PARENT.id, ("id",), [(1,)], [(2,)], (CHILD,))


def translate(change: Cascade, **rules: dict[str, Any]) -> Cascade:
    """The cascade under the rules of some tables; the others get another schema."""
    made = {"*.*": TableRules(to="crm.*")}
    made |= {f"shop.{name}": TableRules(**values) for name, values in rules.items()}
    mapping = Mapping(made)
    mapping.targets([SchemaChange("", None, table) for table in (PARENT, CHILD, LAST)])
    (found,) = mapping.targets([change])
    assert isinstance(found, Cascade)
    return found


def test_tables_and_columns_have_the_names_of_the_target() -> None:
    found = translate(
        DELETED, parent={"rename": {"id": "number"}}, child={"rename": {"up": "parent", "id": "n"}}
    )
    assert (found.parent, found.columns) == (TableId("crm", "parent"), ("number",))
    child, last = found.tables
    assert (child.id, last.id) == (TableId("crm", "child"), TableId("crm", "last"))
    assert child.foreign_keys is not None
    assert last.foreign_keys is not None
    ((key,), (next_key,)) = child.foreign_keys, last.foreign_keys
    assert (key.columns, key.parent, key.parent_columns) == (
        *(("parent",), TableId("crm", "parent"), ("number",)),
    )
    assert (next_key.parent, next_key.parent_columns) == (TableId("crm", "child"), ("n",))


@pytest.mark.parametrize(
    ("change", "rules", "table"),
    [
        (DELETED, {"child": {"drop": ("up",)}}, "child"),
        (DELETED, {"child": {"mask": {"up": "null"}}}, "child"),
        (DELETED, {"child": {"merge": {"shop": "schema"}}}, "child"),
        (DELETED, {"child": {"where": "id > 5"}}, "last"),
        (CHANGED, {"child": {"select": "*, up + 1 AS next"}}, "child"),
        (CHANGED, {"child": {"where": "up > 5"}}, "child"),
    ],
)
def test_what_the_target_cannot_do_reads_the_table_again(
    change: Cascade, rules: dict[str, Any], table: str
) -> None:
    with pytest.raises(UnloggedChange) as raised:
        translate(change, **rules)
    assert raised.value.id == TableId("shop", table)


def test_deleted_rows_need_no_computed_columns() -> None:
    only = msgspec.structs.replace(DELETED, tables=(CHILD,))
    found = translate(only, child={"select": "*, up + 1 AS next", "where": "up > 5"})
    assert [table.id.name for table in found.tables] == ["child"]


def test_a_parent_that_is_not_mapped_keeps_its_name() -> None:
    mapping = Mapping({"shop.child": TableRules(to="crm.*")})
    mapping.targets([SchemaChange("", None, CHILD)])
    (found,) = mapping.targets([msgspec.structs.replace(DELETED, tables=(CHILD,))])
    assert isinstance(found, Cascade)
    assert found.parent == PARENT.id
    assert found.tables[0].id == TableId("crm", "child")
