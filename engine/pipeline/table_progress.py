"""
The progress of each table's backfill, and which changes of the stream it admits. Pure.

S is the position up to which the stream is applied; it is the low watermark of a chunk, whose rows
show at least everything up to S. T is its high watermark, the last position whose changes the rows
may show. The rules follow from S ≤ T:

- Changes to a pending table are dropped, because its first chunk shows them.
- Changes to a table with a key are applied by key while it is backfilled and until the stream has
  passed T. Applying a change that a chunk already shows is harmless, and the table is consistent
  once the stream has passed T.
- A keyless table is read whole at one exact position, and its changes up to there are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from engine.change import (
    Begin,
    Cascade,
    CaughtUp,
    Change,
    Chunk,
    DeletePart,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.checkpoint import Cause, LeftState, TableProgress, TableState
from engine.errors import UnloggedChange
from engine.pipeline.hidden_rows import may_hide_rows, may_hide_values
from engine.pipeline.shown_statements import without_literals
from engine.schema import Part, Table, TableId
from engine.toolkit.cascades import depth_of_cascades, reached
from engine.toolkit.key_order import is_ordered

__all__ = ["ProgressTracker"]

#: The number of tables and indexes that become live in one transaction. Building them takes locks.
CAUGHT_UP_OBJECTS = 500

_BEGINS_ANEW: Final = (
    "the log renames the table, or changes rows that it does not show, while the table is"
    " backfilled in place"
)
#: The changes that are looked at even if all tables are live.
_FOLLOWED = frozenset((SchemaChange, Cascade, UnloggedPart))

Includes = Callable[[str, Begin], bool]
Reached = Callable[[str, str], bool]


class ProgressTracker:
    """The tables that a pipeline follows, at their versions after the last admitted change, with
    the progress of each. ``reads_parts``: a part of a table may be backfilled again.
    ``reads_columns``: whether the new columns of a change may be backfilled alone.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        progress: Mapping[TableId, TableProgress],
        includes: Includes,
        *,
        reads_parts: bool = False,
        reads_columns: Callable[[SchemaChange], bool] = lambda change: False,
        place: Callable[[str], str] = str,
    ) -> None:
        self._reads_parts = reads_parts
        self._reads_columns = reads_columns
        self._place = place
        self._tables = {table.id: table for table in tables}
        self._progress = dict(progress)
        self._includes = includes
        self._begin: Begin | None = None
        self._shared: Mapping[TableId, TableProgress] | None = None
        #: The names in the checkpoint of tables that were renamed since.
        self._stored_ids: dict[TableId, TableId] = {}
        self._pending: list[TableId] | None = None  # ordered by estimate, the largest last
        self._in_backfill = frozenset(
            id for id, progress in self._progress.items() if _is_in_backfill(progress)
        )
        self._unfinished = sum(map(_is_unfinished, self._progress.values()))
        self._live = not self._unfinished
        #: Whether a table that waited to be discovered was dropped. The stream ignores its name.
        self.forgotten = False
        #: The tables whose state has changed. Who logs that empties it.
        self.moved: dict[TableId, None] = {}

    @property
    def tables(self) -> Sequence[Table]:
        """The followed tables."""
        return tuple(self._tables.values())

    @property
    def progress(self) -> Mapping[TableId, TableProgress]:
        """The progress of each table. It is the same object until something changes."""
        if self._shared is None:
            self._shared = dict(self._progress)
        return self._shared

    def committed(self) -> None:
        """The progress is stored."""
        self._stored_ids.clear()

    def stored_id(self, id: TableId) -> TableId:
        """The name in the checkpoint of a table that may have been renamed since."""
        return self._stored_ids.get(id, id)

    @property
    def in_backfill(self) -> frozenset[TableId]:
        """The tables that are backfilling or catching up: their rows may be ahead of the stream."""
        return self._in_backfill

    @property
    def live(self) -> bool:
        """Whether every table is live, so that all changes are admitted unchanged."""
        return self._live

    def next_table(self) -> Table | None:
        """The table to backfill next: the one that is backfilling, else the pending one with the
        largest estimate, but parents before their children. None if there is neither.
        """
        for id in self._in_backfill:
            if self._progress[id].state == "backfilling":
                return self._tables[id]
        pending = self._pending_ids()
        return self._tables[pending[-1]] if pending else None

    @property
    def waiting(self) -> Sequence[TableId]:
        """The pending tables whose shape has to be discovered: they are not followed until then."""
        return tuple(
            id
            for id, it in self._progress.items()
            if it.state == "pending" and id not in self._tables
        )

    @property
    def quarantined(self) -> Sequence[TableId]:
        """The tables that are not followed any more."""
        return tuple(id for id, it in self._progress.items() if it.state == "quarantined")

    @property
    def pending(self) -> Iterator[Table]:
        """The pending tables, those with the smallest estimate first."""
        for id in self._pending_ids():
            if self._progress[id].state == "pending":
                yield self._tables[id]

    def _pending_ids(self) -> list[TableId]:
        """The pending tables by estimate. Entries may be stale, but the last one is pending."""
        if self._pending is None:
            found = [id for id, it in self._progress.items() if self._may_backfill(id, it)]
            depths = depth_of_cascades(self._tables)
            self._pending = sorted(
                found, key=lambda id: (-depths.get(id, 0), self._progress[id].estimate)
            )
        while self._pending and self._progress[self._pending[-1]].state != "pending":
            self._pending.pop()
        return self._pending

    def _may_backfill(self, id: TableId, progress: TableProgress) -> bool:
        return progress.state == "pending" and id in self._tables

    def add(self, table: Table, estimate: int) -> None:
        """Follow one more table, which is pending, or backfilling if that is in place."""
        known = self._progress.get(table.id, TableProgress())
        self._tables[table.id] = table
        state: TableState = "backfilling" if known.in_place else "pending"
        progress = TableProgress(
            *(state, None, 0, estimate, None, known.again, known.cause, None, known.in_place),
            changed_at=known.changed_at,
        )
        self._set(table.id, progress)

    def leave(
        self, id: TableId, cause: Cause, state: LeftState, *, in_place: bool | None = None
    ) -> Table | None:
        """Stop following a table: it waits for its discovery, is quarantined, or excluded.

        ``in_place``: it is backfilled again in place; None: if it was to be. Returns its version up
        to now; None if it was not followed.
        """
        table = self._tables.pop(id, None)
        known = self._progress.get(id, TableProgress())
        progress = TableProgress(
            state,
            rows=0 if state == "pending" else known.rows,
            again=known.again or table is not None,
            cause=cause,
            in_place=state == "pending" and (known.in_place if in_place is None else in_place),
            changed_at=known.changed_at,
        )
        self._set(id, progress)
        return table

    def forget(self, id: TableId) -> None:
        """Forget a table that is not followed and does not exist any more."""
        self._set(id, None)

    def changed(self, times: Mapping[TableId, float]) -> None:
        """Record when the source committed the last changes of tables."""
        for id in times.keys() & self._progress.keys():
            self._set(id, msgspec.structs.replace(self._progress[id], changed_at=times[id]))

    def backfilled(self, chunk: Chunk, reached: Reached) -> None:
        """The rows of ``chunk`` are applied. The next checkpoint records it."""
        progress = self._progress[chunk.table.id]
        high, watermark = progress.high_watermark, str(chunk.high_watermark)
        # Chunks are read at the same time, so an earlier one may show later changes.
        highest = high if high is not None and reached(high, watermark) else watermark
        progress = progress.backfilled(len(chunk.rows), chunk.cursor, highest)
        self._set(chunk.table.id, progress)

    def table(self, id: TableId) -> Table | None:
        """The version of a followed table; None if it is not followed."""
        return self._tables.get(id)

    def restart(self, id: TableId) -> None:
        """The table's rows were rolled back, or are truncated next, so it is pending again; in
        place, it begins anew over the rows that are there. Raises UnloggedChange if only a part or
        columns are backfilled, or if a twin has the keys of a table in place: then all of it has to
        be.
        """
        self._set(id, self._restarted(self._tables[id], self._progress[id]))

    def _restarted(self, table: Table, progress: TableProgress) -> TableProgress:
        reason = progress.reason if progress.part is not None or progress.columns else ""
        if progress.in_place and not is_ordered(table):
            reason = _BEGINS_ANEW
        if reason:
            raise UnloggedChange(reason, table=table.id, position=self._position)
        return progress.restarted()

    @property
    def _position(self) -> object | None:
        return None if self._begin is None else self._begin.position

    def caught_up(self, position: str, reached: Reached) -> list[Change]:
        """Make tables live whose high watermark the stream has passed at ``position``.

        Returns a ``CaughtUp`` for each. Their number is bounded; call again after a commit.
        """
        passed: dict[str, bool] = {}
        changes: list[Change] = []
        objects = 0
        for id in sorted(self._in_backfill):
            progress = self._progress[id]
            if progress.state != "catching_up" or objects >= CAUGHT_UP_OBJECTS:
                continue
            watermark = progress.high_watermark or ""
            if watermark not in passed:
                passed[watermark] = reached(position, watermark)
            if passed[watermark]:
                self._set(id, progress.caught_up())
                changes.append(CaughtUp(self._tables[id]))
                objects += 1 + len(self._tables[id].indexes)
        return changes

    def admit(self, changes: list[Change]) -> list[Change]:
        """The changes that the sink has to apply. Schema changes among them change the tables."""
        if self._live and _FOLLOWED.isdisjoint(map(type, changes)):
            return changes
        admitted: list[Change] = []
        for change in changes:
            if type(change) is Rows or type(change) is Truncate or type(change) is DeletePart:
                if self._live or not self._is_covered(change.table):
                    admitted.append(self._or_restart(change))
            elif type(change) is SchemaChange:
                admitted.extend(self._follow(change))
            elif type(change) is Cascade:
                admitted.extend(self._cascade(change))
            elif type(change) is UnloggedPart:
                if self._is_in_place(change.table.id):
                    self.restart(change.table.id)
                elif not self._is_covered(change.table):
                    admitted.append(self._backfill_part(change))
            else:
                if type(change) is Begin:
                    self._begin = change
                admitted.append(change)
        return admitted

    def _backfill_part(self, change: UnloggedPart) -> UnloggedPart:
        """Begin to backfill a part of a live table, or a larger one if a part of it is backfilled
        already. Returns the change with that part.

        Up to here, the target has all other rows as they are on the source, and it gets each of
        their changes. A row whose key is in the part is read like any other row of a backfill. So
        the key must tell the part. Raises UnloggedChange if it does not, or in other states.
        """
        table, part = change.table, change.part
        known = self._progress.get(table.id, TableProgress("live"))
        by_key = table.ordinal(part.column) in table.key
        position = self._position
        if not (self._reads_parts and by_key and (known.state == "live" or known.part is not None)):
            error = UnloggedChange(change.reason, table=table.id, position=position)
            error.statement = change.statement
            raise error
        if known.part is not None:
            part = part.joined(known.part)
        self._begin_again(table.id, change.reason, change.statement, part=part)
        return msgspec.structs.replace(change, part=part)

    def _begin_again(
        self,
        id: TableId,
        reason: str,
        statement: str,
        *,
        part: Part | None = None,
        columns: tuple[str, ...] = (),
    ) -> None:
        """Begin to backfill a part or columns of a table whose other rows or columns are there."""
        position = self._position
        place = "" if position is None else self._place(str(position))
        cause = Cause(reason, position=place, statement=statement, at=time.time())
        known = self._progress.get(id, TableProgress())
        rows, estimate = (known.rows, 0) if part is not None else (0, known.rows)
        progress = TableProgress(
            *("backfilling", None, rows, estimate, None, True, cause, part, False, columns),
            changed_at=known.changed_at,
        )
        self._set(id, progress)

    def _add_columns(self, change: SchemaChange, before: Table, after: Table) -> SchemaChange:
        """Begin to backfill the new columns of a live table whose values the log does not show.

        Raises UnloggedChange if they cannot be backfilled alone, and in other states.
        """
        statement = without_literals(change.statement)
        state = self._progress.get(before.id, TableProgress("live")).state
        if state != "live" or not self._reads_columns(change):
            error = UnloggedChange(change.reason, table=before.id, position=self._position)
            error.statement = statement
            raise error
        self._tables[after.id] = after
        self._begin_again(after.id, change.reason, statement, columns=change.unlogged)
        return change

    def _or_restart(self, change: Rows | Truncate | DeletePart) -> Change:
        """``change``, or a ``Truncate`` if the table's backfill must start again.

        With partial row images, a row may move from a key that is not backfilled yet to one that
        is: no later chunk shows it, and the image cannot insert it. So it is if a foreign key has
        deleted a row that a chunk shows already with a new parent, and if such a row has moved into
        a part that is deleted here without its key. An image may lack columns that are read alone.
        """
        table, known = change.table, self._progress.get(change.table.id)
        if known is not None and known.columns and may_hide_values(change, known.columns):
            self.restart(table.id)
        if table.key and table.id in self._in_backfill and may_hide_rows(change):
            self.restart(table.id)
            return change if self._is_in_place(table.id) else Truncate(table)
        return change

    def _is_in_place(self, id: TableId) -> bool:
        """Whether a table is backfilled in place: its backfill needs no empty table to begin."""
        return id in self._progress and self._progress[id].in_place

    def _cascade(self, change: Cascade) -> list[Change]:
        """``change`` with the tables that the sink has to change.

        Which rows of a table refer to a deleted one is known only if the table between them is
        live. If it is not, or if the target cannot do what a foreign key does, the table has to be
        backfilled again. And so it has to be if values are changed while it is backfilled: a chunk
        may show already a row that has come to refer to a value in this way, and the deletion of
        rows that referred to it earlier would delete that row.
        """
        doubtful: set[TableId] = set()
        kept: dict[TableId, Table] = {}
        emptied: dict[TableId, Table] = {}
        for parent, step in reached(change):
            table = step.child
            id, live = table.id, self._state(table) == "live"
            if not live:
                doubtful.add(id)
            if self._state(table) is None or id in emptied:
                continue
            reason = change.inexact.get((id, step.key.name), "")
            if self._progress[id].part is not None:
                reason = "a part of the table is backfilled again"
            elif self._progress[id].columns:
                reason = "columns of the table are backfilled"
            if not reason and parent in doubtful:
                reason = f"it acts through the table {parent}, which is not live"
            if reason and (live or parent == id or parent not in doubtful):
                raise step.unlogged(reason, position=self._position, in_backfill=not live)
            if reason or (not live and step.update and step.action == "cascade"):
                emptied[id] = table
                kept.pop(id, None)
            else:
                kept[id] = table
        for id in emptied:
            self.restart(id)
        changes: list[Change] = [
            Truncate(table) for id, table in emptied.items() if not self._is_in_place(id)
        ]
        if kept:
            changes.append(msgspec.structs.replace(change, tables=tuple(kept.values())))
        return changes

    def _state(self, table: Table) -> TableState | None:
        """The state of a table whose rows are on the target; None if they are not, or need not
        change.
        """
        progress = self._progress.get(table.id)
        if progress is None or table.id not in self._tables or self._is_covered(table):
            return None
        return progress.state

    def _is_covered(self, table: Table) -> bool:
        """Whether chunks show, or will show, the current transaction's changes to the table."""
        progress = self._progress.get(table.id)
        if progress is None or progress.state == "live":
            return False
        if progress.state == "pending":
            return True
        if table.key or progress.high_watermark is None or self._begin is None:
            return False
        return self._includes(progress.high_watermark, self._begin)

    def _follow(self, change: SchemaChange) -> list[Change]:
        """Record the new version. Returns ``change``, with what the sink has to do besides.

        Chunks are read by table name and in key order. If either changes during a backfill, it
        starts again, and the rows that it has written are removed first.
        """
        before, after = change.before, change.after
        if before is not None and not self._progress.get(before.id, TableProgress()).followed:
            return []
        if before is not None and after is not None:
            if change.unlogged:
                return [self._add_columns(change, before, after)]
            if before.id in self._progress and self._progress[before.id].columns:
                self.restart(before.id)  # which raises: all columns are read then
        changes: list[Change] = [change]
        progress = TableProgress("live")
        if before is not None:
            self.forgotten |= self._tables.pop(before.id, None) is None
            progress = self._progress.get(before.id, progress)
            self._set(before.id, None)
            stored = self._stored_ids.pop(before.id, before.id)
            if after is not None and after.id != stored:
                self._stored_ids[after.id] = stored
        if after is not None:
            if before is None:
                changes.append(CaughtUp(after))
            elif _is_in_backfill(progress) and _read_order(before) != _read_order(after):
                progress = self._restarted(before, progress)
                if not progress.in_place:
                    changes.insert(0, Truncate(before))
                elif _read_order(before)[1:] != _read_order(after)[1:]:
                    raise UnloggedChange(
                        "the key changes while the table is backfilled in place",
                        table=before.id,
                        position=self._position,
                    )
            self._tables[after.id] = after
            self._set(after.id, progress)
        return changes

    def _set(self, id: TableId, progress: TableProgress | None) -> None:
        """Set a table's progress (None: the table is not followed any more), and update what is
        derived from all tables, at a cost that does not grow with their number.
        """
        before = self._progress.pop(id, None) if progress is None else self._progress.get(id)
        if progress is not None:
            self._progress[id] = progress
        self._shared = None
        if progress is not None and (before is None or before.state != progress.state):
            self.moved[id] = None
        if _is_in_backfill(before) != _is_in_backfill(progress):
            self._in_backfill ^= {id}
        self._unfinished += _is_unfinished(progress) - _is_unfinished(before)
        self._live = not self._unfinished
        if progress is None or progress.state == "pending":
            self._pending = None


def _is_in_backfill(progress: TableProgress | None) -> bool:
    return progress is not None and progress.state in ("backfilling", "catching_up")


def _is_unfinished(progress: TableProgress | None) -> bool:
    return progress is not None and progress.state != "live" and progress.followed


def _read_order(table: Table) -> tuple[object, ...]:
    """What decides which rows a chunk shows: the table's name, and the columns of its key."""
    key = [table.columns[ordinal] for ordinal in table.key]
    return table.id, tuple((column.name, column.source_type) for column in key)
