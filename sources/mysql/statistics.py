"""
The server's statistics of tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymysql.connections import Connection

from engine.databases.mysql.connect import query
from engine.schema import Table, TableId
from sources.mysql.catalog import among

__all__ = ["row_estimates", "row_statistics"]

_ROWS = """
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES WHERE {where}
"""
_STATISTICS = """
SELECT TABLE_ROWS, AVG_ROW_LENGTH FROM information_schema.TABLES
WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s
"""


def row_estimates(connection: Connection[Any], tables: Iterable[Table]) -> dict[TableId, int]:
    """The approximate number of rows of each table, from the server's statistics."""
    ids = {table.id for table in tables}
    if not ids:
        return {}
    where, arguments = among(ids)
    found = query(connection, _ROWS.format(where=where), arguments)
    estimates = {TableId(schema, name): int(rows or 0) for schema, name, rows in found}
    return {id: rows for id, rows in estimates.items() if id in ids}


def row_statistics(connection: Connection[Any], table: Table) -> tuple[int, int]:
    """The approximate number of rows and bytes per row, from the server's statistics.

    0 where the statistics have no value.
    """
    found = query(connection, _STATISTICS, (table.id.schema, table.id.name))
    return (int(found[0][0] or 0), int(found[0][1] or 0)) if found else (0, 0)
