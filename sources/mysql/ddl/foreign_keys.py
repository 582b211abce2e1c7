"""
Foreign keys, where a statement changes them without naming them. Pure.

Renaming a table changes the foreign keys that refer to it, and the names that the server has made
for its own ones. Renaming a column changes the foreign keys that refer to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from engine.schema import ForeignKey, Table, TableId

__all__ = ["automatic_name", "has_foreign_keys", "moved_names", "renamed_table", "with_parents"]

_AUTOMATIC = "{}_ibfk_"


def has_foreign_keys(engine: str) -> bool:
    """Whether a storage engine has foreign keys whose actions the log may lack; also for an empty
    name, which stands for the engine that the statement does not name.
    """
    return engine in ("", "innodb", "innobase")


def automatic_name(id: TableId, keys: Iterable[ForeignKey]) -> str:
    """The server's name for a foreign key of the table whose other ones are ``keys``."""
    prefix = _AUTOMATIC.format(id.name)
    numbers = [key.name.removeprefix(prefix) for key in keys if key.name.startswith(prefix)]
    return f"{prefix}{max((int(n) for n in numbers if n.isdecimal()), default=0) + 1}"


def moved_names(keys: tuple[ForeignKey, ...], old: TableId, new: TableId) -> tuple[ForeignKey, ...]:
    """The foreign keys after their table was renamed: the names that the server made change."""
    before, after = _AUTOMATIC.format(old.name), _AUTOMATIC.format(new.name)
    if before == after:
        return keys
    return tuple(
        msgspec.structs.replace(key, name=after + key.name.removeprefix(before))
        if key.name.startswith(before)
        else key
        for key in keys
    )


def renamed_table(table: Table, id: TableId) -> Table:
    """The next version of a table, which has the name ``id``."""
    keys = table.foreign_keys and moved_names(table.foreign_keys, table.id, id)
    return msgspec.structs.replace(table, id=id, version=table.version + 1, foreign_keys=keys)


def with_parents(
    tables: Iterable[Table],
    renamed: Sequence[tuple[TableId, TableId]],
    columns: Mapping[tuple[TableId, str], str],
) -> list[tuple[Table, Table]]:
    """The tables whose foreign keys refer to renamed tables or columns: each before and after.

    ``renamed`` holds the old and new names of tables, in order. ``columns`` holds the new names of
    columns by table and old name in lower case; the table's name is that before the statement.
    """
    found: list[tuple[Table, Table]] = []
    for table in tables:
        if not table.foreign_keys:
            continue
        keys = tuple(_with_parent(key, renamed, columns) for key in table.foreign_keys)
        if keys != table.foreign_keys:
            version = table.version + 1
            found.append(
                (table, msgspec.structs.replace(table, foreign_keys=keys, version=version))
            )
    return found


def _with_parent(
    key: ForeignKey,
    renamed: Sequence[tuple[TableId, TableId]],
    columns: Mapping[tuple[TableId, str], str],
) -> ForeignKey:
    names = tuple(columns.get((key.parent, name.lower()), name) for name in key.parent_columns)
    parent = key.parent
    for old, new in renamed:
        parent = new if parent == old else parent
    return msgspec.structs.replace(key, parent=parent, parent_columns=names)
