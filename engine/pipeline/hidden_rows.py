"""
Changes after which the chunks of a backfill may not show a row, or a value. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import itemgetter

from engine.change import DeletePart, Rows, Truncate

__all__ = ["may_hide_rows", "may_hide_values"]


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


def may_hide_values(change: object, columns: Collection[str]) -> bool:
    """Whether ``change`` may change values of these columns without showing them: an update whose
    image lacks one that the source computes. MariaDB leaves out virtual columns of all images that
    are not full.
    """
    if type(change) is not Rows or change.op != "update" or (mask := change.after_present) is None:
        return False
    places = enumerate(change.table.columns)
    return any(it.generated and it.name in columns and not mask >> n & 1 for n, it in places)
