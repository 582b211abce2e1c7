"""
The net effect of a batch on one table. Pure.

The idea: a row is followed through a batch by its key, from where it stands in the target before
(its *origin*) to its last state. What remains are sets that may be applied in a fixed order
(deletes, moves, updates, inserts), each with one statement. A row that leaves its key or a
secondary unique value is deleted first and inserted last, so values can be swapped between rows.

A table without a key is a bag: what counts is how many times each whole row is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec

from engine.change import Row, Rows
from engine.errors import ApplyError
from engine.schema import Table

__all__ = ["NetChanges", "columns_of", "net_changes"]


class NetChanges(msgspec.Struct):
    """What to do to one table, in this order; rows are whole tuples as wide as the table.

    ``deletes``: images of rows that go; only the key counts (table without a key: the whole row, as
    often as it is listed). ``moves``: by mask, the image before joined to the image after (twice as
    wide), where only the columns of the mask are known of the row after: the row changes its key or
    a unique value and keeps its other columns. ``updates``: by mask, rows that keep key and unique
    values. ``inserts``: by mask, new rows; a column outside the mask has its default.

    A mask is None where all columns are known; else it includes the key's columns.
    In a ``upsert`` net rows may be there already or be gone, and inserts replace. ``direct`` says
    that the inserts are most likely not there, so that they may be tried without looking.
    ``anomalies`` counts changes that contradict earlier ones of the same batch.
    """

    table: Table
    upsert: bool
    direct: bool = True
    deletes: list[Row] = msgspec.field(default_factory=list)
    key_changes: dict[int, list[Row]] = msgspec.field(default_factory=dict)
    updates: dict[int | None, list[Row]] = msgspec.field(default_factory=dict)
    inserts: dict[int | None, list[Row]] = msgspec.field(default_factory=dict)
    anomalies: int = 0

    def __len__(self) -> int:
        """The number of rows to be written or deleted."""
        groups = (*self.key_changes.values(), *self.updates.values(), *self.inserts.values())
        return len(self.deletes) + sum(map(len, groups))


def net_changes(runs: Sequence[Rows], *, upsert: bool = False) -> list[NetChanges]:
    """The net effect of ``runs``, in order, all on the same version of one table.

    ``upsert`` holds for a table whose snapshot is not settled; rows of op ``read`` make it so.
    The result has one element, but for a upsert table with partial images several are possible,
    to be applied one after the other.
    """
    table = runs[0].table
    operations = {rows.op for rows in runs}
    upsert = upsert or "read" in operations
    whole = all(rows.after_present is None for rows in runs)
    if not table.key:
        if operations <= {"insert", "read"} or not any(map(_leaves_defaults, runs)):
            return [_multiset(runs, table, upsert)]
        # A row made of defaults that the log does not name cannot be matched with a later image.
        return [_multiset([rows], table, upsert) for rows in runs]
    if operations == {"read"} or (operations == {"insert"} and not upsert and whole):
        return [NetChanges(table, upsert, inserts={None: _joined([rows.after for rows in runs])})]
    if operations == {"delete"}:
        return [NetChanges(table, upsert, deletes=_joined([rows.before for rows in runs]))]
    if whole and not upsert and operations == {"update"}:
        rows = _in_place(runs, table)
        if rows is not None:
            return [NetChanges(table, upsert, updates={None: rows})]
    fold = _Upsert(table) if upsert else _Strict(table)
    for run in runs:
        fold.add(run)
    return fold.finish()


def columns_of(table: Table, mask: int | None) -> tuple[int, ...]:
    """The ordinals of the columns that a mask stands for."""
    width = range(len(table.columns))
    return tuple(width) if mask is None else tuple(n for n in width if mask >> n & 1)


def _joined(lists: Sequence[list[Row] | None]) -> list[Row]:
    if len(lists) == 1:
        return lists[0] or []
    return list(chain.from_iterable(filter(None, lists)))


def _in_place(runs: Sequence[Rows], table: Table) -> list[Row] | None:
    """The last image of each row, if these updates of whole rows leave all keys and unique values
    as they are; else None. By far the most common case, and never slower than ``map``."""
    befores = _joined([rows.before for rows in runs])
    afters = _joined([rows.after for rows in runs])
    keys = list(map(itemgetter(*table.key), afters))
    if keys != list(map(itemgetter(*table.key), befores)):
        return None
    if columns := columns_of(table, _unique_columns(table)):
        unique = itemgetter(*columns)
        if any(rows.before_present is not None for rows in runs) or (
            list(map(unique, befores)) != list(map(unique, afters))
        ):
            return None
    return list(dict(zip(keys, afters, strict=True)).values())


#: A row that the batch has touched, by its key now: an image with the key it has in the target
#: (None: the batch made it), its last state, the mask of what is known of it, whether it has left
#: its key or a unique value, whether the batch made it. A plain tuple, for its speed.
_Entry = tuple[Row | None, Row, int | None, bool, bool]


_NOTHING: _Entry = (None, (), None, False, False)


class _Fold(ABC):
    """Follows rows by key. The two kinds differ in what they may believe about the target."""

    upsert: bool

    def __init__(self, table: Table) -> None:
        self.table = table
        self.width = len(table.columns)
        self.key: Callable[[Row], Any] = itemgetter(*table.key)
        self.key_mask = _mask(table.key)
        self.full_mask = (1 << self.width) - 1
        self.live: dict[Any, _Entry] = {}
        self.net = NetChanges(table, self.upsert, direct=not self.upsert)
        self.nets: list[NetChanges] = []

    def add(self, rows: Rows) -> None:
        if rows.op == "delete":
            self.delete(rows.before or [])
        elif rows.op == "update":
            self.update(rows)
        else:
            self.insert(rows.after or [], self.known(rows.after_present))

    def known(self, present: int | None) -> int | None:
        """A mask of a row image as one of a row: with the key, None if nothing is absent."""
        if present is None or present | self.key_mask == self.full_mask:
            return None
        return present | self.key_mask

    def images(self, rows: Rows) -> tuple[list[Row], list[Row], int | None]:
        """Before, after, and what is known after; a whole before image completes the after
        image."""
        before, after = rows.before or [], rows.after or []
        mask = self.known(rows.after_present)
        if mask is not None and rows.before_present is None:
            merge = _merger(self.width, mask)
            return before, [merge(old + new) for old, new in zip(before, after, strict=True)], None
        return before, after, mask

    @abstractmethod
    def insert(self, rows: list[Row], mask: int | None) -> None:
        """New rows, of which the columns of ``mask`` are known."""

    @abstractmethod
    def update(self, rows: Rows) -> None:
        """Rows before and after."""

    @abstractmethod
    def delete(self, rows: list[Row]) -> None:
        """Rows that go."""

    def merged(
        self, row: Row, known: int | None, after: Row, mask: int | None
    ) -> tuple[Row, int | None]:
        """The state of a row after a later image that knows only ``mask`` of it."""
        if mask is None:
            return after, None
        merged = _merger(self.width, mask)(row + after)
        return merged, None if known is None else self.known(known | mask)

    def finish(self) -> list[NetChanges]:
        """All nets, in the order in which they must be applied."""
        for entry in self.live.values():
            self.settle(entry)
        self.live.clear()
        self.nets.append(self.net)
        return self.nets

    def settle(self, entry: _Entry) -> None:
        """Add a row's last state to the net."""
        net = self.net
        origin, row, mask, moved, created = entry
        if created:
            net.inserts.setdefault(mask, []).append(row)
        elif not moved or origin is None:
            net.updates.setdefault(mask, []).append(row)
        elif mask is None:
            net.deletes.append(origin)
            net.inserts.setdefault(None, []).append(row)
        else:
            net.key_changes.setdefault(mask, []).append(origin + row)


