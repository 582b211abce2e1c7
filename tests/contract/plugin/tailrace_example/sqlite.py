"""
A sink that writes SQLite: one table for each table of the source, exactly once.

*Guarantee*: exactly once. The rows and the checkpoint are written in one transaction of SQLite, and
only by the newest epoch. Changes wait in memory until their commit, so a transaction of the source
has to fit into memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import msgspec

from engine.change import Change, Truncate
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Capabilities, Finding, State
from engine.errors import ApplyError, Fenced, SinkLost
from engine.schema import Table, TableId
from engine.toolkit.compaction import NetChanges, columns_of, net_changes
from engine.toolkit.segments import NewTables, RowRuns, Segment, segments

#: Errors that are retried: another process holds the lock, the disk is full or refuses.
RETRIED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
#: Types whose values SQLite cannot store.
UNSUPPORTED = ("uint64", "array")


class SQLiteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url`` is ``sqlite:`` and the path of the file, which is created if it is missing.
    ``lock_seconds`` is how long to wait for a lock of another process.
    """

    url: str
    lock_seconds: float = 5.0


class SQLiteSink:
    """The rows of ``shop.item`` are in the table ``"shop.item"``, in columns without a type."""

    Settings: ClassVar[type[msgspec.Struct]] = SQLiteSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        guarantee="exactly once", transactional=True, upsert=True, schema_changes=False
    )

    def __init__(self, settings: SQLiteSettings, pipeline: str) -> None:
        self._path = Path(unquote(settings.url.removeprefix("sqlite:")))
        self._lock_seconds = settings.lock_seconds
        self._pipeline = pipeline
        self._tables: dict[TableId, Table] = {}
        self._applied: list[tuple[Sequence[Change], Collection[TableId]]] = []

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        found = [Finding("ok", "sqlite", f"rows go to {self._path}")]
        if not self._path.absolute().parent.is_dir():
            found = [Finding("error", "sqlite", f"{self._path} has no folder", "create it")]
        for table in tables:
            for column in table.columns:
                if column.type.kind in UNSUPPORTED:
                    problem = f"{column.name} has the type {column.type}, which SQLite cannot store"
                    found.append(Finding("error", str(table.id), problem, "exclude the table"))
        return found

    async def open(self, epoch: int | None = None) -> State:
        state = await asyncio.to_thread(self._take_over, epoch)
        self._tables = {table.id: table for table in state.tables}
        self._applied.clear()
        return state

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        self._applied.append((changes, in_backfill))
        return Applied()

    async def commit(self, checkpoint: Checkpoint) -> None:
        try:
            await asyncio.to_thread(self._commit, checkpoint)
        finally:
            self._applied.clear()

    async def rollback(self) -> None:
        self._applied.clear()

    async def state(self) -> State | None:
        return await asyncio.to_thread(self._stored) if self._path.exists() else None

    async def close(self) -> None:
        self._applied.clear()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Commit at the end of the block. An error in the block rolls back."""
        try:
            with closing(
                sqlite3.connect(self._path, timeout=self._lock_seconds, isolation_level=None)
            ) as database:
                database.execute(begin)
                yield database
                database.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            kind = SinkLost if code in RETRIED else ApplyError
            raise kind(f"SQLite: {error}", hint=f"check {self._path}") from error

    def _take_over(self, epoch: int | None) -> State:
        with self._transaction() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS tailrace (pipeline PRIMARY KEY, epoch, state)"
            )
            state = self._read(database) or State(0, None, ())
            if epoch is None:
                state = msgspec.structs.replace(state, epoch=state.epoch + 1)
                row = (self._pipeline, state.epoch, msgspec.msgpack.encode(state))
                database.execute("INSERT OR REPLACE INTO tailrace VALUES (?, ?, ?)", row)
            elif epoch != state.epoch:
                raise Fenced(f"epoch {state.epoch} has taken over from epoch {epoch}")
        return state

    def _stored(self) -> State | None:
        with self._transaction("BEGIN") as database:
            return self._read(database)

    def _read(self, database: sqlite3.Connection) -> State | None:
        query = "SELECT 1 FROM sqlite_master WHERE name = 'tailrace'"
        if database.execute(query).fetchone() is None:
            return None
        query = "SELECT state FROM tailrace WHERE pipeline = ?"
        row = database.execute(query, (self._pipeline,)).fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=State)

    def _commit(self, checkpoint: Checkpoint) -> None:
        tables = dict(self._tables)
        with self._transaction() as database:
            for changes, in_backfill in self._applied:
                for segment in segments(changes):
                    _apply(database, segment, in_backfill, tables)
            state = State(checkpoint.epoch, checkpoint, tuple(tables.values()))
            update = "UPDATE tailrace SET state = ? WHERE pipeline = ? AND epoch = ?"
            row = (msgspec.msgpack.encode(state), self._pipeline, checkpoint.epoch)
            if database.execute(update, row).rowcount != 1:
                raise Fenced(f"a newer epoch has taken over from epoch {checkpoint.epoch}")
        self._tables = tables


def _apply(
    database: sqlite3.Connection,
    segment: Segment,
    in_backfill: Collection[TableId],
    tables: dict[TableId, Table],
) -> None:
    if isinstance(segment, NewTables):
        for table in segment.tables:
            key = ", ".join(_quoted(table.columns[n].name) for n in table.key)
            parts = [*map(_quoted, table.names), *([f"PRIMARY KEY ({key})"] if key else [])]
            database.execute(f"CREATE TABLE {_quoted(table.id)} ({', '.join(parts)})")
            tables[table.id] = table
    elif isinstance(segment, Truncate):
        database.execute(f"DELETE FROM {_quoted(segment.table.id)}")
    elif isinstance(segment, RowRuns):
        for id, runs in segment.by_table.items():
            for net in net_changes(runs, upsert=id in in_backfill):
                _write(database, net)


def _write(database: sqlite3.Connection, net: NetChanges) -> None:
    """Write the net changes of a table in their order, with one statement for each kind."""
    table, name, width = net.table, _quoted(net.table.id), len(net.table.columns)
    key = table.key or range(width)
    match = " AND ".join(f"{_quoted(table.names[n])} IS ?" for n in key)
    delete = f"DELETE FROM {name} WHERE {match}"
    if not table.key:
        one = f"SELECT _rowid_ FROM {name} WHERE {match} LIMIT 1"
        delete = f"DELETE FROM {name} WHERE _rowid_ = ({one})"
    database.executemany(delete, [[row[n] for n in key] for row in net.deletes])
    in_place = [(mask, [row + row for row in rows]) for mask, rows in net.updates.items()]
    for mask, pairs in [*net.key_changes.items(), *in_place]:
        columns = columns_of(table, mask)
        put = ", ".join(f"{_quoted(table.names[n])} = ?" for n in columns)
        values = [[*(pair[width + n] for n in columns), *(pair[n] for n in key)] for pair in pairs]
        database.executemany(f"UPDATE {name} SET {put} WHERE {match}", values)
    for mask, rows in net.inserts.items():
        columns = columns_of(table, mask)
        names = ", ".join(_quoted(table.names[n]) for n in columns)
        insert = f"INSERT OR REPLACE INTO {name} ({names}) VALUES ({', '.join('?' * len(columns))})"
        database.executemany(insert, [[row[n] for n in columns] for row in rows])


def _quoted(name: object) -> str:
    return '"' + str(name).replace('"', '""') + '"'
