"""
The tables that are backfilled again: their changes go to a twin. Pure.

After a change that the log does not show exactly, the target's rows of a table are wrong, and stay
readable until better ones are there. The table is backfilled into a *twin*, a table of another
name. When the twin has caught up it replaces the old table in one step (``Replace``). Readers of
the target never see half a table.

If only a part of a table is backfilled again, the twin has the rows of that part, and takes their
place in the end (``ReplacePart``). The other rows stay in the table, with all their changes.

If only new columns are backfilled, the twin has the key and these columns, and the table gets their
values in the end (``ColumnTwin``).

A table that is backfilled again in place has no such twin: its new rows take the place of the old
ones (``InPlace``). Rows that the source does not have are removed by ranges of the key
(``DeleteRange``), or by a twin with all keys (``KeyTwin``).

The source and the tracker know one table under its own name; only the target has two. ``Twins``
passes every change on its way to the sink and puts the twin in the table's place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from engine.change import (
    TWIN_PREFIX,
    Cascade,
    CaughtUp,
    Change,
    DeletePart,
    InPlace,
    KeepKeys,
    Replace,
    ReplaceColumns,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.checkpoint import TableProgress
from engine.contract import Applied
from engine.errors import TailraceError, UnloggedChange
from engine.pipeline.columns import ColumnTwin, twin_id
from engine.pipeline.keys import KeyTwin
from engine.pipeline.parts import divided
from engine.pipeline.shown_statements import locate
from engine.schema import Part, Table, TableId
from engine.toolkit.key_order import is_ordered

__all__ = ["Twins", "current_tables", "own_name"]

#: The changes that may make a twin.
_MAKING = frozenset((SchemaChange, UnloggedPart))


def current_tables(
    stored: Iterable[Table], progress: Mapping[TableId, TableProgress]
) -> tuple[Table, ...]:
    """The tables of which the target has the rows of now: without the twins, the tables that they
    are to replace, and tables that are not followed.
    """
    left = {id for id, it in progress.items() if it.again or not it.followed}
    left |= {twin_id(id) for id in left}
    return tuple(table for table in stored if table.id not in left)


class Twins:
    """The twins on the target, and the tables that they are to replace.

    ``stored`` are the table versions of the sink's ``State``, and ``progress`` that of its
    checkpoint.
    """

    def __init__(self, stored: Iterable[Table], progress: Mapping[TableId, TableProgress]) -> None:
        tables = {table.id: table for table in stored}
        #: Tables of the target that are not followed under their own name.
        self._old: dict[TableId, Table] = {}
        #: The twin of each table that has one, by the table's id.
        self._twins: dict[TableId, Table] = {}
        #: The part of the table that a twin has, if it is not the whole table.
        self._parts: dict[TableId, Part] = {}
        #: The new columns of the table that a twin has, if it has only these.
        self._columns: dict[TableId, ColumnTwin] = {}
        #: The keys of the tables that are backfilled again in place, but not by ranges.
        self._keys: dict[TableId, KeyTwin] = {}
        #: The tables of ``_old`` that are backfilled again in place.
        self._in_place: set[TableId] = set()
        for id, it in progress.items():
            if it.part is not None:
                self._twins[id] = tables.pop(twin_id(id))
                self._parts[id] = it.part
            elif it.columns:
                self._twins[id] = tables.pop(twin_id(id))
                added = ColumnTwin.restored(tables[id], self._twins[id], it.columns)
                self._columns[id], tables[id] = added, added.source
            elif it.in_place and it.state != "pending":
                if tables.pop(twin_id(id), None) is not None:
                    self._keys[id] = KeyTwin(tables[id])
            elif it.again or not it.followed:
                if it.in_place:
                    self._in_place.add(id)
                twin = tables.pop(twin_id(id), None)
                if id in tables:
                    self._old[id] = tables.pop(id)
                if twin is not None:
                    self._twins[id] = twin
                    tables[id] = msgspec.structs.replace(twin, id=id)
        #: The tables that are followed, each under its own name.
        self.followed = tuple(tables.values())

    def leave(self, table: Table) -> list[Change]:
        """Stop following ``table``. The target keeps its rows, and loses an unfinished twin.

        The changes are to be applied as they are, without ``targets``.
        """
        if (keys := self._keys.pop(table.id, None)) is not None:
            self._old[table.id] = table
            return [SchemaChange("", keys.twin, None)]
        twin = self._twins.pop(table.id, None)
        if (added := self._columns.pop(table.id, None)) is not None:
            self._old[table.id] = added.table
        elif twin is None or self._parts.pop(table.id, None) is not None:
            self._old[table.id] = table
        return [] if twin is None else [SchemaChange("", twin, None)]

    def set_in_place(self, id: TableId, in_place: bool) -> None:
        """Say whether a table that was left is followed again with its rows, not by a twin."""
        (self._in_place.add if in_place else self._in_place.discard)(id)

    def left(self, id: TableId) -> Table | None:
        """The version of the table that the target has, if it is not followed."""
        return self._old.get(id)

    @property
    def divided(self) -> frozenset[TableId]:
        """The tables of which a twin has a part or new columns. The rest is that of the log."""
        return frozenset(self._parts) | frozenset(self._columns)

    def target_ids(self, ids: Collection[TableId]) -> Collection[TableId]:
        """The names on the target of what is backfilled of these tables."""
        if not (self._twins or self._keys):
            return ids
        names = {twin_id(id) if id in self._twins else id for id in ids}
        return names | {twin_id(id) for id in self._keys.keys() & ids}

    def outdated(self, tables: Mapping[TableId, str]) -> dict[TableId, str]:
        """The followed tables among these of the target, by their own names."""
        return {
            table.id: tables[target]
            for table in self.followed
            for target in (*self.target_ids([table.id]), *(self.divided & {table.id}))
            if target in tables
        }

    def found(self, applied: Applied) -> Applied:
        """What the sink found, by the tables' own names."""
        if not (self._twins or self._keys):
            return applied
        replaced: dict[tuple[TableId, str, str], int] = {}
        for (id, column, reason), count in applied.replaced.items():
            place = (_own_id(id), column, reason)
            if id == place[0] or place[0] not in self._keys:  # the table itself has the key, too
                replaced[place] = replaced.get(place, 0) + count
        return Applied(applied.drift, replaced)

    def own_error(self, error: UnloggedChange) -> UnloggedChange:
        """The error of the sink, with the table's own name."""
        return error.about(_own_id(error.id))

    @contextmanager
    def own_errors(self, changes: Sequence[Change]) -> Iterator[None]:
        """A block whose errors get the table's own name, and the place of ``changes``."""
        try:
            yield
        except UnloggedChange as error:
            own = self.own_error(error)
            locate(own, changes)
            raise own from error
        except TailraceError as error:
            error.table = own_name(error.table)
            locate(error, changes)
            raise

    def targets(self, changes: Sequence[Change]) -> Sequence[Change]:
        """The same changes, with a twin in the place of a table that has one."""
        if not (self._twins or self._keys) and _MAKING.isdisjoint(map(type, changes)):
            return changes
        return [target for change in changes for target in self._targets(change)]

    def _targets(self, change: Change) -> Iterator[Change]:
        match change:
            case Rows(table=table) if table.id in self._columns:
                yield from self._columns[table.id].divided(change)
            case Rows(table=table) if table.id in self._twins:
                if table.id not in self._parts or change.op == "read":
                    yield self._to_twin(change)
                    return
                for inside, rows in divided(change, self._parts[table.id]):
                    yield self._to_twin(rows) if inside else rows
            case Truncate(table) | DeletePart(table) if table.id in self._twins:
                if table.id in self._columns:
                    yield msgspec.structs.replace(change, table=self._columns[table.id].table)
                elif table.id in self._parts:
                    yield change
                yield msgspec.structs.replace(change, table=self._twins[table.id])
            case Rows(table=table) if table.id in self._keys:
                yield change
                yield from self._keys[table.id].changes(change)
            case Truncate(table) | DeletePart(table) if table.id in self._keys:
                yield change
                yield msgspec.structs.replace(change, table=self._keys[table.id].twin)
            case CaughtUp(table) if table.id in self._keys:
                twin = self._keys.pop(table.id).twin
                yield KeepKeys(table, twin)
                yield SchemaChange("", twin, None)
                yield change
            case UnloggedPart(table, part):
                if table.id in self._parts:
                    yield SchemaChange("", self._twins[table.id], None)
                self._parts[table.id] = part
                twin = self._twins[table.id] = _twin(table)
                yield SchemaChange("", None, twin)
            case Cascade(tables=tables):
                twins = tuple(self._twins.get(table.id, table) for table in tables)
                folded = {
                    (self._twins[id].id if id in self._twins else id, key): how
                    for (id, key), how in change.folded.items()
                }
                yield msgspec.structs.replace(change, tables=twins, folded=folded)
            case CaughtUp(table) if table.id in self._twins:
                twin = self._twins.pop(table.id)
                if (added := self._columns.pop(table.id, None)) is not None:
                    yield ReplaceColumns(added.table, twin, table, added.columns)
                    return
                if table.id in self._parts:
                    yield ReplacePart(table, twin, self._parts.pop(table.id))
                    return
                yield CaughtUp(twin)
                yield Replace(self._old.pop(table.id), twin, table)
            case SchemaChange():
                yield from self._follow(change)
            case _:
                yield change

    def _to_twin(self, rows: Rows) -> Rows:
        return Rows(
            *(self._twins[rows.table.id], rows.op, rows.before, rows.after),
            rows.before_present,
            rows.after_present,
            rows.size,
        )

    def _follow(self, change: SchemaChange) -> Iterator[Change]:
        """Create, alter, rename or drop the twin instead of its table. A twin with columns is only
        created or dropped (``ProgressTracker``).
        """
        before, after = change.before, change.after
        if after is not None and change.unlogged:
            added = self._columns[after.id] = ColumnTwin(after, change.unlogged)
            self._twins[after.id] = added.twin
            yield SchemaChange(change.statement, before, added.table, filled=change.filled)
            yield SchemaChange("", None, added.twin)
            return
        if before is None:
            if after is not None and after.id in self._in_place and after.id in self._old:
                self._in_place.discard(after.id)
                yield InPlace(self._old.pop(after.id), after)
                if not is_ordered(after):
                    keys = self._keys[after.id] = KeyTwin(after)
                    yield SchemaChange("", None, keys.twin)
            elif after is not None and after.id in self._old:
                twin = self._twins[after.id] = _twin(after)
                yield SchemaChange(change.statement, None, twin)
            else:
                yield change
            return
        if (of_keys := self._keys.pop(before.id, None)) is not None:
            yield change
            if after is None:
                yield SchemaChange("", of_keys.twin, None)
            else:  # a change of the key or of the name makes the backfill start again
                self._keys[after.id] = KeyTwin(after)
            return
        twin_before = self._twins.pop(before.id, None)
        if twin_before is None and before.id in self._old:
            yield SchemaChange(change.statement, self._old.pop(before.id), None)
            return
        if twin_before is None:
            if before.columns:
                yield change
            return
        if (dropped := self._columns.pop(before.id, None)) is not None:
            yield SchemaChange(change.statement, dropped.table, None)
            yield SchemaChange(change.statement, twin_before, None)
            return
        part = self._parts.pop(before.id, None)
        if part is not None:
            yield change
        if after is None:
            if part is None:
                yield SchemaChange(change.statement, self._old.pop(before.id), None)
            yield SchemaChange(change.statement, twin_before, None)
            return
        if part is not None:
            self._parts[after.id] = part
        elif after.id != before.id:
            old = self._old.pop(before.id)
            renamed = self._old[after.id] = msgspec.structs.replace(old, id=after.id)
            yield SchemaChange(change.statement, old, renamed)
        twin_after = self._twins[after.id] = _twin(after)
        yield msgspec.structs.replace(change, before=twin_before, after=twin_after)


def own_name(table: str | None) -> str | None:
    """The name of a table in an error of the sink: its own one, if it is a twin's."""
    return None if table is None else table.replace(f".{TWIN_PREFIX}", ".", 1)


def _own_id(id: TableId) -> TableId:
    return TableId(id.schema, id.name.removeprefix(TWIN_PREFIX))


def _twin(table: Table) -> Table:
    return msgspec.structs.replace(table, id=twin_id(table.id))
