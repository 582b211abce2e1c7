"""
Changes after which the chunks of a backfill may not show a row. Pure.
"""

from __future__ import annotations

from operator import itemgetter

from engine.change import DeletePart, Rows, Truncate

__all__ = ["may_hide_rows"]


def may_hide_rows(change: Rows | Truncate | DeletePart) -> bool:
    """Whether rows of a table with a key may be missing after its backfill, if it goes on."""
    if type(change) is DeletePart:
        return change.table.ordinal(change.part.column) not in change.table.key
    if type(change) is Rows and change.after_present is not None:
        return _changes_key(change) or _refers_anew(change)
    return False


def _changes_key(rows: Rows) -> bool:
    key = itemgetter(*rows.table.key)
    return any(
        key(old) != key(new) for old, new in zip(rows.before or (), rows.after or (), strict=False)
    )


def _refers_anew(rows: Rows) -> bool:
    """Whether rows get another parent whose deletion deletes them."""
    names = {
        name
        for key in rows.table.foreign_keys or ()
        if key.on_delete == "cascade"
        for name in key.columns
    }
    places = [rows.table.ordinal(name) for name in names]
    before, after = rows.before_present, rows.after_present
    return any(
        (after is None or after >> n & 1)
        and (
            not (before is None or before >> n & 1)
            or any(
                old[n] != new[n]
                for old, new in zip(rows.before or (), rows.after or (), strict=False)
            )
        )
        for n in places
    )
