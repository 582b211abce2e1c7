"""
A schema change of the source in the columns of the target. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from engine.change import SchemaChange
from engine.errors import UnloggedChange
from engine.mapping.table import TableMapping, own_id
from engine.remedies import BACKFILL
from engine.schema import Table

__all__ = ["translated", "unlogged"]


def unlogged(table: Table, reason: str) -> UnloggedChange:
    """The error of a change after which a table has to be backfilled again."""
    return UnloggedChange(reason, hint=BACKFILL, table=own_id(table.id))


def translated(
    change: SchemaChange, before: TableMapping, after: TableMapping, old: Table
) -> SchemaChange:
    """A schema change in the columns of the target. Raises UnloggedChange if values change that are
    computed from others.
    """
    names = dict(change.renamed)
    old_columns = {names.get(it.name, it.name): it for it in before.source.columns}

    def same(ordinals: Collection[int]) -> bool:
        """Whether the columns with these ordinals have the same values as before."""
        for ordinal in ordinals:
            column = after.source.columns[ordinal]
            known = old_columns.get(column.name)
            if column.name in change.computed:
                return False
            if known is None or (known.type, known.source_type) != (
                column.type,
                column.source_type,
            ):
                return False
        return True

    computed = [column for column in after.columns if not column.plain]
    had = {column.column.name for column in before.columns if not column.plain}
    for column in computed:
        if column.column.name not in had or not same(column.inputs):
            raise unlogged(
                before.source, f"the column {column.column.name} is computed, and has other values"
            )
    if after.condition is not None and not same(after.condition.inputs):
        raise unlogged(before.source, "where has a column that was changed")
    return msgspec.structs.replace(
        change,
        before=old,
        after=after.target,
        renamed=_renamed(before, after, names),
        filled=_filled(change, after),
        computed=_generated(change, after),
    )


def _generated(change: SchemaChange, after: TableMapping) -> tuple[str, ...]:
    """The names that generated columns whose values are new have on the target."""
    places = [after.places.get(after.source.ordinal(name)) for name in change.computed]
    return tuple(after.target.columns[place].name for place in places if place is not None)


def _renamed(
    before: TableMapping, after: TableMapping, names: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """The columns of the target that the change renames."""
    sources = {name: ordinal for ordinal, name in enumerate(after.source.names)}
    found = []
    for ordinal, place in before.places.items():
        name = before.source.columns[ordinal].name
        now = after.places.get(sources.get(names.get(name, name), -1))
        if now is not None:
            pair = before.target.columns[place].name, after.target.columns[now].name
            if pair[0] != pair[1]:
                found.append(pair)
    return tuple(found)


def _filled(change: SchemaChange, after: TableMapping) -> tuple[tuple[str, str], ...]:
    """The values that existing rows get in new columns of the target."""
    found = []
    for name, value in change.filled:
        place = after.places.get(after.source.ordinal(name))
        if place is not None:
            found.append((after.target.columns[place].name, value))
    return tuple(found)