class _Strict(_Fold):
    """The target is what the log says: a row is where its first before image puts it."""

    upsert = False

    def insert(self, rows: list[Row], mask: int | None) -> None:
        live, key = self.live, self.key
        for row in rows:
            this = key(row)
            there = live.get(this)
            if there is None:
                live[this] = (None, row, mask, False, True)
            else:
                self.net.anomalies += 1
                live[this] = (there[0], row, mask, True, there[4])

    def update(self, rows: Rows) -> None:
        befores, afters, mask = self.images(rows)
        live, key, moves = self.live, self.key, self._moves(rows, mask)
        for before, after in zip(befores, afters, strict=True):
            old, new = key(before), key(after)
            entry = live.get(old)
            moved = moves is not None and moves(before) != moves(after)
            if old != new:
                moved = True
                live.pop(old, None)
                self._overwrite(new)
            if entry is None:
                live[new] = (before, after, mask, moved, False)
            else:
                origin, row, known, moved_before, created = entry
                row, known = self.merged(row, known, after, mask)
                live[new] = (origin, row, known, moved or moved_before, created)

    def delete(self, rows: list[Row]) -> None:
        live, key, deletes = self.live, self.key, self.net.deletes
        for before in rows:
            entry = live.pop(key(before), None)
            if entry is None:
                deletes.append(before)
            elif entry[0] is not None:
                deletes.append(entry[0])

    def _overwrite(self, key: Any) -> None:
        """A row takes a key: nothing has it, in a history that a database could have produced."""
        there = self.live.pop(key, None)
        if there is not None:
            self.net.anomalies += 1
            if there[0] is not None:
                self.net.deletes.append(there[0])

    def _moves(self, rows: Rows, mask: int | None) -> Callable[[Row], Any] | None:
        """What differs between before and after if a secondary unique value changes; None: nothing
        can. Where the image before lacks such a value, everything differs."""
        present = self.full_mask if mask is None else mask
        columns = _unique_columns(self.table) & present & ~self.key_mask
        if not columns:
            return None
        before = rows.before_present
        if before is not None and columns & ~before:
            return id
        return itemgetter(*columns_of(self.table, columns))


