"""
The actions of foreign keys in the tables and columns of the target.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from engine.change import Cascade, Rows, SchemaChange
from engine.checkpoint import Checkpoint
from engine.errors import UnloggedChange
from engine.mapping.changes import Mapping
from engine.schema import Column, ForeignKey, ReferentialAction, Table, TableId, Type
from engine.settings.mapping import TableRules
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore

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


def test_rows_of_the_target_follow() -> None:
    """GIVEN mapped tables in a target WHEN rows of their parent are deleted and changed THEN the
    rows that refer to them are, through two tables."""
    rules = {
        "*.*": TableRules(to="crm.*"),
        "shop.child": TableRules(rename={"up": "parent"}, select="*, id * 2 AS twice"),
    }
    mapping, store = Mapping(rules), MemoryStore()
    child, last = (mapping.target(table).id for table in (CHILD, LAST))

    async def apply() -> None:
        sink = MemorySink(MemorySinkSettings("memory:cascades"), "test", store)
        epoch = (await sink.open()).epoch
        tables = (PARENT, CHILD, LAST)
        created = [SchemaChange("", None, table) for table in tables]
        rows = [Rows(table, "insert", None, [(1, 1), (2, 2), (3, 3)]) for table in tables]
        changed = msgspec.structs.replace(CHANGED, before=[(2,)], after=[(20,)])
        await sink.apply(mapping.targets([*created, *rows, DELETED, changed]))
        await sink.commit(Checkpoint("test", epoch, ""))

    asyncio.run(apply())
    assert store.rows(child) == [(2, 20, 4), (3, 3, 6)]
    assert store.rows(last) == [(2, 2), (3, 3)]
