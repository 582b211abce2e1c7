"""
The rows inside and outside of a part of a table. Pure.

A part of a table is backfilled again into a twin that has the rows of this part only, while the
table itself has all others. So each change belongs to one of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, repeat

from engine.change import Row, Rows
from engine.schema import Part

__all__ = ["divided"]


def divided(rows: Rows, part: Part) -> Iterator[tuple[bool, Rows]]:
    """The same changes in order, and whether they are inside of the part.

    An update that moves a row into or out of the part becomes a delete and an insert. Its image is
    whole: with a partial one, the tracker does not let it come here.
    """
    table, op, ordinal = rows.table, rows.op, rows.table.ordinal(part.column)

    def inside(pair: tuple[Row | None, Row | None]) -> tuple[bool | None, bool | None]:
        old, new = (None if row is None else part.has(row[ordinal]) for row in pair)
        return old, new

    none = repeat(None)
    pairs = zip(
        none if rows.before is None else rows.before,
        none if rows.after is None else rows.after,
        strict=False,
    )
    for (old, new), group in groupby(pairs, inside):
        run = list(group)
        before = [row for row, _ in run if row is not None] if old is not None else None
        after = [row for _, row in run if row is not None] if new is not None else None
        if old is not None and new is not None and old != new:
            yield old, Rows(table, "delete", before, None, rows.before_present)
            yield new, Rows(table, "insert", None, after, None, rows.after_present)
        else:
            changes = Rows(table, op, before, after, rows.before_present, rows.after_present)
            yield bool(old or new), changes
