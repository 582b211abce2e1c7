"""
The rows of one table in memory: what the source and the sink in memory keep.

The idea: the plainest reading of the contract. Rows are applied one by one, in order, with no net
effect and no sets, so what a real sink must arrive at can be read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.change import Row, Rows
from engine.schema import Table

__all__ = ["MemoryTable"]


class MemoryTable:
    """The rows of ``table``: by key, or as a bag if it has none."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._keyed: dict[tuple[Any, ...], Row] = {}
        self._multiset: list[Row] = []

    def __iter__(self) -> Iterator[Row]:
        """The rows in key order; those of a bag in the order in which they came."""
        if self.table.key:
            return iter([self._keyed[key] for key in sorted(self._keyed)])
        return iter(list(self._multiset))

    def __len__(self) -> int:
        return len(self._keyed) if self.table.key else len(self._multiset)

    def copy(self) -> MemoryTable:
        """The same rows, to be changed apart."""
        twin = MemoryTable(self.table)
        twin._keyed, twin._multiset = dict(self._keyed), list(self._multiset)
        return twin

    def clear(self) -> None:
        """Remove all rows."""
        self._keyed.clear()
        self._multiset.clear()

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """The values of the key."""
        return tuple(row[ordinal] for ordinal in self.table.key)

    def apply(self, rows: Rows) -> int:
        """Apply changes in order; returns how many met another row than they expected."""
        change = self._apply_keyed if self.table.key else self._apply_keyless
        befores: Sequence[Row | None] = rows.before or [None] * len(rows)
        afters: Sequence[Row | None] = rows.after or [None] * len(rows)
        return sum(
            change(rows, before, after) for before, after in zip(befores, afters, strict=True)
        )

    def altered(self, table: Table, renamed: Sequence[tuple[str, str]]) -> MemoryTable:
        """The same rows in another version of the table; a new column is null."""
        old_name = {new: old for old, new in renamed}
        ordinals = {name: ordinal for ordinal, name in enumerate(self.table.names)}
        places = [ordinals.get(old_name.get(name, name)) for name in table.names]
        twin = MemoryTable(table)
        for row in self:
            twin._add(tuple(None if place is None else row[place] for place in places))
        return twin

    def _add(self, row: Row) -> None:
        if self.table.key:
            self._keyed[self.key_of(row)] = row
        else:
            self._multiset.append(row)

    def _apply_keyed(self, rows: Rows, before: Row | None, after: Row | None) -> bool:
        """Apply one change; whether it contradicts what was there."""
        old = None
        if before is not None:
            old = self._keyed.pop(self.key_of(before), None)
            unexpected = old is None
        else:
            assert after is not None
            unexpected = rows.op == "insert" and self.key_of(after) in self._keyed
        partial = rows.after_present is not None and rows.op == "update"
        if after is not None and not (partial and old is None):
            self._add(_merged(old, after, rows.after_present))
        return unexpected

    def _apply_keyless(self, rows: Rows, before: Row | None, after: Row | None) -> bool:
        old = None
        if before is not None:
            old = self._take(before, rows.before_present)
            if old is None:
                return True
        if after is not None:
            self._multiset.append(_merged(old, after, rows.after_present))
        return False

    def _take(self, image: Row, present: int | None) -> Row | None:
        """Remove one row that equals the image, as far as it is known."""
        for place, row in enumerate(self._multiset):
            if _merged(row, image, present) == row:
                return self._multiset.pop(place)
        return None


def _merged(old: Row | None, new: Row, present: int | None) -> Row:
    """``new``, with the columns that the log did not hold taken from ``old``."""
    if present is None or old is None:
        return new
    return tuple(
        value if present >> ordinal & 1 else old[ordinal] for ordinal, value in enumerate(new)
    )
