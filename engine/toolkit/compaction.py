"""
Reduce the changes that a batch makes to one table to their net changes. Pure.

The changes of a row are followed through the batch by its key, from the key that it has in the
target before the batch (its *origin*) to its last image. The result is a ``NetChanges``: sets of
rows that are applied in a fixed order (deletes, key changes, updates, inserts), each set with one
statement. A row whose key or secondary unique value changes is deleted first and inserted last, so
rows can swap such values. For example, on a table with the key ``id``::

    insert (1, "a")                 deletes     (2, "x")
    update (2, "x") to (3, "x")     updates     (4, "z")
    update (4, "x") to (4, "y")     inserts     (1, "b"), (3, "x")
    update (1, "a") to (1, "b")
    update (4, "y") to (4, "z")

A keyless table is a multiset: the net change of a row is the number of its copies that are added
or removed.

Every row of the stream passes through this module, so each operation per row counts. A batch of
inserts only, of deletes only, or of updates in place only takes a path without a loop in Python.
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
from engine.errors import UnloggedChange
from engine.schema import Table

__all__ = ["NetChanges", "columns_of", "net_changes"]


class NetChanges(msgspec.Struct):
    """The net changes of one table, to be applied in the order of the fields.

    A row is a tuple as wide as the table. A *mask* is a bit mask of the columns whose values are
    known (bit n: column n); it includes the columns of the key. The mask None stands for all
    columns.

    - ``deletes``: images of the rows to delete, identified by their key. In a keyless table each
      entry deletes one row that equals it.
    - ``key_changes``, by mask: rows whose key or secondary unique value changes and whose image
      after is known in part. Each entry is the image before followed by the image after, in one
      tuple twice as wide. Columns outside the mask keep their values.
    - ``updates``, by mask: rows that keep their key and unique values. Columns outside the mask
      keep their values.
    - ``inserts``, by mask: new rows. Columns outside the mask get their defaults.

    ``upsert``: rows may already be there or be gone, so inserts replace rows with the same key, and
    updates and deletes may hit nothing. ``direct``: the inserted rows are most likely new, so a
    sink may try a plain insert before it looks for them. ``anomalies`` counts changes that
    contradict earlier ones of the same batch. ``size`` is that of the changes in bytes.
    """

    table: Table
    upsert: bool
    direct: bool = True
    deletes: list[Row] = msgspec.field(default_factory=list)
    key_changes: dict[int, list[Row]] = msgspec.field(default_factory=dict)
    updates: dict[int | None, list[Row]] = msgspec.field(default_factory=dict)
    inserts: dict[int | None, list[Row]] = msgspec.field(default_factory=dict)
    anomalies: int = 0
    size: int = 0

    def __len__(self) -> int:
        """The number of rows to be written or deleted."""
        groups = (*self.key_changes.values(), *self.updates.values(), *self.inserts.values())
        return len(self.deletes) + sum(map(len, groups))


def net_changes(runs: Sequence[Rows], *, upsert: bool = False) -> list[NetChanges]:
    """Return the net changes of ``runs``, which are in order and of one version of one table.

    ``upsert`` is true until the table is live; rows of op ``read`` imply it. The result has one
    element in most cases. It can have several, to be applied one after the other: in upsert mode
    for partial images whose key changes, and in a keyless table for inserts that leave columns to
    their defaults.

    Raises ApplyError if the log holds only part of the row before a change of a keyless table.
    """
    nets = _net_changes(runs, upsert)
    size = sum(rows.size for rows in runs)
    for net in nets:
        net.size = size
    return nets


def _net_changes(runs: Sequence[Rows], upsert: bool) -> list[NetChanges]:
    table = runs[0].table
    operations = {rows.op for rows in runs}
    upsert = upsert or "read" in operations
    whole = all(rows.after_present is None for rows in runs)
    if not table.key:
        if operations <= {"insert", "read"} or not any(map(_leaves_defaults, runs)):
            return [_multiset(runs, table, upsert)]
        # The log does not hold the defaults of an inserted row, so the row cannot be matched with a
        # later image of it.
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
    """The ordinals of the columns in a mask."""
    width = range(len(table.columns))
    return tuple(width) if mask is None else tuple(n for n in width if mask >> n & 1)


def _joined(lists: Sequence[list[Row] | None]) -> list[Row]:
    if len(lists) == 1:
        return lists[0] or []
    return list(chain.from_iterable(filter(None, lists)))


def _in_place(runs: Sequence[Rows], table: Table) -> list[Row] | None:
    """The last image of each row if these updates of whole rows change no key and no unique value,
    else None. This is by far the most common case, so it uses ``map`` and no loop in Python."""
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


#: A row that the batch has changed:
#: - the origin, an image with the key that the row has in the target; None if it is not there,
#: - the last image,
#: - the mask of the last image's columns that are known,
#: - whether the key or a unique value has changed,
#: - whether the batch has inserted the row.
#: A plain tuple, because a class would cost time for each row.
_Entry = tuple[Row | None, Row, int | None, bool, bool]

_NO_ENTRY: _Entry = (None, (), None, False, False)


class _Fold(ABC):
    """Follows rows by key. The two subclasses differ in what they assume about the target.

    ``entries`` holds the rows by the key that they have now.
    """

    upsert: bool

    def __init__(self, table: Table) -> None:
        self.table = table
        self.width = len(table.columns)
        self.key: Callable[[Row], Any] = itemgetter(*table.key)
        self.key_mask = _mask(table.key)
        self.full_mask = (1 << self.width) - 1
        self.entries: dict[Any, _Entry] = {}
        self.net = NetChanges(table, self.upsert, direct=not self.upsert)
        self.nets: list[NetChanges] = []

    def add(self, rows: Rows) -> None:
        """Add the next run of changes."""
        if rows.op == "delete":
            self.delete(rows.before or [])
        elif rows.op == "update":
            self.update(rows)
        else:
            self.insert(rows.after or [], self.known(rows.after_present))

    def known(self, present: int | None) -> int | None:
        """The mask of an image's columns plus those of the key; None if that is all columns."""
        if present is None or present | self.key_mask == self.full_mask:
            return None
        return present | self.key_mask

    def images(self, rows: Rows) -> tuple[list[Row], list[Row], int | None]:
        """The images before and after, and the mask of those after. A whole image before completes
        a partial one after."""
        before, after = rows.before or [], rows.after or []
        mask = self.known(rows.after_present)
        if mask is not None and rows.before_present is None:
            merge = _merger(self.width, mask)
            return before, [merge(old + new) for old, new in zip(before, after, strict=True)], None
        return before, after, mask

    @abstractmethod
    def insert(self, rows: list[Row], mask: int | None) -> None:
        """Add inserted rows."""

    @abstractmethod
    def update(self, rows: Rows) -> None:
        """Add updated rows."""

    @abstractmethod
    def delete(self, rows: list[Row]) -> None:
        """Add deleted rows."""

    def merged(
        self, row: Row, known: int | None, after: Row, mask: int | None
    ) -> tuple[Row, int | None]:
        """The image and mask of a row after a later image, whose columns in ``mask`` are known."""
        if mask is None:
            return after, None
        merged = _merger(self.width, mask)(row + after)
        return merged, None if known is None else self.known(known | mask)

    def finish(self) -> list[NetChanges]:
        """Return all net changes, in the order in which they must be applied."""
        for entry in self.entries.values():
            self.collect(entry)
        self.entries.clear()
        self.nets.append(self.net)
        return self.nets

    def collect(self, entry: _Entry) -> None:
        """Add the last image of a row to the net changes."""
        net = self.net
        origin, row, mask, key_changed, inserted = entry
        if inserted:
            net.inserts.setdefault(mask, []).append(row)
        elif not key_changed or origin is None:
            net.updates.setdefault(mask, []).append(row)
        elif mask is None:
            net.deletes.append(origin)
            net.inserts.setdefault(None, []).append(row)
        else:
            net.key_changes.setdefault(mask, []).append(origin + row)


