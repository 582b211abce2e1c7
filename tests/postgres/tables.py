"""
A small table, ``shop.t``, and its schema changes, for tests of DDL.
"""

from __future__ import annotations

from typing import Any

from engine.change import SchemaChange
from engine.schema import Column, Table, TableId, Type
from tests.support.targets import Target

ID = Column("id", Type("int32"), "int", nullable=False)


def column(kind: str, source_type: str = "", **more: Any) -> Column:
    """A column ``c``; ``more`` are fields of ``Type`` or ``Column``."""
    names = {"length", "precision", "scale", "members"}
    shape = {name: more.pop(name) for name in names & set(more)}
    return Column("c", Type(kind, **shape), source_type or kind, **more)  # type: ignore[arg-type]


def table(*columns: Column, **more: Any) -> Table:
    """The table ``shop.t``, with the key ``id`` unless ``more`` says otherwise."""
    return Table(TableId("shop", "t"), (ID, *columns), **({"key": (0,)} | more))


def alter(target: Target, before: Table, after: Table, *renamed: tuple[str, str]) -> None:
    """Apply and commit a schema change; ``renamed`` are pairs of old and new column names."""
    target.do(SchemaChange("ALTER", before, after, renamed))


def columns_of(target: Target, name: str = "t") -> dict[str, str]:
    """The columns of a table in the schema ``shop``, each with its type and NOT NULL."""
    return dict(
        target.query(
            "SELECT attname, format_type(atttypid, atttypmod) ||"
            " CASE WHEN attnotnull THEN ' not null' ELSE '' END FROM pg_attribute"
            f" WHERE attrelid = 'shop.{name}'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    )


def indexes_of(target: Target) -> set[str]:
    """The definitions of all indexes in the schema ``shop``, without their names."""
    found = target.query(
        "SELECT regexp_replace(indexdef, '^CREATE (UNIQUE )?INDEX \\S+ ON ', '\\1')"
        " FROM pg_indexes WHERE schemaname = 'shop'"
    )
    return {definition for (definition,) in found}
