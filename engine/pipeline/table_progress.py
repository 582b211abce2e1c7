"""
Which part of each table has been copied, and what that means for the changes of the stream. Pure.

A chunk is read at some position T, not before S, the position up to which the stream is applied.
So:

- changes to a table whose copy has not begun are dropped: its first chunk will show them;
- changes to a table with a key that is being copied are applied again on top of what a chunk may
  already show; they are idempotent by key, and right once the stream has passed T;
- a table without a key is copied at one exact position, and the changes up to it are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

from engine.change import Begin, CaughtUp, Change, Chunk, Rows, SchemaChange, Truncate
from engine.checkpoint import TableProgress
from engine.schema import Table, TableId

__all__ = ["ProgressTracker"]

#: So many tables and indexes become live in one transaction, since building them takes locks.
CAUGHT_UP_OBJECTS = 500

Includes = Callable[[str, Begin], bool]
Reached = Callable[[str, str], bool]


class ProgressTracker:
    """The tables a pipeline follows, at the version of the last applied change, and how far each
    one's copy is."""

    def __init__(
        self, tables: Iterable[Table], progress: Mapping[TableId, TableProgress], includes: Includes
    ) -> None:
        self._tables = {table.id: table for table in tables}
        self._progress = dict(progress)
        self._includes = includes
        self._begin: Begin | None = None
        self._shown: Mapping[TableId, TableProgress] | None = None
        self._waiting: list[TableId] | None = None  # pending ones, the largest last
        moving = (id for id, progress in self._progress.items() if _in_motion(progress))
        self._settling = frozenset(moving)
        self._unfinished = sum(map(_unfinished, self._progress.values()))
        self._live = not self._unfinished

    @property
    def tables(self) -> Sequence[Table]:
        """The followed tables."""
        return tuple(self._tables.values())

    @property
    def progress(self) -> Mapping[TableId, TableProgress]:
        """Each table's progress; the same object as long as nothing has changed."""
        if self._shown is None:
            self._shown = dict(self._progress)
        return self._shown

    @property
    def in_backfill(self) -> frozenset[TableId]:
        """The tables whose rows the stream may meet in another state than the log says."""
        return self._settling

    @property
    def live(self) -> bool:
        """Whether all tables are copied and settled, so every change goes through as it is."""
        return self._live

    def next_table(self) -> Table | None:
        """The table to copy from now: one that is under way, else the largest pending one; None:
        all are copied.
        """
        for id in self._settling:
            if self._progress[id].state == "backfilling":
                return self._tables[id]
        waiting = self._pending()
        return self._tables[waiting[-1]] if waiting else None

    @property
    def pending(self) -> Iterator[Table]:
        """The tables whose copy has not begun, those with the fewest rows first."""
        for id in self._pending():
            if self._progress[id].state == "pending":
                yield self._tables[id]

    def _pending(self) -> list[TableId]:
        """The pending tables in the order of their rows, and perhaps former ones; a pending one is
        last.
        """
        if self._waiting is None:
            found = [id for id, it in self._progress.items() if it.state == "pending"]
            self._waiting = sorted(found, key=lambda id: self._progress[id].estimate)
        while self._waiting and self._progress[self._waiting[-1]].state != "pending":
            self._waiting.pop()
        return self._waiting

    def add(self, table: Table, estimate: int) -> None:
        """Follow one more table, to be copied from its beginning."""
        self._tables[table.id] = table
        self._note(table.id, TableProgress(estimate=estimate))

    def copied(self, chunk: Chunk) -> None:
        """The rows of ``chunk`` are applied; to be committed with them."""
        progress = self._progress[chunk.table.id]
        progress = progress.backfilled(len(chunk.rows), chunk.cursor, str(chunk.high_watermark))
        self._note(chunk.table.id, progress)

    def restart(self, id: TableId) -> None:
        """What was copied of the table was rolled back."""
        self._note(id, TableProgress(estimate=self._progress[id].estimate))

    def passed(self, position: str, reached: Reached) -> list[Change]:
        """The stream is applied up to ``position``: which tables become live by that, but not more
        of them than one transaction should settle.
        """
        seen: dict[str, bool] = {}
        settled: list[Change] = []
        objects = 0
        for id in sorted(self._settling):
            progress = self._progress[id]
            if progress.state != "catching_up" or objects >= CAUGHT_UP_OBJECTS:
                continue
            place = progress.high_watermark or ""
            if place not in seen:
                seen[place] = reached(position, place)
            if seen[place]:
                self._note(id, progress.caught_up())
                settled.append(CaughtUp(self._tables[id]))
                objects += 1 + len(self._tables[id].indexes)
        return settled

    def admit(self, changes: list[Change]) -> list[Change]:
        """What of ``changes`` the sink has to apply; follows the changes of schema in them."""
        if self._live and SchemaChange not in map(type, changes):
            return changes
        admitted: list[Change] = []
        for change in changes:
            if type(change) is Rows or type(change) is Truncate:
                if self._live or not self._covered(change.table):
                    admitted.append(self._kept(change))
            elif type(change) is SchemaChange:
                admitted.extend(self._follow(change))
            else:
                if type(change) is Begin:
                    self._begin = change
                admitted.append(change)
        return admitted

    def _kept(self, change: Rows | Truncate) -> Change:
        """``change``, or the table's emptying if its copy must start again.

        A row of which the log holds only part may leave a key that was not copied yet for one that
        was. Then no chunk shows it, and the stream cannot make it.
        """
        if type(change) is Rows and change.after_present is not None:
            table = change.table
            if table.id in self._settling and table.key and _moves_key(change):
                self.restart(table.id)
                return Truncate(table)
        return change

    def _covered(self, table: Table) -> bool:
        """Whether the table's copy shows, or will show, the current transaction."""
        progress = self._progress.get(table.id)
        if progress is None or progress.state == "live":
            return False
        if progress.state == "pending":
            return True
        if table.key or progress.high_watermark is None or self._begin is None:
            return False
        return self._includes(progress.high_watermark, self._begin)

    def _follow(self, change: SchemaChange) -> list[Change]:
        """Keep track of a table's new version; ``change`` and what the sink has to do besides.

        Chunks are read by name and in key order. So a copy that has begun holds only as long as
        both mean the same: else it starts again, with what it has written thrown away first.
        """
        before, after = change.before, change.after
        follow: list[Change] = [change]
        progress = TableProgress("live")
        if before is not None:
            self._tables.pop(before.id, None)
            progress = self._progress.get(before.id, progress)
            self._note(before.id, None)
        if after is not None:
            if before is None:
                follow.append(CaughtUp(after))
            elif progress.state in ("backfilling", "catching_up") and _backfilled_as(
                before
            ) != _backfilled_as(after):
                progress = TableProgress(estimate=progress.estimate)
                follow.insert(0, Truncate(before))
            self._tables[after.id] = after
            self._note(after.id, progress)
        return follow

    def _note(self, id: TableId, progress: TableProgress | None) -> None:
        """A table's progress is this now (None: it is not followed any more). What else is known of
        all tables follows, at a cost that does not grow with their number.
        """
        before = self._progress.pop(id, None) if progress is None else self._progress.get(id)
        if progress is not None:
            self._progress[id] = progress
        self._shown = None
        if _in_motion(before) != _in_motion(progress):
            self._settling ^= {id}
        self._unfinished += _unfinished(progress) - _unfinished(before)
        self._live = not self._unfinished
        if progress is None or progress.state == "pending":
            self._waiting = None


def _in_motion(progress: TableProgress | None) -> bool:
    return progress is not None and progress.state in ("backfilling", "catching_up")


def _unfinished(progress: TableProgress | None) -> bool:
    return progress is not None and progress.state != "live"


def _moves_key(rows: Rows) -> bool:
    key = itemgetter(*rows.table.key)
    return any(
        key(old) != key(new) for old, new in zip(rows.before or (), rows.after or (), strict=False)
    )


def _backfilled_as(table: Table) -> tuple[object, ...]:
    """What decides which rows a chunk shows: the table's name, its key's columns and their
    order.
    """
    key = [table.columns[ordinal] for ordinal in table.key]
    return table.id, tuple((column.name, column.source_type) for column in key)
