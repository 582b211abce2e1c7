"""
A source that follows a change log: a file to which an application appends JSON lines.

Each line is one committed transaction. A line without a line feed at its end is not committed yet.

*Guarantee*: every transaction arrives once and in order, if the file is only ever appended to.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import msgspec

from engine.change import Begin, Change, Commit, Heartbeat, Operation, Row, Rows, SchemaChange
from engine.contract import Finding
from engine.errors import DecodeError, SchemaError, SourceError, SourceLost
from engine.schema import Column, Kind, Table, TableId, Type


class TableSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of the key, and the others, in order and with their neutral types."""

    key: dict[str, Kind] = {}
    columns: dict[str, Kind] = {}


class ChangelogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url`` is ``changelog:`` and the path of the file."""

    url: str
    tables: dict[str, TableSettings]


class Transaction(msgspec.Struct):
    """One line of the file: the commit time in Unix seconds, and the changed rows. Each is a table,
    the row before (null for an insert) and the row after (null for a delete).
    """

    at: float
    changes: list[tuple[str, Row | None, Row | None]]


class ChangelogSource:
    """A position is the number of bytes of the file before it."""

    Settings = ChangelogSettings

    def __init__(self, settings: ChangelogSettings) -> None:
        self._path = Path(unquote(settings.url.removeprefix("changelog:")))
        self._tables = {name: _table(name, table) for name, table in settings.tables.items()}
        self._stopping = threading.Event()

    def check(self) -> list[Finding]:
        return [Finding("ok", "changelog", f"{self._path} has {self.position()} bytes")]

    def stream(
        self,
        position: str | None,
        tables: Iterable[Table],
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
    ) -> Iterator[list[Change]]:
        known, here = set(tables), int(position or 0)
        if not known.issubset(self._tables.values()):
            raise SchemaError("the configuration of a table was changed", hint="restore it")
        while not self._stopping.is_set():
            line, size = self._read(here)
            if size < here:
                raise SourceError("the file is shorter than the position", hint="restore it")
            if line.endswith(b"\n"):
                yield list(self._changes(line, here, known))
                here += len(line)
            else:
                yield [Heartbeat(str(here), time.time())]
                self._stopping.wait(0.1)

    def _read(self, start: int) -> tuple[bytes, int]:
        """The line that begins at ``start``, and the size of the file."""
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                return file.readline(), file.seek(0, os.SEEK_END)
        except OSError as error:
            raise SourceLost(f"{self._path}: {error.strerror}", hint="check the url") from error

    def _changes(self, line: bytes, start: int, known: set[Table]) -> Iterator[Change]:
        """The changes of one line. A table is created before its first change."""
        try:
            transaction = msgspec.json.decode(line, type=Transaction)
            yield Begin(str(start), str(start), transaction.at)
            for name, before, after in transaction.changes:
                table = self._tables[name]
                if table not in known:
                    known.add(table)
                    yield SchemaChange("", None, table)
                if {len(row) for row in (before, after) if row is not None} != {len(table.columns)}:
                    raise ValueError("not the columns of the table")
                op: Operation = "insert" if not before else "update" if after else "delete"
                old, new = ([row] if row else None for row in (before, after))
                yield Rows(table, op, old, new, size=len(line) // len(transaction.changes))
            yield Commit(str(start + len(line)), transaction.at)
        except (ValueError, KeyError) as error:
            raise DecodeError("the line is damaged", hint="correct it", position=start) from error

    def position(self) -> str:
        return str(self._read(0)[1])

    def reached(self, position: str, goal: str) -> bool:
        return int(position or 0) >= int(goal or 0)

    def includes(self, position: str, begin: Begin) -> bool:
        return int(position or 0) > int(str(begin.position))

    def backlog(self, position: str) -> int | None:
        return int(self.position()) - int(position or 0)

    def acknowledge(self, position: str) -> None:
        """Do nothing: the file belongs to the application."""

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        self._stopping.clear()


def _table(name: str, settings: TableSettings) -> Table:
    kinds = settings.key | settings.columns
    columns = tuple(Column(name, Type(kind), kind) for name, kind in kinds.items())
    return Table(TableId("changelog", name), columns, key=tuple(range(len(settings.key))))