class _Strict(_Fold):
    """Assumes that the target is at the state before the batch, so the first image before of a row
    is its origin."""

    upsert = False

    def insert(self, rows: list[Row], mask: int | None) -> None:
        entries, key = self.entries, self.key
        for row in rows:
            this = key(row)
            entry = entries.get(this)
            if entry is None:
                entries[this] = (None, row, mask, False, True)
            else:
                self.net.anomalies += 1
                entries[this] = (entry[0], row, mask, True, entry[4])

    def update(self, rows: Rows) -> None:
        befores, afters, mask = self.images(rows)
        entries, key, unique = self.entries, self.key, self._changeable_uniques(rows, mask)
        for before, after in zip(befores, afters, strict=True):
            old, new = key(before), key(after)
            entry = entries.get(old)
            key_changed = unique is not None and unique(before) != unique(after)
            if old != new:
                key_changed = True
                entries.pop(old, None)
                self._overwrite(new)
            if entry is None:
                entries[new] = (before, after, mask, key_changed, False)
            else:
                origin, row, known, changed_before, inserted = entry
                row, known = self.merged(row, known, after, mask)
                entries[new] = (origin, row, known, key_changed or changed_before, inserted)

    def delete(self, rows: list[Row]) -> None:
        entries, key, deletes = self.entries, self.key, self.net.deletes
        for before in rows:
            entry = entries.pop(key(before), None)
            if entry is None:
                deletes.append(before)
            elif entry[0] is not None:
                deletes.append(entry[0])

    def _overwrite(self, key: Any) -> None:
        """Make room for a row that changes its key to ``key``. A log of a database never needs it,
        so it is counted as an anomaly."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.net.anomalies += 1
            if entry[0] is not None:
                self.net.deletes.append(entry[0])

    def _changeable_uniques(self, rows: Rows, mask: int | None) -> Callable[[Row], Any] | None:
        """A function that returns the secondary unique values of an image; None if these updates
        cannot change any. If the images before lack such a value, each row counts as changed: the
        function is ``id``, which differs between the two images."""
        present = self.full_mask if mask is None else mask
        columns = _unique_columns(self.table) & present & ~self.key_mask
        if not columns:
            return None
        before = rows.before_present
        if before is not None and columns & ~before:
            return id
        return itemgetter(*columns_of(self.table, columns))


class _Upsert(_Fold):
    """Assumes that the target may already show a later state of any row, as in a backfill: every
    key that a row had is deleted, and a whole image replaces the row with its key."""

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
                    self._delete_key(old, before)
                self._replace(new, after, None)
            elif old == new:
                self._change(new, before, after, mask)
            else:
                self._change_key(old, new, before, after, mask)

    def delete(self, rows: list[Row]) -> None:
        for before in rows:
            self._delete_key(self.key(before), before)

    def _forget(self, key: Any) -> None:
        origin, _, _, key_changed, _ = self.entries.pop(key, _NO_ENTRY)
        if key_changed and origin is not None:
            self.net.deletes.append(origin)

    def _delete_key(self, key: Any, before: Row) -> None:
        self._forget(key)
        self.net.deletes.append(before)

    def _replace(self, key: Any, row: Row, mask: int | None) -> None:
        self._forget(key)
        self.entries[key] = (None, row, mask, False, True)

    def _change(self, key: Any, before: Row, after: Row, mask: int) -> None:
        entry = self.entries.get(key)
        if entry is None:
            self.entries[key] = (before, after, mask, False, False)
        else:
            origin, row, known, key_changed, inserted = entry
            row, known = self.merged(row, known, after, mask)
            self.entries[key] = (origin, row, known, key_changed, inserted)

    def _change_key(self, old: Any, new: Any, before: Row, after: Row, mask: int) -> None:
        """Add a partial image whose key changes: the target may show the row at either key. If the
        batch has changed a row at one of them before, those net changes are finished first.

        The result is wrong if the target already shows a later row at the old key, because its
        values would complete the image. So the pipeline restarts the backfill of a table at such a
        change (``engine.pipeline.table_progress``), and no sink gets it for a table in backfill.
        """
        entry = self.entries.get(old)
        if entry is not None and entry[2] is None:
            row, known = self.merged(entry[1], None, after, mask)
            self._delete_key(old, before)
            self._replace(new, row, known)
            return
        if entry is not None or new in self.entries:
            self.finish()
            self.net = NetChanges(self.table, True, direct=False)
        self.entries[new] = (before, after, mask, True, False)

    def collect(self, entry: _Entry) -> None:
        """Add a row; a key change also updates the row that may be at its new key already."""
        super().collect(entry)
        _, row, mask, key_changed, inserted = entry
        if key_changed and mask is not None and not inserted:
            self.net.updates.setdefault(mask, []).append(row)


def _multiset(runs: Sequence[Rows], table: Table, upsert: bool) -> NetChanges:
    """The net changes of a keyless table."""
    net = NetChanges(table, upsert)
    if all(rows.op in ("insert", "read") for rows in runs):
        for rows in runs:
            net.inserts.setdefault(rows.after_present, []).extend(rows.after or ())
        return net
    identity = _identity(table)
    counts: dict[Any, list[Any]] = {}  # identity → [row, copies added]
    for rows in runs:
        for images, step in ((_whole_before(rows), -1), (_whole_after(rows), 1)):
            for row in images:
                counts.setdefault(identity(row), [row, 0])[1] += step
    net.deletes = [row for row, added in counts.values() for _ in range(-added)]
    inserts = [row for row, added in counts.values() for _ in range(added)]
    if inserts:
        net.inserts.setdefault(None, []).extend(inserts)
    return net


def _leaves_defaults(rows: Rows) -> bool:
    return rows.op == "insert" and rows.after_present is not None


def _whole_before(rows: Rows) -> list[Row]:
    if rows.before and rows.before_present is not None:
        raise UnloggedChange(
            "a row of a keyless table changed, and the log holds only part of the row before",
            hint="Set binlog_row_image=FULL on the source, or give the table a primary key.",
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
    """A function that returns a hashable form of a row: the row itself, or its text if the table
    has arrays."""
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
    """A function that merges two joined rows: columns in the mask from the second, others from the
    first."""
    picks = [width + n if mask >> n & 1 else n for n in range(width)]
    if width == 1:
        return lambda joined: (joined[picks[0]],)
    return itemgetter(*picks)
