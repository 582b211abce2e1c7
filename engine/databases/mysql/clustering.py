"""
Whether a read by the primary key gives the rows in the order of the key.

InnoDB keeps a table in that order, so its rows need not be sorted. A partitioned table is read
partition by partition, and other engines keep rows in other orders.

Sources: "Clustered and Secondary Indexes" and "The INFORMATION_SCHEMA STATISTICS Table" in MySQL's
manual.
"""

from __future__ import annotations

from typing import Any, Final

from pymysql.connections import Connection

from engine.databases.mysql.connect import query
from engine.databases.side import Side
from engine.schema import Table

__all__ = ["is_clustered"]

_COLUMNS: Final = """
SELECT s.COLUMN_NAME FROM information_schema.STATISTICS AS s
JOIN information_schema.TABLES AS t USING (TABLE_SCHEMA, TABLE_NAME)
WHERE s.TABLE_SCHEMA = %s AND s.TABLE_NAME = %s
AND t.ENGINE = 'InnoDB' AND LOCATE('partitioned', t.CREATE_OPTIONS) = 0
AND s.INDEX_NAME = 'PRIMARY' AND s.COLLATION = 'A' AND s.SUB_PART IS NULL
ORDER BY s.SEQ_IN_INDEX
"""


def is_clustered(connection: Connection[Any], table: Table, side: Side) -> bool:
    """Whether the table's key is a primary key by which InnoDB keeps its rows."""
    columns = query(connection, _COLUMNS, (table.id.schema, table.id.name), side)
    return [name for (name,) in columns] == [table.columns[each].name for each in table.key]
