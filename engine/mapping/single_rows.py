"""
The removal of single rows from the target by their keys on the source. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.change import Row, Rows
from engine.mapping.changes import Mapping
from engine.schema import Table

__all__ = ["deletion", "mapped"]


def mapped(mapping: Mapping, table: Table, rows: Sequence[Row]) -> Sequence[Row]:
    """The target's rows that these rows of the source become."""
    own = mapping.of(table)
    if own is None:
        return rows
    # As deletes, rows are filtered and converted, and no assertion is tested.
    deletes = own.rows(Rows(table, "delete", list(rows), None), mapping.now(table))
    return [row for it in deletes for row in it.before or ()]


def deletion(
    mapping: Mapping, table: Table, keys: Collection[Row], kept: Sequence[Row]
) -> Rows | None:
    """The removal of the target's rows with these keys of ``table``, but for the rows ``kept`` of
    the target. None if there are none.

    ``Mapping.why_not_in_place`` has to be empty: then the target has the values of the key.
    """
    own, target = mapping.of(table), mapping.now(table)
    names = [table.names[ordinal] for ordinal in table.key]
    constant: dict[str, object] = {}
    if own is not None:
        names = [own.columns[own.places[ordinal]].column.name for ordinal in table.key]
        constant = {own.columns[0].column.name: own.share} if own.share else {}
    there = {_key(target, row) for row in kept}
    images = [_image(target, constant | dict(zip(names, key, strict=True))) for key in keys]
    gone = [image for image in images if _key(target, image) not in there]
    present = sum(1 << ordinal for ordinal in target.key)
    return Rows(target, "delete", gone, None, before_present=present) if gone else None


def _key(table: Table, row: Row) -> Row:
    return tuple(row[ordinal] for ordinal in table.key)


def _image(table: Table, values: dict[str, object]) -> Row:
    """The image of a row of which only these values are known."""
    return tuple(values.get(name) for name in table.names)
