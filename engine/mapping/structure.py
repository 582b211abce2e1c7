"""
What the tables of the target should have besides columns and rows, after the mapping. Pure.

A table whose columns are renamed or left out has what concerns the columns that it has unchanged.
A merged table has none of it, because it holds for the rows of one source only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from engine.mapping.changes import Mapping as TableMappings
from engine.schema import Expression, ForeignKey, Table, TableId
from engine.structure import Check, Counter, Structure, TableDetails, WantedTable

__all__ = ["wanted_counters", "wanted_tables"]

_MERGED = (
    "several tables are merged in it: identity, comments, checks and foreign keys are left out"
)


def wanted_tables(
    mapping: TableMappings, tables: Sequence[Table], structure: Structure
) -> list[WantedTable]:
    """What the target should have for these tables of the source. Raises ConfigError."""
    places = {table.id: _Place(mapping, table) for table in tables}
    return [_wanted(target, places, structure) for target in mapping.check(tables)]


def wanted_counters(
    mapping: TableMappings, tables: Sequence[Table], counters: Mapping[TableId, Counter]
) -> dict[TableId, Counter]:
    """The counters of tables of the source, by table of the target, in the names of its columns.
    Raises ConfigError.
    """
    found = {}
    for table in tables:
        counter = counters.get(table.id)
        place = _Place(mapping, table)
        if counter is not None and not place.merged and counter.column in place.names:
            found[place.target.id] = Counter(place.names[counter.column], counter.next)
    return found


class _Place:
    """Where a table of the source is on the target, and its columns that are there unchanged."""

    def __init__(self, mapping: TableMappings, source: Table) -> None:
        found = mapping.of(source)
        self.target = source if found is None else found.target
        self.names = (
            {name: name for name in source.names}
            if found is None
            else {
                source.columns[ordinal].name: found.columns[place].column.name
                for ordinal, place in found.places.items()
            }
        )
        self.merged = found is not None and bool(found.share)
        self.filtered = found is not None and found.condition is not None


def _wanted(target: Table, places: Mapping[TableId, _Place], structure: Structure) -> WantedTable:
    source = target.sources[0]
    place = places[source.id]
    details = structure.tables.get(source.id, TableDetails())
    if place.merged:
        return WantedTable(target, TableDetails(), notes=(_MERGED,))
    names = place.names
    if target.origins:
        details = msgspec.structs.replace(
            details,
            comments={names[it]: text for it, text in details.comments.items() if it in names},
            defaults={names[it]: text for it, text in details.defaults.items() if it in names},
            numbered=names.get(details.numbered, ""),
            touched=tuple(names[it] for it in details.touched if it in names),
            checks=tuple(_renamed(check, names) for check in details.checks),
        )
    keys: list[ForeignKey] = []
    notes: list[str] = []
    for key in source.foreign_keys or ():
        reason = _why_not(key, place, places)
        if reason:
            notes.append(f"the foreign key {key.name} is left out: {reason}")
        else:
            keys.append(_moved(key, names, places[key.parent]))
    return WantedTable(target, details, tuple(keys), tuple(notes))


def _renamed(check: Check, names: Mapping[str, str]) -> Check:
    condition = check.condition
    missing = sorted(condition.columns - names.keys())
    if missing:
        reason = f"the mapping changes the column {missing[0]}, or leaves it out"
        condition = Expression("inexact", text=reason)
    return msgspec.structs.replace(check, condition=condition.renamed(names))


def _why_not(key: ForeignKey, place: _Place, places: Mapping[TableId, _Place]) -> str:
    """Why the target does not get a foreign key; empty if it does."""
    parent = places.get(key.parent)
    if parent is None:
        return f"{key.parent} is not followed"
    if parent.merged:
        return f"{key.parent} is merged with other tables"
    if parent.filtered:
        return f"the target has not all rows of {key.parent}"
    missing = [*_missing(key.columns, place.names), *_missing(key.parent_columns, parent.names)]
    return f"the mapping changes the column {missing[0]}, or leaves it out" if missing else ""


def _missing(columns: Sequence[str], names: Collection[str]) -> Iterator[str]:
    return (name for name in columns if name not in names)


def _moved(key: ForeignKey, names: Mapping[str, str], parent: _Place) -> ForeignKey:
    return msgspec.structs.replace(
        key,
        columns=tuple(names[name] for name in key.columns),
        parent=parent.target.id,
        parent_columns=tuple(parent.names[name] for name in key.parent_columns),
    )
