"""
The actions of foreign keys on mapped tables. Pure.

A foreign key acts on the target as it does on the source if the target has its columns unchanged.
Otherwise, and where the target lacks rows through which it acts, the table has to be backfilled
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from engine.change import Cascade
from engine.mapping.schema_changes import unlogged
from engine.mapping.table import TableMapping
from engine.schema import ForeignKey, Table, TableId
from engine.toolkit.cascades import Step, reached

__all__ = ["translated_cascade"]


def translated_cascade(
    change: Cascade, of: Callable[[Table], TableMapping | None], targets: Mapping[TableId, Table]
) -> Cascade:
    """A cascade in the tables and columns of the target, which are in ``targets`` by the source's
    names. Raises UnloggedChange for a table that the target cannot change as the source does.
    """
    mappings = {id: of(source) for id, source in _sources(change, targets).items()}
    chain = {step.child.id for _, step in reached(change)}
    for parent, step in reached(change):
        _check(step, mappings.get(step.child.id))
        if parent in chain:
            _check_parent(step, mappings.get(parent))

    def id_of(id: TableId) -> TableId:
        return targets[id].id if id in targets else id

    def names_of(id: TableId, columns: tuple[str, ...]) -> tuple[str, ...]:
        mapping = mappings.get(id)
        return columns if mapping is None else tuple(_name(mapping, name) for name in columns)

    def key_of(child: TableId, key: ForeignKey) -> ForeignKey:
        return msgspec.structs.replace(
            key,
            columns=names_of(child, key.columns),
            parent=id_of(key.parent),
            parent_columns=names_of(key.parent, key.parent_columns),
        )

    return msgspec.structs.replace(
        change,
        parent=id_of(change.parent),
        columns=names_of(change.parent, change.columns),
        tables=tuple(
            msgspec.structs.replace(
                targets.get(table.id, table),
                foreign_keys=tuple(key_of(table.id, key) for key in table.foreign_keys or ()),
            )
            for table in change.tables
        ),
        inexact={},
        folded={(id_of(id), name): how for (id, name), how in change.folded.items()},
    )


def _sources(change: Cascade, targets: Mapping[TableId, Table]) -> dict[TableId, Table]:
    """The versions of the tables of the source that take part."""
    found = {table.id: table for table in change.tables}
    parent = targets.get(change.parent)
    for source in () if parent is None else parent.sources:
        if source.id == change.parent:
            found.setdefault(source.id, source)
    return found


def _name(mapping: TableMapping, column: str) -> str:
    """The name of a column on the target. One that the target does not have keeps its own, with a
    mark that no column has.
    """
    place = mapping.places.get(mapping.source.ordinal(column))
    return f"{column}\0" if place is None else mapping.target.columns[place].name


def _check(step: Step, mapping: TableMapping | None) -> None:
    if mapping is None:
        return
    source = mapping.source
    changed = {source.ordinal(name) for name in step.key.columns}
    if mapping.share or not changed.issubset(mapping.places):
        raise _inexact(step, "the target does not have the columns of the foreign key as they are")
    if step.deletes:
        return
    inputs = {n for column in mapping.columns if not column.plain for n in column.inputs}
    if mapping.condition is not None:
        inputs |= mapping.condition.inputs
    if inputs & changed:
        raise _inexact(step, "the mapping computes from the columns that it changes")


def _check_parent(step: Step, mapping: TableMapping | None) -> None:
    """Check that the rows of a table through which the foreign key acts are on the target."""
    if mapping is None:
        return
    referred = {mapping.source.ordinal(name) for name in step.key.parent_columns}
    if mapping.share or mapping.condition is not None or not referred.issubset(mapping.places):
        raise _inexact(step, "it acts through a table of which the target lacks rows or columns")


def _inexact(step: Step, reason: str) -> Exception:
    return unlogged(
        step.child,
        f"rows are deleted or changed by the foreign key {step.key.name}, which the log does not"
        f" show: {reason}",
    )
