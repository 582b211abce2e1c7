"""
The server's statistics of tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from pymysql.connections import Connection

from engine.change import SchemaChange
from engine.databases.mysql.connect import query
from engine.databases.mysql.identifiers import quote_name, quote_table
from engine.databases.mysql.row_filter import share_of
from engine.errors import SourceError, SourceLost
from engine.schema import Column, Table, TableId, Type
from sources.mysql.catalog import among

__all__ = ["are_narrow", "is_worth", "row_estimates", "row_statistics"]

_ROWS = """
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES WHERE {where}
"""
_STATISTICS = """
SELECT TABLE_ROWS, AVG_ROW_LENGTH FROM information_schema.TABLES
WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s
"""


def row_estimates(
    connection: Connection[Any], tables: Collection[Table], conditions: Mapping[Table, str] = {}
) -> dict[TableId, int]:
    """The approximate number of rows of each table, from the server's statistics: of those that
    fulfil a condition, where there is one.
    """
    ids = {table.id for table in tables}
    if not ids:
        return {}
    where, arguments = among(ids)
    found = query(connection, _ROWS.format(where=where), arguments)
    estimates = {TableId(schema, name): int(rows or 0) for schema, name, rows in found}
    for table in tables:
        condition = conditions.get(table)
        if condition and estimates.get(table.id):
            share = share_of(connection, table, condition)
            estimates[table.id] = max(1, int(estimates[table.id] * share))
    return {id: rows for id, rows in estimates.items() if id in ids}


def row_statistics(connection: Connection[Any], table: Table) -> tuple[int, int]:
    """The approximate number of rows and bytes per row, from the server's statistics.

    0 where the statistics have no value.
    """
    found = query(connection, _STATISTICS, (table.id.schema, table.id.name))
    return (int(found[0][0] or 0), int(found[0][1] or 0)) if found else (0, 0)


#: Rows of this size or more have values that PostgreSQL stores outside of the row.
_LONG_BYTES: Final = 2048
#: How many times longer the rows are than what is read of them.
_TIMES: Final = 8
#: The most bytes of a value by its kind.
_BYTES: Final = {"decimal": 30, "uuid": 16}
#: The most bytes of other numbers and times, and those of a text whose length is not known.
_NUMBER_BYTES: Final = 8
_TEXT_BYTES: Final = 256
_TEXTS: Final = frozenset(("text", "binary", "json", "geometry", "array", "set"))
#: The texts whose bytes are measured if their types do not tell them, and in how many rows.
_MEASURED: Final = frozenset(("text", "binary", "json"))
_SAMPLED_ROWS: Final = 100
NO_SIZES: Final[Mapping[str, int]] = {}


def are_narrow(connection: Connection[Any], change: SchemaChange) -> bool:
    """Whether it is worth to read the new columns of ``change`` alone, by the statistics."""
    after = change.after
    if after is None:
        return False
    row_bytes, narrowed = row_statistics(connection, after)[1], after.narrowed(change.unlogged)
    return is_worth(row_bytes, narrowed) and is_worth(
        row_bytes, narrowed, _sampled_bytes(connection, narrowed)
    )


def is_worth(row_bytes: int, narrowed: Table, known: Mapping[str, int] = NO_SIZES) -> bool:
    """Whether the rows of a table are so long that it costs less to read a few columns of it, and
    to join them with the table on the target, than to write all rows again. ``known`` has the bytes
    of the columns whose types do not tell.

    The join writes each row of the target once more, but not the values that PostgreSQL stores
    outside of the row, which it does if a row is longer than about 2 KB ("TOAST" in its manual).
    Measured, the join costs a quarter to two fifths of the time for rows of 4 KB, and more than the
    whole table for shorter ones (docs/what-the-log-does-not-say.md).
    """
    width = sum(known.get(column.name, _bytes(column)) for column in narrowed.columns)
    return row_bytes >= _LONG_BYTES and row_bytes >= _TIMES * width


def _sampled_bytes(connection: Connection[Any], table: Table) -> dict[str, int]:
    """The mean bytes of the columns whose types do not tell, in a few rows. None of them if the
    server refuses that: the table may have other columns by now, or no value for a row.
    """
    names = [
        it.name for it in table.columns if it.type.kind in _MEASURED and not _is_short(it.type)
    ]
    if not names:
        return {}
    means = ", ".join(f"AVG(b{n})" for n in range(len(names)))
    sizes = ", ".join(f"OCTET_LENGTH({quote_name(name)}) AS b{n}" for n, name in enumerate(names))
    rows = f"SELECT {sizes} FROM {quote_table(table)} LIMIT {_SAMPLED_ROWS}"
    try:
        (found,) = query(connection, f"SELECT {means} FROM ({rows}) AS sampled")
    except SourceLost:
        raise
    except SourceError:
        return {}
    return {name: int(mean or 0) for name, mean in zip(names, found, strict=True)}


def _is_short(type: Type) -> bool:
    return 0 < type.length <= _TEXT_BYTES


def _bytes(column: Column) -> int:
    type = column.type
    if type.kind in _TEXTS:
        return min(type.length or _TEXT_BYTES, _TEXT_BYTES)
    return _BYTES.get(type.kind, _NUMBER_BYTES)
