"""
Keys that every database sorts alike, so that a range of them has the same rows everywhere. Pure.
"""

from __future__ import annotations

from typing import Final

from engine.schema import Table

__all__ = ["ORDERED_KINDS", "is_ordered"]

#: The neutral types whose values are sorted alike. Texts are sorted by collations, and labels and
#: UUIDs by rules of each database.
ORDERED_KINDS: Final = frozenset(
    (
        *("int8", "int16", "int24", "int32", "int64"),
        *("uint8", "uint16", "uint24", "uint32", "uint64"),
        *("decimal", "binary", "date", "datetime", "timestamp"),
    )
)


def is_ordered(table: Table) -> bool:
    """Whether a range of the table's key has the same rows on every database."""
    return all(table.columns[ordinal].type.kind in ORDERED_KINDS for ordinal in table.key)
