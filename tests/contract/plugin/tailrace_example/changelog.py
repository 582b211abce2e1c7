"""
A source that follows a change log: a file to which an application appends JSON lines.

Each line is one committed transaction. A line without a line feed at its end is not committed yet.

*Guarantee*: every transaction arrives once and in order, if the file is only ever appended to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec

from engine.change import Begin, Change, Commit, Heartbeat, Operation, Rows, SchemaChange
from engine.contract import Finding
from engine.errors import DecodeError, SchemaError, SourceError, SourceLost
from engine.schema import Column, Kind, Table, TableId, Type


class TableSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of a table with their neutral types, and the names of its key's columns."""

    columns: dict[str, Kind]
    key: tuple[str, ...] = ()


class ChangelogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url`` is ``changelog:`` and the path of the file. ``poll_seconds`` is how often the file is
    read again at its end.
    """

    url: str
    tables: dict[str, TableSettings]
    poll_seconds: float = 0.1


class LoggedChange(msgspec.Struct):
    """One changed row: an insert has no ``before``, and a delete has no ``after``."""

    table: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class LoggedTransaction(msgspec.Struct):
    """One line of the file. ``at`` is the commit time in Unix seconds."""

    at: float
    changes: list[LoggedChange]


class ChangelogSource:
    """A position is the number of bytes of the file before it."""

    Settings: ClassVar[type[msgspec.Struct]] = ChangelogSettings

    def __init__(self, settings: ChangelogSettings) -> None:
        self._path = Path(unquote(settings.url.removeprefix("changelog:")))
        self._poll_seconds = settings.poll_seconds
        self._tables = {
            name: _table(TableId(self._path.stem, name), table)
            for name, table in settings.tables.items()
        }
        self._stopping = threading.Event()

    def check(self) -> list[Finding]:
        if not self._path.is_file():
            action = "start the application that writes it, or correct the url"
            return [Finding("error", "changelog", f"there is no file {self._path}", action)]
        return [Finding("ok", "changelog", f"{len(self._tables)} tables in {self._path}")]

    def stream(
        self, position: str | None, tables: Iterable[Table], discovered: Iterable[Table] = ()
    ) -> Iterator[list[Change]]:
        known = {table.id.name: table for table in tables}
        for name, table in known.items():
            if self._tables.get(name) != table:
                hint = "restore it, or start anew with an empty target"
                raise SchemaError("the configuration of a table was changed", hint=hint, table=name)
        start = int(position or 0)
        if start > int(self.position()):
            raise SourceError("the file is shorter than the position", hint="restore the file")
        try:
            with self._path.open("rb") as file:
                while not self._stopping.is_set():
                    file.seek(start)
                    line = file.readline()
                    if line.endswith(b"\n"):
                        yield self._transaction(line, start, known)
                        start += len(line)
                    else:
                        yield [Heartbeat(str(start), time.time())]
                        self._stopping.wait(self._poll_seconds)
        except OSError as error:
            raise _lost(error) from error

    def _transaction(self, line: bytes, start: int, known: dict[str, Table]) -> list[Change]:
        """The changes of one line. A table is created before its first change."""
        try:
            logged = msgspec.json.decode(line, type=LoggedTransaction)
            changes: list[Change] = [Begin(str(start), str(start), logged.at)]
            for change in logged.changes:
                if change.table not in self._tables:
                    continue
                if change.table not in known:
                    known[change.table] = self._tables[change.table]
                    changes.append(SchemaChange("", None, known[change.table]))
                rows = _rows(change, known[change.table], len(line) // len(logged.changes))
                last = changes[-1]
                if not (isinstance(last, Rows) and last.join(rows)):
                    changes.append(rows)
            changes.append(Commit(str(start + len(line)), logged.at))
        except (msgspec.DecodeError, KeyError) as error:
            hint = "each line holds at, and changes with table, before and after"
            raise DecodeError("the line is damaged", hint=hint, position=start) from error
        return changes

    def position(self) -> str:
        try:
            return str(self._path.stat().st_size)
        except OSError as error:
            raise _lost(error) from error

    def reached(self, position: str, target: str) -> bool:
        return int(position or 0) >= int(target or 0)

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


def _table(id: TableId, settings: TableSettings) -> Table:
    columns = tuple(Column(name, Type(kind), kind) for name, kind in settings.columns.items())
    return Table(id, columns, tuple(list(settings.columns).index(name) for name in settings.key))


def _rows(change: LoggedChange, table: Table, size: int) -> Rows:
    op: Operation = "update"
    if change.before is None or change.after is None:
        op = "insert" if change.before is None else "delete"
    images = (
        None if image is None else [tuple(image[name] for name in table.names)]
        for image in (change.before, change.after)
    )
    return Rows(table, op, *images, size=size)


def _lost(error: OSError) -> SourceLost:
    return SourceLost(f"the file cannot be read: {error.strerror}", hint="check its rights")
