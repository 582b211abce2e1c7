"""
The rows of one table in memory, for the memory source and the memory sink.

Rows are applied one by one and in order, without net changes. The code is as simple as the contract
allows, and tests use it as the reference for other sinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.change import DeletePart, DeleteRange, Folding, Row, Rows
from engine.schema import Table
from engine.toolkit.cascades import Step, folded_values, uncertain

__all__ = ["MemoryTable"]


class MemoryTable:
    """The rows of ``table``: by key, or as a multiset if it is keyless."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._keyed: dict[tuple[Any, ...], Row] = {}
        self._multiset: list[Row] = []

    def __iter__(self) -> Iterator[Row]:
        """The rows in key order; those of a keyless table in the order of insertion."""
        if self.table.key:
            return iter([self._keyed[key] for key in sorted(self._keyed)])
        return iter(list(self._multiset))

    def __len__(self) -> int:
        return len(self._keyed) if self.table.key else len(self._multiset)

    def copy(self) -> MemoryTable:
        """Return an independent copy."""
        twin = MemoryTable(self.table)
        twin._keyed, twin._multiset = dict(self._keyed), list(self._multiset)
        return twin

    def clear(self) -> None:
        """Remove all rows."""
        self._keyed.clear()
        self._multiset.clear()

    def delete_part(self, change: DeletePart) -> None:
        """Remove the rows of a part."""
        ordinal = self.table.ordinal(change.part.column)
        for row in [row for row in self if change.part.has(row[ordinal])]:
            if self.table.key:
                del self._keyed[self.key_of(row)]
            else:
                self._multiset.remove(row)

    def delete_range(self, change: DeleteRange) -> None:
        """Remove the rows of a range that are not kept."""
        places = [self.table.ordinal(name) for name in change.columns]
        kept = {self.key_of(row) for row in change.kept}
        after, last = change.range
        for key, row in list(self._keyed.items()):
            value = tuple(row[place] for place in places)
            inside = (after is None or value > after) and (last is None or value <= last)
            share = change.share
            if share is not None:
                inside = inside and share.has(row[self.table.ordinal(share.column)])
            if inside and key not in kept:
                del self._keyed[key]

    def keep_keys(self, twin: MemoryTable) -> None:
        """Remove the rows whose keys the twin does not have."""
        kept = {twin.key_of(row) for row in twin}
        for key in self._keyed.keys() - kept:
            del self._keyed[key]

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        for row in rows:
            self._add(row)

    def fill(self, twin: MemoryTable, names: Sequence[str]) -> None:
        """Take the values of these columns over from the rows of the twin with the same keys."""
        places = [(self.table.ordinal(name), twin.table.ordinal(name)) for name in names]
        for row in twin:
            key = twin.key_of(row)
            if key in self._keyed:
                filled = list(self._keyed[key])
                for place, other in places:
                    filled[place] = row[other]
                self._keyed[key] = tuple(filled)

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """Return the values of the key columns."""
        return tuple(row[ordinal] for ordinal in self.table.key)

    def apply(self, rows: Rows) -> int:
        """Apply changes in order.

        Returns the number of changes that contradict the rows before them: an insert of a row that
        is there, an update or delete of a row that is not. A keyless table takes every insert.
        """
        change = self._apply_keyed if self.table.key else self._apply_keyless
        befores: Sequence[Row | None] = rows.before or [None] * len(rows)
        afters: Sequence[Row | None] = rows.after or [None] * len(rows)
        return sum(
            change(rows, before, after) for before, after in zip(befores, afters, strict=True)
        )

    def refer(
        self, step: Step, values: Mapping[Row, Row | None], foldings: Sequence[Folding | None] = ()
    ) -> list[tuple[Row, Row | None]]:
        """Do what a foreign key does to the rows that refer to ``values``, which became others.

        Returns these rows before and after. Raises UnloggedChange if they are not known.
        """
        known = {folded_values(value, foldings): new for value, new in values.items()}
        place = {self.table.ordinal(name): n for n, name in enumerate(step.key.columns)}
        hit: list[tuple[Row, Row | None]] = []
        for row in self:
            value = folded_values(tuple(row[ordinal] for ordinal in place), foldings)
            if value is None or None in known:
                raise uncertain(step)
            if value not in known or None in value:
                continue
            new = known[value] if step.action == "cascade" else (None,) * len(value)
            changed = None
            if not step.deletes and new is not None:
                changed = tuple(
                    new[place[n]] if n in place else other for n, other in enumerate(row)
                )
            hit.append((row, changed))
        for row, _ in hit:
            if self.table.key:
                del self._keyed[self.key_of(row)]
            else:
                self._multiset.remove(row)
        for _, changed in hit:
            if changed is not None:
                self._add(changed)
        return hit

    def altered(
        self,
        table: Table,
        renamed: Sequence[tuple[str, str]],
        filled: Sequence[tuple[str, str]] = (),
    ) -> MemoryTable:
        """Return the same rows in another version of the table.

        A new column has its value in ``filled``, else NULL.
        """
        old_name = {new: old for old, new in renamed}
        ordinals = {name: ordinal for ordinal, name in enumerate(self.table.names)}
        values = dict(filled)
        places = [
            (ordinals.get(old_name.get(name, name)), values.get(name)) for name in table.names
        ]
        twin = MemoryTable(table)
        for row in self:
            twin._add(tuple(value if place is None else row[place] for place, value in places))
        return twin

    def _add(self, row: Row) -> None:
        if self.table.key:
            self._keyed[self.key_of(row)] = row
        else:
            self._multiset.append(row)

    def _apply_keyed(self, rows: Rows, before: Row | None, after: Row | None) -> bool:
        """Apply one change; return whether it contradicts the rows before it."""
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
        """Remove and return one row that equals the image in its present columns."""
        for place, row in enumerate(self._multiset):
            if _merged(row, image, present) == row:
                return self._multiset.pop(place)
        return None


def _merged(old: Row | None, new: Row, present: int | None) -> Row:
    """Return ``new`` with the columns that are not present taken from ``old``."""
    if present is None or old is None:
        return new
    return tuple(
        value if present >> ordinal & 1 else old[ordinal] for ordinal, value in enumerate(new)
    )
