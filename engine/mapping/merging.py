"""
Tables that are merged into one on the target. Pure.

Each row of the merged table has the name of its source in the first column, which is the first of
the key. The columns are those of all tables, by their names; a table that lacks one has NULL there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.change import TWIN_PREFIX, DeletePart, Truncate
from engine.errors import ConfigError
from engine.schema import Column, Index, Origin, Part, Table, TableId, Type

__all__ = ["emptied", "fits", "is_merged", "joined", "refused", "share_of", "without"]

_SIGNED = ("int8", "int16", "int24", "int32", "int64")
_UNSIGNED = ("uint8", "uint16", "uint24", "uint32", "uint64")


def joined(tables: Sequence[Table]) -> Table:
    """One table for the rows of all ``tables``, which have the same id.

    Raises ConfigError if they have different keys, or columns of types that have no common one.
    """
    tables = sorted(tables, key=lambda table: table.origins[0].table.id)
    first = tables[0]
    columns = {column.name: column for column in first.columns}
    owners = dict.fromkeys(columns, first)
    indexes = {
        index.name: [first.columns[n].name for n in index.columns] for index in first.indexes
    }
    shares = [table.origins[0].share for table in tables]
    for table in tables[1:]:
        if shares.count(table.origins[0].share) > 1:
            raise _wrong(table, "another table has the same name in the column of merge")
        for column in table.columns:
            owner = owners.setdefault(column.name, table)
            known = columns.setdefault(column.name, column)
            if (common := _common(known, column)) is None:
                raise _wrong(
                    table,
                    f"the column {column.name} is {known.type} in {_source(owner)}, and"
                    f" {column.type} in {_source(table)}",
                )
            columns[column.name] = common
        for index in table.indexes:
            indexes.setdefault(index.name, [table.columns[n].name for n in index.columns])
        if _key(table) != _key(first):
            problem = f"the keys of {_source(first)} and of {_source(table)} are not the same"
            raise _wrong(table, problem)
    names = list(columns)
    everywhere = set.intersection(*(set(table.names) for table in tables))
    made = tuple(
        column if name in everywhere else msgspec.structs.replace(column, nullable=True)
        for name, column in columns.items()
    )
    return msgspec.structs.replace(
        first,
        columns=made,
        key=tuple(names.index(name) for name in _key(first)),
        indexes=tuple(
            Index(name, tuple(names.index(column) for column in of)) for name, of in indexes.items()
        ),
        version=1,
        origins=tuple(origin for table in tables for origin in table.origins),
    )


def refused(known: Sequence[Table], tables: Sequence[Table]) -> dict[TableId, ConfigError]:
    """Those of ``tables`` that cannot be joined with ``known`` and the ones before them, by the ids
    of the source.
    """
    try:
        joined([*known, *tables])
        return {}
    except ConfigError:
        errors: dict[TableId, ConfigError] = {}
    good = list(known)
    for table in tables:
        try:
            joined([*good, table])
        except ConfigError as error:
            error.table = str(_source(table))
            errors[_source(table)] = error
        else:
            good.append(table)
    return errors


def without(table: Table, origin: Origin) -> Table | None:
    """The merged table without the rows of one origin; None if there is no other one. It keeps its
    columns.
    """
    origins = tuple(each for each in table.origins if each.table.id != origin.table.id)
    return msgspec.structs.replace(table, origins=origins) if origins else None


def fits(table: Table, part: Table) -> bool:
    """Whether the merged table has what ``part`` has, as one of its origins, so that the rows of it
    can be stored.
    """
    known = {column.name: column for column in table.columns}
    return (
        part.origins[0] in table.origins
        and part.id == table.id
        and _key(table) == _key(part)
        and all(
            column.name in known and _holds(known[column.name].type, column.type)
            for column in part.columns
        )
    )


def is_merged(table: Table) -> bool:
    """Whether a table of the target has, or may have, rows of several tables."""
    return bool(table.origins and table.origins[0].share) and not _is_twin(table)


def _is_twin(table: Table) -> bool:
    return any(it.table.id.name.startswith(TWIN_PREFIX) for it in table.origins)


def share_of(target: Table, source: Table) -> Part | None:
    """The rows of the source's table in a merged one; None if it is not merged."""
    if not is_merged(target):
        return None
    (text,) = (it.share for it in target.origins if it.table.id == source.id)
    return Part(target.columns[target.key[0]].name, (), text=text)


def emptied(target: Table, source: Table) -> Truncate | DeletePart:
    """The removal of all rows of the source's table, which may be a share of a merged one."""
    part = share_of(target, source)
    return Truncate(target) if part is None else DeletePart(target, part)


def _key(table: Table) -> list[str]:
    return [table.columns[ordinal].name for ordinal in table.key]


def _common(one: Column, other: Column) -> Column | None:
    """A column for the values of both; None if no type holds all of them."""
    wide = one if _holds(one.type, other.type) else other
    narrow = other if wide is one else one
    if not _holds(wide.type, narrow.type):
        return None
    return msgspec.structs.replace(wide, nullable=one.nullable or other.nullable)


def _holds(wide: Type, narrow: Type) -> bool:
    if wide == narrow:
        return True
    if wide.kind == narrow.kind == "text":
        return not wide.length or 0 < narrow.length <= wide.length
    return any(
        wide.kind in kinds
        and narrow.kind in kinds
        and kinds.index(wide.kind) >= kinds.index(narrow.kind)
        for kinds in (_SIGNED, _UNSIGNED)
    )


def _source(table: Table) -> TableId:
    return table.origins[0].table.id


def _wrong(table: Table, problem: str) -> ConfigError:
    return ConfigError(
        f"the table cannot be merged into {table.id}: {problem}",
        hint="select the columns that the tables have in common, or give them common types in"
        " [mapping]",
        table=_source(table),
    )
