"""
What the server's tables are like now: their shape, and whether they hold rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymysql.connections import Connection

from engine.databases.mysql.identifiers import quote_table
from engine.databases.mysql.types import same_order, same_type
from engine.schema import Column, Table

__all__ = ["same_shape", "without_rows"]


def same_shape(live: Sequence[Column], table: Table) -> bool:
    """Whether the live columns give the same rows, and the same order of the table's key."""
    if tuple(column.name for column in live) != table.names:
        return False
    source_types = [
        (column.source_type, tracked.source_type)
        for column, tracked in zip(live, table.columns, strict=True)
    ]
    return all(same_type(*pair) for pair in source_types) and all(
        same_order(*source_types[ordinal]) for ordinal in table.key
    )


def without_rows(connection: Connection[Any], tables: Sequence[Table]) -> list[Table]:
    """The tables that hold no row."""
    checks = ", ".join(f"EXISTS (SELECT 1 FROM {quote_table(table)})" for table in tables)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {checks}")
        found = cursor.fetchall()
    return [table for table, rows in zip(tables, found[0], strict=True) if not rows]
