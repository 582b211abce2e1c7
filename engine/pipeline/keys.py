"""
The keys of a table that is backfilled in place, where source and target may sort them otherwise.

A range of such keys has other rows on each side, so no range tells which rows the source does not
have. A *key twin* has the keys of the rows that the source has: of those that the chunks show, with
the changes of the stream, as any twin. When it has caught up, the rows of the table whose keys it
does not have are removed, and it is dropped (``KeepKeys``). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.change import Row, Rows
from engine.pipeline.columns import twin_id
from engine.schema import Table

__all__ = ["KeyTwin"]


class KeyTwin:
    """The twin with the keys of ``table``."""

    def __init__(self, table: Table) -> None:
        self.twin = msgspec.structs.replace(table.narrowed(()), id=twin_id(table.id))
        self._places = table.ordinals(())

    def changes(self, rows: Rows) -> Iterator[Rows]:
        """What changes in the twin by a change of the table. An image always has the key."""
        before, after = rows.before, rows.after
        if before is not None and after is not None:
            key = self._key
            pairs = ((key(old), key(new)) for old, new in zip(before, after, strict=True))
            moved = [(old, new) for old, new in pairs if old != new]
            if moved:
                yield Rows(self.twin, rows.op, [old for old, _ in moved], [new for _, new in moved])
        else:
            yield Rows(self.twin, rows.op, self._keys(before), self._keys(after))

    def _keys(self, rows: list[Row] | None) -> list[Row] | None:
        return None if rows is None else list(map(self._key, rows))

    def _key(self, row: Row) -> Row:
        return tuple([row[place] for place in self._places])
