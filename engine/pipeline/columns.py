"""
New columns whose values the log does not show, which are backfilled alone. Pure.

After such a statement the target has the new columns, with NULL in all rows. A *column twin* has
the key and the new columns; it is backfilled, and takes the stream's changes as any twin. Rows of
the stream come to the table itself without the values of the new columns. When the twin has caught
up, the table gets all of its values in one step (``ReplaceColumns``). So readers of the target see
NULL in these columns, or the source's values, but never both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter

import msgspec

from engine.change import TWIN_PREFIX, Row, Rows, SchemaChange
from engine.schema import Column, Table, TableId

__all__ = ["ColumnTwin", "reads_alone", "twin_id"]


def twin_id(id: TableId) -> TableId:
    """The name of a table's twin on the target."""
    return TableId(id.schema, TWIN_PREFIX + id.name)


def reads_alone(change: SchemaChange) -> bool:
    """Whether it is enough to read the new columns of ``change`` that the log does not show.

    It is if nothing else of the table has changed but plain indexes, rows are told by a key that
    the source does not compute, and no unique index has a new column: values are compared by it
    while they are not there yet.
    """
    before, after = change.before, change.after
    if before is None or after is None or change.renamed:
        return False
    if not (before.key and set(change.computed) <= set(change.unlogged)):
        return False
    old = set(before.names)
    kept = tuple(column for column in after.columns if column.name in old)
    unlogged = {after.ordinal(name) for name in change.unlogged}
    return (
        (before.id, before.columns, before.foreign_keys, before.partitions)
        == (after.id, kept, after.foreign_keys, after.partitions)
        and before.default_charset == after.default_charset
        and _key(before) == _key(after)
        and not any(after.columns[ordinal].generated for ordinal in after.key)
        and all(unlogged.isdisjoint(it.columns) for it in after.indexes if it.unique)
    )


def _key(table: Table) -> list[Column]:
    return [table.columns[ordinal] for ordinal in table.key]


class ColumnTwin:
    """The twin with the new ``columns`` of ``table``, which is the source's version.

    ``table`` is what the target has under the table's own name: the new columns hold NULL.
    """

    def __init__(self, source: Table, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.source = source
        self.table = msgspec.structs.replace(
            source,
            columns=tuple(
                Column(it.name, it.type, it.source_type) if it.name in columns else it
                for it in source.columns
            ),
        )
        kept = source.ordinals(columns)
        self.twin = msgspec.structs.replace(source.narrowed(columns), id=twin_id(source.id))
        self._kept = kept
        self._new = sum(1 << source.ordinal(name) for name in columns)
        absent = len(source.columns)
        self._emptied = itemgetter(
            *(absent if it.name in columns else n for n, it in enumerate(source.columns))
        )
        self._narrow: Callable[[Row], Row] = itemgetter(*kept)

    @classmethod
    def restored(cls, table: Table, twin: Table, columns: tuple[str, ...]) -> ColumnTwin:
        """The same from the tables that the target has."""
        own = {column.name: column for column in twin.columns if column.name in columns}
        versions = tuple(own.get(column.name, column) for column in table.columns)
        return cls(msgspec.structs.replace(table, columns=versions), columns)

    def divided(self, rows: Rows) -> Iterator[Rows]:
        """The changes of the table and of the twin that follow from a change of the source."""
        if rows.op == "read":
            yield msgspec.structs.replace(rows, table=self.twin)
            return
        yield msgspec.structs.replace(
            rows,
            table=self.table,
            before=self._without_values(rows.before),
            after=self._without_values(rows.after),
        )
        # A partial image has the key; one that moves a row does not come here (ProgressTracker).
        mask = rows.after_present
        if rows.op != "update" or mask is None or mask & self._new:
            yield Rows(
                *(self.twin, rows.op, self._narrowed(rows.before), self._narrowed(rows.after)),
                self._narrowed_mask(rows.before_present),
                self._narrowed_mask(mask),
                size=rows.size,
            )

    def _without_values(self, rows: list[Row] | None) -> list[Row] | None:
        emptied, nothing = self._emptied, (None,)
        return None if rows is None else [emptied(row + nothing) for row in rows]

    def _narrowed(self, rows: list[Row] | None) -> list[Row] | None:
        return None if rows is None else list(map(self._narrow, rows))

    def _narrowed_mask(self, mask: int | None) -> int | None:
        if mask is None:
            return None
        return sum(1 << place for place, n in enumerate(self._kept) if mask >> n & 1)
