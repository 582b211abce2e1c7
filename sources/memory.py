"""
A scripted source: a small database in memory with a log, for tests.

A test writes transactions and puts markers between them, which tell the source how to behave.
After ``ABORT`` the connection is lost, once; at ``END`` the log is finished. So a test of resuming
is ten lines:

    database = MemoryDatabase([[create], [insert, update], ABORT, [delete], END])
    source = MemorySource(MemorySettings("memory:shop"), database)

Positions count transactions: a stream started at ``"2"`` begins with the third.
"""

from __future__ import annotations

import threading
import time
from ast import literal_eval
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import ClassVar

import msgspec

from engine.change import (
    Begin,
    Change,
    Chunk,
    Commit,
    DeletePart,
    Heartbeat,
    KeyRange,
    Row,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.contract import Finding
from engine.errors import ShapeChanged, SourceError, SourceLost, UnloggedChange
from engine.schema import Part, Table, TableId
from engine.toolkit.memory_table import MemoryTable

__all__ = [
    "ABORT",
    "END",
    "Marker",
    "MemoryDatabase",
    "MemorySettings",
    "MemorySource",
    "Unlogged",
    "UnloggedRows",
    "UnloggedValues",
]


class Unlogged(msgspec.Struct, frozen=True):
    """A statement that gives a table this version and these rows, which the log does not show."""

    table: Table
    rows: list[Row]


class UnloggedRows(msgspec.Struct, frozen=True):
    """A statement that puts these rows in the place of a part, which the log does not show."""

    table: Table
    part: Part
    rows: list[Row]


class UnloggedValues(msgspec.Struct, frozen=True):
    """A schema change after which the table has these rows, which the log does not show."""

    change: SchemaChange
    rows: list[Row]


Data = Rows | SchemaChange | Truncate | DeletePart | Unlogged | UnloggedRows | UnloggedValues


class Marker(Enum):
    """What may stand in a script between two transactions."""

    ABORT = "the connection is lost here, once"
    END = "the log is finished here"


ABORT = Marker.ABORT
END = Marker.END


class MemorySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url``, ``memory:NAME``, names a database of this process; it is made when first used. An
    idle stream shows a heartbeat every ``heartbeat_seconds``. A list that the stream yields holds
    at most ``changes_per_read`` changes.
    """

    url: str
    heartbeat_seconds: float = 0.05
    changes_per_read: int = 100


class MemoryDatabase:
    """Tables, and the log of their transactions. It may be written to while it is followed."""

    named: ClassVar[dict[str, MemoryDatabase]] = {}

    def __init__(self, script: Iterable[Sequence[Data] | Marker] = ()) -> None:
        self.contents: dict[TableId, MemoryTable] = {}
        self.transactions: list[list[Data]] = []
        self.changed = threading.Condition()
        self._aborts: set[int] = set()
        self._end: int | None = None
        for entry in script:
            if isinstance(entry, Marker):
                self.mark(entry)
            else:
                self.commit(*entry)

    def load(self, table: Table, rows: Iterable[Row]) -> None:
        """A table that is there without having been logged."""
        contents = MemoryTable(table)
        contents.apply(Rows(table, "read", None, list(rows)))
        self.contents[table.id] = contents

    def commit(self, *changes: Data) -> str:
        """Do and log one transaction; returns its position."""
        with self.changed:
            for change in changes:
                self._do(change)
            self.transactions.append(list(changes))
            self.changed.notify_all()
            return str(len(self.transactions))

    def mark(self, marker: Marker) -> None:
        """Put a marker at the end of the log as it is now."""
        with self.changed:
            here = len(self.transactions)
            if marker is ABORT:
                self._aborts.add(here)
            else:
                self._end = here
            self.changed.notify_all()

    def aborts_at(self, position: int) -> bool:
        """Whether the connection is lost here; true once."""
        if position not in self._aborts:
            return False
        self._aborts.remove(position)
        return True

    def ends_at(self, position: int) -> bool:
        """Whether the log is finished here."""
        return self._end is not None and position >= self._end

    def _do(self, change: Data) -> None:
        if isinstance(change, Rows):
            self.contents[change.table.id].apply(change)
        elif isinstance(change, Truncate):
            self.contents[change.table.id].clear()
        elif isinstance(change, DeletePart):
            self.contents[change.table.id].delete_part(change)
        elif isinstance(change, UnloggedRows):
            self.contents[change.table.id].delete_part(DeletePart(change.table, change.part))
            self.contents[change.table.id].add(change.rows)
        elif isinstance(change, Unlogged):
            self.load(change.table, change.rows)
        elif isinstance(change, UnloggedValues):
            assert change.change.after is not None
            self.load(change.change.after, change.rows)
        else:
            before, after = change.before, change.after
            old = self.contents.pop(before.id, None) if before is not None else None
            if after is not None:
                renamed, filled = change.renamed, change.filled
                new = MemoryTable(after) if old is None else old.altered(after, renamed, filled)
                self.contents[after.id] = new


class MemorySource:
    """Follows a ``MemoryDatabase``: that of the URL unless one is given."""

    Settings: ClassVar[type[msgspec.Struct]] = MemorySettings

    def __init__(self, settings: MemorySettings, database: MemoryDatabase | None = None) -> None:
        self._settings = settings
        self.database = database or MemoryDatabase.named.setdefault(settings.url, MemoryDatabase())
        self._stopped = False

    def check(self) -> list[Finding]:
        return [Finding("ok", "memory", f"{len(self.database.contents)} tables")]

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        with self.database.changed:
            contents = self.database.contents
            return [contents[id].table for id in sorted(contents) if id not in known]

    def estimates(self, tables: Sequence[Table]) -> dict[TableId, int]:
        return {table.id: len(self.database.contents.get(table.id, ())) for table in tables}

    def position(self) -> str:
        return str(len(self.database.transactions))

    def reached(self, position: str, goal: str) -> bool:
        return int(position or 0) >= int(goal or 0)

    def includes(self, position: str, begin: Begin) -> bool:
        return int(begin.transaction) <= int(position or 0)

    def backlog(self, position: str) -> int | None:
        behind = self.database.transactions[int(position or 0) :]
        return sum(change.size for one in behind for change in one if isinstance(change, Rows))

    def stream(
        self,
        position: str | None,
        tables: Iterable[Table],
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
    ) -> Iterator[list[Change]]:
        database, here = self.database, int(position or 0)
        followed, ignored = {table.id for table in tables}, frozenset(ignored)
        if here > len(database.transactions):
            raise SourceError(
                "the position is beyond the log", hint="use the checkpoint's own source"
            )
        while not self._stopped:
            with database.changed:
                if database.aborts_at(here):
                    raise SourceLost("the script lost the connection", position=here)
                if database.ends_at(here):
                    return
                if here == len(database.transactions):
                    database.changed.wait(self._settings.heartbeat_seconds)
                transaction = database.transactions[here : here + 1]
            if transaction:
                yield from self._pieces(here, _followed(transaction[0], followed, ignored))
                here += 1
            elif not self._stopped:
                yield [Heartbeat(str(here), time.time())]

    def _pieces(self, here: int, transaction: Iterable[Change]) -> Iterator[list[Change]]:
        """One transaction in its frame, in lists of bounded length."""
        now = time.time()
        begin, commit = Begin(str(here + 1), str(here), now), Commit(str(here + 1), now)
        changes = iter([begin, *transaction, commit])
        while piece := list(islice(changes, self._settings.changes_per_read)):
            yield piece

    def chunks(
        self,
        table: Table,
        cursor: str | None,
        low_watermark: str,
        *,
        rows: int,
        readers: int,
        part: Part | None = None,
        columns: Collection[str] = (),
    ) -> Generator[Chunk, None, None]:
        after = None if cursor is None else literal_eval(cursor)
        read = table.narrowed(columns) if columns else table
        kept = table.ordinals(columns) if columns else range(len(table.columns))
        whole = None if table.key else self._read(table)
        while not self._stopped:
            found, high_watermark = whole or self._read(table)
            contents = MemoryTable(table)
            if table.key:
                left = [row for row in found if after is None or contents.key_of(row) > after]
            else:
                left = found[after or 0 :]
            if part is not None:
                left = [row for row in left if part.has(row[table.ordinal(part.column)])]
            next_rows = left[:rows]
            shown = [tuple(row[ordinal] for ordinal in kept) for row in next_rows]
            if len(left) <= rows:
                yield Chunk(read, shown, None, high_watermark, range=KeyRange(after, None))
                return
            before = after
            after = contents.key_of(next_rows[-1]) if table.key else (after or 0) + rows
            keys = KeyRange(before, after) if isinstance(after, tuple) else None
            yield Chunk(read, shown, repr(after), high_watermark, range=keys)

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        database = self.database
        with database.changed:
            high_watermark = str(len(database.transactions))
            live = {table: database.contents.get(table.id) for table in tables}
            return [
                Chunk(table, [], None, high_watermark)
                for table, contents in live.items()
                if contents is not None and not len(contents)
            ]

    def _read(self, table: Table) -> tuple[list[Row], str]:
        """All rows now, and the position now."""
        with self.database.changed:
            live = self.database.contents.get(table.id)
            if live is None or live.table != table:
                raise ShapeChanged("the live table has another shape", table=table.id)
            return list(live), str(len(self.database.transactions))

    def acknowledge(self, position: str) -> None:
        """Nothing: a database in memory keeps its whole log."""

    def stop(self) -> None:
        with self.database.changed:
            self._stopped = True
            self.database.changed.notify_all()

    def close(self) -> None:
        self._stopped = False


def _followed(
    transaction: Sequence[Data], tables: set[TableId], ignored: Collection[TableId]
) -> Iterator[Change]:
    """The changes to ``tables``, which the log's own schema changes add to and take from."""
    for change in transaction:
        if isinstance(change, UnloggedValues):
            change = change.change
        if isinstance(change, SchemaChange):
            ids = {table.id for table in (change.before, change.after) if table is not None}
            if not ids.isdisjoint(ignored):
                before, after = change.before, change.after
                gone = before is not None and (after is None or after.id != before.id)
                if gone and before is not None and before.id in ignored:
                    yield SchemaChange(change.statement, before, None)
                continue
            if change.before is not None:
                tables.discard(change.before.id)
            if change.after is not None:
                tables.add(change.after.id)
            yield change
        elif isinstance(change, Unlogged):
            if change.table.id in tables:
                raise UnloggedChange("the log does not show it", table=change.table.id)
        elif isinstance(change, UnloggedRows):
            if change.table.id in tables:
                yield UnloggedPart(change.table, change.part, "the log does not show it")
        elif change.table.id in tables:
            yield change
