"""
Keys that every database sorts alike, so that a range of them has the same rows everywhere. Pure.
"""

from __future__ import annotations

from typing import Final

from engine.schema import Table

__all__ = ["ORDERED_KINDS", "why_not_by_range"]

#: The neutral types whose values are sorted alike. Texts are sorted by collations, and labels and
#: UUIDs by rules of each database.
ORDERED_KINDS: Final = frozenset(
    (
        *("int8", "int16", "int24", "int32", "int64"),
        *("uint8", "uint16", "uint24", "uint32", "uint64"),
        *("decimal", "binary", "date", "datetime", "timestamp"),
    )
)


def why_not_by_range(table: Table) -> str:
    """Why the rows of a table cannot be replaced by ranges of its key; empty if they can."""
    if not table.key:
        return "the table has no key"
    for ordinal in table.key:
        column = table.columns[ordinal]
        if column.type.kind not in ORDERED_KINDS:
            return (
                f"the column {column.name} of the key has the type {column.type.kind}, which the"
                " target may sort otherwise than the source"
            )
    return ""