class _Upsert(_Fold):
    """The target may show any later state of a row: every key that a row leaves is deleted, and
    what is known whole replaces what is there."""

    upsert = True

    def insert(self, rows: list[Row], mask: int | None) -> None:
        for row in rows:
            self._replace(self.key(row), row, mask)

    def update(self, rows: Rows) -> None:
        befores, afters, mask = self.images(rows)
        key = self.key
        for before, after in zip(befores, afters, strict=True):
            old, new = key(before), key(after)
            if mask is None:
                if old != new:
                    self._leave(old, before)
                self._replace(new, after, None)
            elif old == new:
                self._change(new, before, after, mask)
            else:
                self._change_key(old, new, before, after, mask)

    def delete(self, rows: list[Row]) -> None:
        for before in rows:
            self._leave(self.key(before), before)

    def _forget(self, key: Any) -> None:
        origin, _, _, moved, _ = self.live.pop(key, _NOTHING)
        if moved and origin is not None:
            self.net.deletes.append(origin)

    def _leave(self, key: Any, before: Row) -> None:
        self._forget(key)
        self.net.deletes.append(before)

    def _replace(self, key: Any, row: Row, mask: int | None) -> None:
        self._forget(key)
        self.live[key] = (None, row, mask, False, True)

    def _change(self, key: Any, before: Row, after: Row, mask: int) -> None:
        entry = self.live.get(key)
        if entry is None:
            self.live[key] = (before, after, mask, False, False)
        else:
            origin, row, known, moved, created = entry
            row, known = self.merged(row, known, after, mask)
            self.live[key] = (origin, row, known, moved, created)

    def _change_key(self, old: Any, new: Any, before: Row, after: Row, mask: int) -> None:
        """A row that is not known whole leaves its key: the target may show it at either. If the
        batch has touched it before, that comes first, in a net of its own."""
        entry = self.live.get(old)
        if entry is not None and entry[2] is None:
            row, known = self.merged(entry[1], None, after, mask)
            self._leave(old, before)
            self._replace(new, row, known)
            return
        if entry is not None or new in self.live:
            self.finish()
            self.net = NetChanges(self.table, True, direct=False)
        self.live[new] = (before, after, mask, True, False)

    def settle(self, entry: _Entry) -> None:
        super().settle(entry)
        _, row, mask, moved, created = entry
        if moved and mask is not None and not created:
            self.net.updates.setdefault(mask, []).append(row)


def _multiset(runs: Sequence[Rows], table: Table, upsert: bool) -> NetChanges:
    """The net effect on a table without a key, as counts of equal rows."""
    net = NetChanges(table, upsert)
    if all(rows.op in ("insert", "read") for rows in runs):
        for rows in runs:
            net.inserts.setdefault(rows.after_present, []).extend(rows.after or ())
        return net
    identity = _identity(table)
    counts: dict[Any, list[Any]] = {}  # identity → [row, how many more of it]
    for rows in runs:
        for images, step in ((_whole_before(rows), -1), (_whole_after(rows), 1)):
            for row in images:
                counts.setdefault(identity(row), [row, 0])[1] += step
    net.deletes = [row for row, more in counts.values() for _ in range(-more)]
    inserts = [row for row, more in counts.values() for _ in range(more)]
    if inserts:
        net.inserts.setdefault(None, []).extend(inserts)
    return net


def _leaves_defaults(rows: Rows) -> bool:
    return rows.op == "insert" and rows.after_present is not None


def _whole_before(rows: Rows) -> list[Row]:
    if rows.before and rows.before_present is not None:
        raise ApplyError(
            "a row of a table without a key changed, and the log holds only part of the row before",
            hint="Set binlog_row_image=FULL on the source (or give the table a primary key), then"
            " copy the table again.",
            table=rows.table.id,
        )
    return rows.before or []


def _whole_after(rows: Rows) -> list[Row]:
    after = rows.after or []
    if rows.after_present is None or rows.before is None:
        return after
    merge = _merger(len(rows.table.columns), rows.after_present)
    return [merge(old + new) for old, new in zip(rows.before, after, strict=True)]


def _identity(table: Table) -> Callable[[Row], Any]:
    """A hashable form of a row: the row itself, but for arrays."""
    if any(column.type.kind == "array" for column in table.columns):
        return repr
    return tuple


def _mask(ordinals: Sequence[int]) -> int:
    return sum(1 << ordinal for ordinal in set(ordinals))


@lru_cache(maxsize=1024)
def _unique_columns(table: Table) -> int:
    return _mask([ordinal for index in table.uniques for ordinal in index.columns])


@lru_cache(maxsize=1024)
def _merger(width: int, mask: int) -> Callable[[Row], Row]:
    """Two joined rows → one row: the second's columns where the mask has them, else the first's."""
    picks = [width + n if mask >> n & 1 else n for n in range(width)]
    if width == 1:
        return lambda joined: (joined[picks[0]],)
    return itemgetter(*picks)
