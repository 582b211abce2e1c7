"""
Names as SQL identifiers of MySQL and MariaDB.
"""

from __future__ import annotations

from engine.schema import Table

__all__ = ["quote_name", "quote_table"]


def quote_name(name: str) -> str:
    """The name in backquotes, which work with each ``sql_mode``."""
    return "`" + name.replace("`", "``") + "`"


def quote_table(table: Table) -> str:
    """The table's name with its schema, both quoted."""
    return f"{quote_name(table.id.schema)}.{quote_name(table.id.name)}"
