"""
What differs between two versions of a table. Pure.

The idea: a sink never reads a source's DDL. It is told the table before and after, and follows the
difference; what two versions cannot tell (which column was renamed) comes with the change.
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
    """The table has another name, or is in another schema."""

    before: TableId
    after: TableId


class DropIndex(msgspec.Struct, frozen=True):
    """A secondary index is gone; its columns are the ordinals of the table before."""

    index: Index


class ChangeKey(msgspec.Struct, frozen=True):
    """The key consists of other columns: names of before (by their names after), and of after."""

    before: tuple[str, ...]
    after: tuple[str, ...]


class DropColumn(msgspec.Struct, frozen=True):
    """A column is gone."""

    column: Column


class RenameColumn(msgspec.Struct, frozen=True):
    """A column has another name, and keeps its values."""

    before: str
    after: str


class AddColumn(msgspec.Struct, frozen=True):
    """A column is new; rows that exist get its default, which no log holds."""

    column: Column


class Retype(msgspec.Struct, frozen=True):
    """A column has another type: ``before`` has the name of ``after``."""

    before: Column
    after: Column


class ChangeNullability(msgspec.Struct, frozen=True):
    """A column may hold NULL now, or may not any longer, as ``column`` says."""

    column: Column


class ChangeDefault(msgspec.Struct, frozen=True):
    """New rows get another default, as ``column`` says; rows that exist keep their values."""

    column: Column


class RenameIndex(msgspec.Struct, frozen=True):
    """A secondary index has another name."""

    before: str
    after: str


class AddIndex(msgspec.Struct, frozen=True):
    """A secondary index is new; its columns are the ordinals of the table after."""

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
    """What leads from ``before`` to ``after``, in an order in which it can be done.

    ``renamed`` are the old and new names of columns. The order of columns is no difference. A
    column that was dropped and made again under its name cannot be told from one that was changed.
    """
    names = dict(renamed)
    # A column that goes, whose name a renamed one takes, must not be taken for it.
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
    """Dropped, renamed and added indexes. One of another shape is dropped and added."""

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
