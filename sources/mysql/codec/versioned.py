"""
System-versioned tables of MariaDB: only current rows are followed, those that a SELECT shows.

Such a table has two columns that the server fills, the start and the end of the time in which a row
was current; the end of a current row is the largest value of its type. The log shows the server's
own work on them: an UPDATE is an update of the current row and an insert of a row of the history, a
DELETE is an update that sets the end, and DELETE HISTORY is a delete.

Format: MariaDB's documentation, "System-Versioned Tables".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from engine.change import Operation, Row, Rows
from engine.schema import Table

__all__ = ["ROW_END", "ROW_START", "current_rows", "row_end"]

#: What the source type of these columns ends with.
ROW_START: Final = " generated always as row start"
ROW_END: Final = " generated always as row end"

#: The ends of a current row: TIMESTAMP(6) up to MariaDB 11.4 and after it, and a transaction's id.
#: None: the log leaves the column out of an image, because it has not changed.
_CURRENT: Final[frozenset[str | int | None]] = frozenset(
    {"2038-01-19 03:14:07.999999", "2106-02-07 06:28:15.999999", (1 << 64) - 1, None}
)


@lru_cache(maxsize=4096)
def row_end(table: Table) -> int | None:
    """The ordinal of the column with the end of a row's time; None if the table has no history."""
    for ordinal, column in enumerate(table.columns):
        if column.source_type.endswith(ROW_END):
            return ordinal
    return None


def current_rows(rows: Rows, end: int) -> list[Rows]:
    """The changes of current rows; ``end`` is the column with the end of a row's time."""
    if rows.op == "update":
        return _updates(rows, end)
    images = rows.before if rows.op == "delete" else rows.after
    current = [row for row in images or () if row[end] in _CURRENT]
    if not current:
        return []
    before, after = (current, None) if rows.op == "delete" else (None, current)
    return [_of(rows, rows.op, before, after)]


def _updates(rows: Rows, end: int) -> list[Rows]:
    """Updates of current rows, and the updates that end one as deletes."""
    before: list[Row] = []
    after: list[Row] = []
    ended: list[Row] = []
    for old, new in zip(rows.before or (), rows.after or (), strict=True):
        if old[end] not in _CURRENT:
            continue
        if new[end] in _CURRENT:
            before.append(old)
            after.append(new)
        else:
            ended.append(old)
    found = [_of(rows, "update", before, after)] if before else []
    if ended:
        deletes = Rows(rows.table, "delete", ended, None, rows.before_present, None, rows.size)
        found.append(deletes)
    return found


def _of(rows: Rows, op: Operation, before: list[Row] | None, after: list[Row] | None) -> Rows:
    masks = rows.before_present, rows.after_present
    return Rows(rows.table, op, before, after, *masks, rows.size)
