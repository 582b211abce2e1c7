"""
The condition of ``where`` for the source's server, which then need not send the rows that it leaves
out.

The server evaluates the text that the user wrote, and it is what defines the meaning of the text.
The mapping tests the rows again. So a condition is passed on only if the server cannot leave out a
row that the mapping keeps, and cannot fail where the mapping does not.
"""

from __future__ import annotations

import re
from typing import Final

from engine.contract import RowFilter
from engine.mapping.columns import Condition
from engine.schema import Table

__all__ = ["row_filter"]

#: What may begin a comment, which may have SQL that only the server reads, or end a statement.
_COMMENT: Final = re.compile(r"--|#|/\*|;|\0")
#: The code that may fail for a row. The server's error would not name the row's table.
_FALLIBLE: Final = re.compile(r"\b(?:un)?signed\b")
_NULL: Final = re.compile(r"\bNULL\b", re.IGNORECASE)
_DATES: Final = frozenset(("date", "datetime", "timestamp"))


def row_filter(table: Table, text: str, condition: Condition) -> RowFilter | None:
    """The condition ``text`` for the server; None if the server must not evaluate it."""
    columns = [table.columns[ordinal] for ordinal in sorted(condition.inputs)]
    if not columns or _COMMENT.search(text) or _FALLIBLE.search(condition.code):
        return None
    # In WHERE, but not in a SELECT list, such a column IS NULL if it is 0000-00-00: see
    # "Comparison Functions and Operators", IS NULL, in MySQL's manual.
    zero_is_null = any(not it.nullable and it.type.kind in _DATES for it in columns)
    if zero_is_null and _NULL.search(text):
        return None
    return RowFilter(text, tuple(column.name for column in columns))
