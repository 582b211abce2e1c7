"""
What the tests of default charsets share.
"""

from __future__ import annotations

from engine.databases.mysql.types import parse_type
from engine.schema import Table
from sources.mysql.ddl.columns import charset_of

__all__ = ["WORD", "charsets_of"]

#: A word that has other bytes in each of the charsets cp1251, cp866, koi8r and utf8mb4. All of its
#: bytes have a meaning in each.
WORD = "Объём"


def charsets_of(table: Table) -> list[str]:
    """The charsets of the columns and of the table. utf8mb3 and utf8mb4 are read alike."""
    names = [parse_type(column.source_type).charset for column in table.columns]
    return [name.replace("mb3", "mb4") for name in (*names, charset_of(table.default_charset).name)]
