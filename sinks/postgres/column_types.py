"""
The types and collations that a table's columns need on the target. Pure.

They belong to the schema of the tables, which share them.
"""

from __future__ import annotations

from engine.databases.postgres.identifiers import quote
from engine.databases.postgres.types import CollatedColumn, EnumColumn, enum_columns
from engine.schema import Column, Index, Table
from sinks.postgres.defaults import literal

__all__ = ["collation_of", "create_types", "drop_types", "indexed"]


def create_types(table: Table) -> list[str]:
    """Create the enum types and collations of a table's columns that do not exist."""
    collations = {it.collation: it for it in table.columns if isinstance(it, CollatedColumn)}
    return [
        *(_create_enum(column) for column in enum_columns(table)),
        *map(_create_collation, collations.values()),
    ]


def drop_types(before: Table, after: Table | None = None) -> list[str]:
    """Drop the enum types that a table used before and does not use after, unless another one uses
    them."""
    used = {column.enum_type for column in enum_columns(after)} if after is not None else set()
    return [
        _ignoring("dependent_objects_still_exist", f"DROP TYPE IF EXISTS {column.enum_type}")
        for column in enum_columns(before)
        if column.enum_type not in used
    ]


def collation_of(column: Column) -> tuple[str, bool]:
    """The collation of a column, and whether only its unique indexes have it."""
    return (column.collation, column.in_key) if isinstance(column, CollatedColumn) else ("", False)


def indexed(column: Column, index: Index) -> str:
    """A column in the definition of an index."""
    name = quote(column.name)
    if index.unique and isinstance(column, CollatedColumn) and column.in_key:
        return f"{name} COLLATE {column.collation}"
    return name


def _create_collation(column: CollatedColumn) -> str:
    return (
        f"CREATE COLLATION IF NOT EXISTS {column.collation} (provider = icu,"
        f" locale = {literal(column.locale)}, deterministic = false)"
    )


def _create_enum(column: EnumColumn) -> str:
    labels = ", ".join(map(literal, column.labels))
    return _ignoring("duplicate_object", f"CREATE TYPE {column.enum_type} AS ENUM ({labels})")


def _ignoring(condition: str, statement: str) -> str:
    """A statement that does nothing if it fails with this condition."""
    return f"DO $tailrace$BEGIN {statement}; EXCEPTION WHEN {condition} THEN END$tailrace$"
