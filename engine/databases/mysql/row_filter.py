"""
Conditions that the server evaluates, so that it need not send the other rows.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from pymysql.connections import Connection
from pymysql.cursors import DictCursor
from pymysql.err import MySQLError

from engine.contract import RowFilter
from engine.databases.mysql.charset import may_be_hidden, may_be_invalid
from engine.databases.mysql.connect import is_mariadb
from engine.databases.mysql.identifiers import quote_table
from engine.databases.mysql.invalid_text import invalid_text
from engine.databases.mysql.types import parse_type
from engine.schema import Table
from engine.toolkit.policies import ReadPolicies

__all__ = ["accepts", "condition", "share_of"]

log = logging.getLogger("tailrace.mysql")

_UNICODE: Final = ("", "utf8mb3", "utf8mb4")
#: The errors of the client have numbers from here on to 2999.
_CLIENT_ERRORS: Final = range(2000, 3000)


def condition(table: Table, rows: RowFilter, policies: ReadPolicies) -> str:
    """The condition for a WHERE clause; empty if the server sees other texts in its columns than
    Tailrace: texts in another charset than that of the column, or with invalid bytes.
    """
    for name in rows.columns:
        column = table.columns[table.ordinal(name)]
        source_type = parse_type(column.source_type)
        charset = source_type.encoding
        if source_type.holds:
            return ""
        if column.type.kind != "text" or charset in _UNICODE or not may_be_hidden(charset):
            continue
        if not may_be_invalid(charset) or invalid_text(policies, table, column) != "strict":
            return ""
    return f"({rows.sql}\n)"


def accepts(connection: Connection[Any], table: Table, condition: str) -> bool:
    """Whether the server can evaluate the condition, such as one with a function that it has not.

    Raises PyMySQL's errors of the connection.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {quote_table(table)} WHERE {condition} LIMIT 0")
    except MySQLError as error:
        code = error.args[0] if error.args else 0
        if not isinstance(code, int) or not code or code in _CLIENT_ERRORS:
            raise
        log.warning(
            "the server does not evaluate where, so it sends all rows of the table",
            extra={"table": str(table.id), "error": f"error {code} of the server"},
        )
        return False
    return True


def share_of(connection: Connection[Any], table: Table, condition: str) -> float:
    """The share of a table's rows for which the condition is true, as the server's optimizer
    expects it; 1 if it does not tell.

    EXPLAIN has the rows that are examined, through an index or all, and the percentage of them that
    is left (MySQL manual, "EXPLAIN Output Format"; MariaDB shows it with EXTENDED).
    """
    if not accepts(connection, table, condition):
        return 1.0
    explain = "EXPLAIN EXTENDED" if is_mariadb(connection) else "EXPLAIN FORMAT=TRADITIONAL"
    left: list[float] = []
    with connection.cursor(DictCursor) as cursor:
        for where in (condition, "TRUE"):
            cursor.execute(f"{explain} SELECT 1 FROM {quote_table(table)} WHERE {where}")
            found = cursor.fetchone() or {}
            left.append(float(found.get("rows") or 0) * float(found.get("filtered", 100) or 0))
    return min(1.0, left[0] / left[1]) if left[1] else 1.0
