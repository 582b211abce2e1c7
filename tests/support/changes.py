"""
Applies changes to tables in memory, for tests of sources.

It is a short and independent reading of `engine.change`.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.change import Begin, Change, Commit, Row, Rows, SchemaChange, Truncate
from engine.schema import Table

__all__ = ["Replica"]


class Replica:
    """Tables by name, each a list of rows. A change that does not fit the rows fails the test, and
    so does one that is not between a Begin and a Commit.
    """

    def __init__(self, tables: Iterable[Table] = ()) -> None:
        self.tables = {table.id: table for table in tables}
        self.rows: dict[str, list[Row]] = {table.id.name: [] for table in self.tables.values()}
        self.transactions: list[str] = []
        self.inside = False

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, Begin):
                assert not self.inside
                self.inside = True
                self.transactions.append(change.transaction)
            elif isinstance(change, Commit):
                assert self.inside
                self.inside = False
            elif isinstance(change, Rows | SchemaChange | Truncate):
                assert self.inside
                self._change(change)
            else:
                assert not self.inside

    def _change(self, change: Rows | SchemaChange | Truncate) -> None:
        if isinstance(change, Truncate):
            self.rows[change.table.id.name] = []
        elif isinstance(change, SchemaChange):
            self._reshape(change)
        else:
            self._rows(change)

    def _rows(self, change: Rows) -> None:
        assert self.tables[change.table.id].names == change.table.names
        rows = self.rows[change.table.id.name]
        before = change.before or [None] * len(change)
        after = change.after or [None] * len(change)
        for old, new in zip(before, after, strict=True):
            found = self._find(change, old) if old is not None else None
            if found is not None:
                rows.remove(found)
            if new is not None:
                rows.append(self._filled(change, found, new))

    def _find(self, change: Rows, old: Row) -> Row:
        """The row with the same key; in a keyless table, a row with the same columns."""
        columns = change.table.key or range(len(change.table.columns))
        for row in self.rows[change.table.id.name]:
            if all(row[at] == old[at] for at in columns):
                return row
        raise AssertionError(f"{change.table.id}: a change of a row that does not exist")

    def _filled(self, change: Rows, found: Row | None, new: Row) -> Row:
        mask = change.after_present
        if mask is None or found is None:
            return new
        return tuple(value if mask >> at & 1 else found[at] for at, value in enumerate(new))

    def _reshape(self, change: SchemaChange) -> None:
        before, after = change.before, change.after
        rows: list[Row] = []
        if before is not None:
            assert self.tables.pop(before.id).names == before.names
            rows = self.rows.pop(before.id.name)
        if after is None:
            return
        if before is not None:
            old = dict(change.renamed)
            news = [old.get(name, name) for name in before.names]
            rows = [
                tuple(dict(zip(news, row, strict=True)).get(name) for name in after.names)
                for row in rows
            ]
        self.tables[after.id] = after
        self.rows[after.id.name] = rows
