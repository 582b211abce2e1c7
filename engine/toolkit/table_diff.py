"""
The changes that lead from one version of a table to another. Pure.

A sink does not read the source's DDL. It gets the table before and after a schema change and
applies their differences. Two versions do not show which columns were renamed; a ``SchemaChange``
holds the renamed columns, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from engine.schema import Column, Index, Table, TableId

__all__ = [
    "AddColumn",
    "AddIndex",
    "ChangeDefault",
    "ChangeKey",
    "ChangeNullability",
    "Difference",
    "DropColumn",
    "DropIndex",
    "RenameColumn",
    "RenameIndex",
    "RenameTable",
    "Retype",
    "differences",
]


class RenameTable(msgspec.Struct, frozen=True):
    """Rename a table, or move it to another schema."""

    before: TableId
    after: TableId


class DropIndex(msgspec.Struct, frozen=True):
    """Drop a secondary index; its ``columns`` are ordinals in the table before."""

    index: Index


class ChangeKey(msgspec.Struct, frozen=True):
    """Change the columns of the key. Both fields hold the names that the columns have after."""

    before: tuple[str, ...]
    after: tuple[str, ...]


class DropColumn(msgspec.Struct, frozen=True):
    """Drop a column."""

    column: Column


class RenameColumn(msgspec.Struct, frozen=True):
    """Rename a column, which keeps its values."""

    before: str
    after: str


class AddColumn(msgspec.Struct, frozen=True):
    """Add a column. Existing rows get its default; the log does not hold these values."""

    column: Column


class Retype(msgspec.Struct, frozen=True):
    """Change the type of a column. ``before`` has the name of ``after`` already."""

    before: Column
    after: Column


class ChangeNullability(msgspec.Struct, frozen=True):
    """Allow or forbid NULL in a column, as in ``column``."""

    column: Column


class ChangeDefault(msgspec.Struct, frozen=True):
    """Change the default for new rows to that of ``column``; existing rows keep their values."""

    column: Column


class RenameIndex(msgspec.Struct, frozen=True):
    """Rename a secondary index."""

    before: str
    after: str


class AddIndex(msgspec.Struct, frozen=True):
    """Add a secondary index; its ``columns`` are ordinals in the table after."""

    index: Index


Difference = (
    RenameTable
    | DropIndex
    | ChangeKey
    | DropColumn
    | RenameColumn
    | AddColumn
    | Retype
    | ChangeNullability
    | ChangeDefault
    | RenameIndex
    | AddIndex
)


def differences(
    before: Table, after: Table, renamed: Sequence[tuple[str, str]] = ()
) -> tuple[Difference, ...]:
    """Return the changes that lead from ``before`` to ``after``, in an order to apply them.

    ``renamed`` holds the old and new names of renamed columns. The order of columns is ignored. A
    column that was dropped and created again under its name is treated as a changed column.
    """
    names = dict(renamed)
    # A renamed column may take the name of a dropped one. Give the dropped one a name that cannot
    # occur, so that the two are not matched.
    taken = set(names.values()) - set(names)
    names |= {name: f"{name}\0dropped" for name in before.names if name in taken}
    found: list[Difference] = []
    if before.id != after.id:
        found.append(RenameTable(before.id, after.id))
    dropped, index_renames, added = _indexes(before, after, names)
    found.extend(DropIndex(index) for index in dropped)
    found.extend(_columns(before, after, names))
    key_before = _named(before, before.key, names)
    key_after = _named(after, after.key, {})
    if key_before != key_after:
        found.append(ChangeKey(key_before, key_after))
    found.extend(index_renames)
    found.extend(AddIndex(index) for index in added)
    return tuple(found)


def _columns(before: Table, after: Table, names: dict[str, str]) -> Iterator[Difference]:
    old = {names.get(column.name, column.name): column for column in before.columns}
    new = {column.name: column for column in after.columns}
    yield from (DropColumn(column) for name, column in old.items() if name not in new)
    yield from (
        RenameColumn(column.name, name)
        for name, column in old.items()
        if name in new and column.name != name
    )
    yield from (AddColumn(column) for name, column in new.items() if name not in old)
    for name, column in new.items():
        if name in old:
            yield from _column(msgspec.structs.replace(old[name], name=name), column)


def _column(old: Column, new: Column) -> Iterator[Difference]:
    if (old.type, old.source_type) != (new.type, new.source_type):
        yield Retype(old, new)
    if old.nullable != new.nullable:
        yield ChangeNullability(new)
    if old.default != new.default:
        yield ChangeDefault(new)


def _indexes(
    before: Table, after: Table, names: dict[str, str]
) -> tuple[list[Index], list[RenameIndex], list[Index]]:
    """Dropped, renamed and added indexes. A changed index is dropped and added."""

    def shape(table: Table, index: Index, names: dict[str, str]) -> object:
        return _named(table, index.columns, names), index.unique, index.prefix

    old = {index.name: (shape(before, index, names), index) for index in before.indexes}
    new = {index.name: (shape(after, index, {}), index) for index in after.indexes}
    for name in [name for name in old if name in new and old[name][0] == new[name][0]]:
        del old[name], new[name]
    renames = []
    for name, (its_shape, _) in list(old.items()):
        twin = next((other for other, (shape, _) in new.items() if shape == its_shape), None)
        if twin is not None and twin not in old and name not in new:
            renames.append(RenameIndex(name, twin))
            del old[name], new[twin]
    return [index for _, index in old.values()], renames, [index for _, index in new.values()]


def _named(table: Table, ordinals: Sequence[int], names: dict[str, str]) -> tuple[str, ...]:
    found = [table.columns[ordinal].name for ordinal in ordinals]
    return tuple(names.get(name, name) for name in found)
