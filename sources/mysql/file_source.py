"""
Binary log files on disk as a source: the same stream, without a server.

A table is followed from its first row event on, or from its CREATE TABLE in the log. The names and
charsets of its columns come from the log (``binlog_row_metadata=FULL``) or from a schema dump. The
statements of the log change these definitions (``ddl.definitions``). They are not stored with the
checkpoint: a later start reads the dump again, and the log's statements up to the position.
Guarantee: the same as that of ``MySQLSource``, for the transactions in the files.
"""

from __future__ import annotations

import glob
import itertools
import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, ClassVar, Final, NoReturn

import msgspec

from engine.change import Begin, Change, Commit, Heartbeat
from engine.contract import Finding
from engine.errors import (
    ConfigError,
    DecodeError,
    SchemaError,
    SourceError,
    TailraceError,
    UnloggedChange,
)
from engine.recovery import LostChanges
from engine.schema import Table, TableId
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.compression import EventCutter, cut_events
from sources.mysql.binlog.inspection import Inspection
from sources.mysql.binlog.passed_over import PassedOver
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.overrides import Overrides
from sources.mysql.position import MySQLPosition, file_number, parse_position, place_of
from sources.mysql.schema_dump import read_schema
from sources.mysql.settings import BinlogFileSettings, log_path

__all__ = ["BinlogFileSource"]

log = logging.getLogger("tailrace.source")

_MAGIC: Final = b"\xfebin"
_ENCRYPTED_MAGIC: Final = b"\xfdbin"
_READ_BYTES: Final = 1 << 20
#: How much ``check`` reads, and the number of tables that it names.
_CHECKED_READS: Final = 4
_CHECKED_TABLES: Final = 20
#: About a name that a statement writes, in a database that the schema dump defines.
_ASSUMED: Final = (
    "a statement writes it, and neither the log nor the schema dump defines it: it is taken for a"
    " table without triggers"
)
_COMPLETE: Final = (
    "name a dump of all tables, views and triggers that its database had at the beginning of the"
    " log"
)
_DECRYPT: Final = (
    "let the server decrypt it: mysqlbinlog --read-from-remote-server --raw, or follow the server"
)


class BinlogFileSource:
    """The source for ``mysql-binlog:`` URLs. A position is a file and an offset."""

    Settings: ClassVar[type[msgspec.Struct]] = BinlogFileSettings

    def __init__(self, settings: BinlogFileSettings) -> None:
        self._settings = settings
        self._invalid_text = InvalidText(settings.values)
        self._overrides = Overrides(settings.values)
        self._stopping = threading.Event()
        self._schema: tuple[Definitions, str] | None = None
        #: A log file, and the definitions at its beginning.
        self._defined = "", Definitions()
        self._passed_over = PassedOver()
        self._assumed: set[TableId] = set()

    def check(self) -> list[Finding]:
        """Check that each file begins like a log file, the schema dump, and whether the tables at
        the beginning of the log can be followed.
        """
        findings, subject = [], "files"
        try:
            files = self._files()
            for path in files:
                with _open(path):
                    pass
            findings.append(Finding("ok", "files", f"{len(files)} log files"))
            subject = "schema"
            if self._settings.schema:
                findings += self._check_schema(files[0])
            else:
                findings += _check_foreign_keys(files[0])
            subject = "log"
            findings += self._check_tables(files[0])
        except TailraceError as error:
            findings.append(Finding("error", subject, str(error), error.hint, code="LF001"))
        return findings

    def place(self, position: str) -> str:
        """As ``PassesOver.place``."""
        return place_of(position)

    def pass_over(self, position: str, place: str, *, whole: bool, end: str) -> str:
        """As ``PassesOver.pass_over``."""
        at, last = parse_position(position), parse_position(end)
        return str(at.pass_over(place, whole=whole, end=last))

    def lost(self, position: str, place: str, *, whole: bool) -> LostChanges:
        """As ``PassesOver.lost``."""
        place = place_of(place)
        start = MySQLPosition("", place.rpartition(":")[0], len(_MAGIC))
        stream = Stream(start, Tracking((), lambda id: False))
        inspection = Inspection(start, place, whole=whole, checksum=False)
        for path in self._files():
            if path.name != start.file:
                continue
            for events in self._read(path, stream, last=True):
                if inspection.feed(events):
                    return inspection.lost
        return inspection.end()

    def selected(self, ids: Collection[TableId]) -> set[TableId]:
        """Those of ``ids`` that the configuration selects."""
        return set(filter(self._settings.select, ids))

    def _check_schema(self, first: Path) -> Iterator[Finding]:
        wanted, (definitions, place) = self._settings.select, self._read_schema(first)
        found = sum(wanted(id) for id in definitions.tables)
        if not found:
            message = f"{self._settings.schema} defines none of the selected tables"
            action = "name a dump of their database, such as mysqldump --no-data"
            yield Finding("error", "schema", message, action, code="LF002")
            return
        yield Finding("ok", "schema", f"{found} of the selected tables are defined")
        if not _is_of_beginning(place, first):
            yield Finding(
                "warning",
                "schema",
                f"the dump was taken at {place}, and the log begins with {first.name}: tables that"
                " a statement changes in between may be quarantined",
                "name the log files from the one of the dump on, or correct these tables' CREATE"
                " TABLE to what it was at the beginning of the log",
                code="LF003",
            )

    def _check_tables(self, path: Path) -> list[Finding]:
        """The tables at the beginning of the log that cannot be followed, each with the reason, and
        the names that are taken for tables.
        """
        left_out: dict[TableId, UnloggedChange] = {}
        assumed: dict[TableId, None] = {}
        while len(left_out) < _CHECKED_TABLES:
            definitions = self._read_schema(path)[0]
            definitions.assume = assumed.setdefault
            tracking = self._tracking((), definitions, left_out)
            stream = Stream(MySQLPosition("", path.name, len(_MAGIC)), tracking)
            try:
                for events in itertools.islice(self._read(path, stream, last=True), _CHECKED_READS):
                    for _ in _feed(stream, tracking, events):
                        pass
                break
            except UnloggedChange as error:
                left_out[error.id] = error
        return [
            Finding(
                "warning",
                str(id),
                f"it will be quarantined: {error.message}",
                error.hint,
                code="LF004",
            )
            for id, error in left_out.items()
        ] + [Finding("warning", str(id), _ASSUMED, _COMPLETE, code="LF006") for id in assumed]

    def position(self) -> str:
        """The current end of the last file."""
        last = self._files()[-1]
        return str(MySQLPosition("", last.name, _size(last)))

    def reached(self, position: str, goal: str) -> bool:
        """Whether ``position`` is at or after ``goal``."""
        return parse_position(position).at_or_after(parse_position(goal))

    def includes(self, position: str, begin: Begin) -> bool:
        """Whether the transaction that ``begin`` starts lies before ``position``."""
        start = parse_position(str(begin.position))
        return parse_position(position).contains(begin.transaction, start)

    def backlog(self, position: str) -> int | None:
        """The number of bytes in the files after ``position``."""
        here = parse_position(position)
        number = file_number(here.file)
        after = sum(_size(path) for path in self._files() if file_number(path.name) >= number)
        return max(0, after - here.offset)

    def take_replaced(self) -> Mapping[tuple[TableId, str, str], int]:
        """As ``ReadsByPolicy.take_replaced``."""
        return self._invalid_text.take_replaced()

    def outdated(self, tables: Iterable[Table]) -> Mapping[TableId, str]:
        """As ``ReadsByPolicy.outdated``."""
        return self._overrides.outdated(tables)

    def stream(
        self,
        position: str | None,
        tables: Iterable[Table],
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
    ) -> Iterator[list[Change]]:
        """Every change to a followed table, up to the last complete event of the last file.

        Raises DecodeError for a damaged file, SchemaError if the log does not name a table's
        columns, SourceError for a missing or encrypted file.
        """
        files = self._files()
        start = (
            MySQLPosition("", files[0].name, 0) if position is None else parse_position(position)
        )
        first = self._first(files, start)
        definitions = self._definitions(files, first)
        definitions.assume = self._assume
        tracking = self._tracking(tables, definitions, ignored)
        stream = Stream(start, tracking)
        self._passed_over.begin()
        if changes := self._overrides.record(tracking.tables):
            tracking.foreign_keys.changed()
            at = stream.position.resume_position
            yield [Begin("", at, 0.0), *changes, Commit(at, 0.0)]
        end = start.file, start.offset
        for path in files[first:]:
            end = path.name, len(_MAGIC)
            stream.position.file, stream.position.offset = end
            for events in self._read(path, stream, last=path is files[-1]):
                yield from _feed(stream, tracking, events)
                end = path.name, end[1] + sum(map(len, events))
                if self._stopping.is_set():
                    return
            if stream.unfinished and path is not files[-1]:
                raise DecodeError(
                    "a file of the log ends inside a transaction",
                    hint="check whether a file is missing between this one and the next",
                    position=stream.position,
                )
        for id, rows in self._passed_over.rows.items():
            log.warning("rows of a quarantined table", extra={"table": str(id), "rows": rows})
        if not stream.unfinished:
            # A final ROTATE points to the next file, which does not exist here.
            place = msgspec.structs.replace(
                stream.position.resume_position, file=end[0], offset=end[1]
            )
            yield [Heartbeat(place, time.time())]

    def _tracking(
        self, tables: Iterable[Table], definitions: Definitions, ignored: Collection[TableId]
    ) -> Tracking:
        settings = self._settings
        return Tracking(
            tables,
            settings.select,
            definitions=definitions,
            passed_over=self._passed_over,
            ignored=ignored,
            fold_names=settings.fold_names,
            invalid_text=self._invalid_text,
            overrides=self._overrides,
        )

    def _assume(self, id: TableId) -> None:
        """Log once that a name is taken for a table without triggers."""
        if id not in self._assumed:
            self._assumed.add(id)
            log.warning(_ASSUMED, extra={"table": str(id), "hint": _COMPLETE})

    def acknowledge(self, position: str) -> None:
        """Do nothing: Tailrace does not delete log files."""

    def stop(self) -> None:
        """Make ``stream`` end soon."""
        self._stopping.set()

    def close(self) -> None:
        """Reset ``stop``; the source can be used again afterwards."""
        self._stopping.clear()

    def _files(self) -> list[Path]:
        """The files in the order of the log. Raises ConfigError if there are none."""
        path = log_path(self._settings)
        if path.is_dir():
            found = [each for each in path.iterdir() if file_number(each.name) >= 0]
        elif path.is_file():
            found = [path]
        else:
            found = [Path(name) for name in glob.glob(str(path))]
            found = [each for each in found if file_number(each.name) >= 0]
        if not found:
            raise ConfigError(
                f"no log file at {path}",
                hint="check the path; a log file's name ends with a number: binlog.000001",
            )
        return sorted(found, key=lambda each: (file_number(each.name), each.name))

    def _definitions(self, files: list[Path], first: int) -> Definitions:
        """What the schema dump and the statements of the files before the first one say."""
        names = [path.name for path in files]
        name, definitions = self._defined
        if name not in names[: first + 1]:
            name, definitions = names[0], self._read_schema(files[0])[0]
        definitions = definitions.copy()
        fold_names = self._settings.fold_names
        tracking = Tracking((), lambda id: False, definitions=definitions, fold_names=fold_names)
        before = Stream(MySQLPosition("", name, len(_MAGIC)), tracking)
        for path in files[names.index(name) : first]:
            for events in self._read(path, before, last=False):
                for _ in before.feed(events):
                    pass
        if not self._stopping.is_set():
            self._defined = names[first], definitions.copy()
        return definitions

    def _read_schema(self, first: Path) -> tuple[Definitions, str]:
        """The definitions in the schema dump, if there is one, and its place in the log.

        The dump is read once: it may have data.
        """
        if self._schema is None:
            settings, place = self._settings, ""
            definitions = Definitions(check_case=settings.lower_case_table_names == "unknown")
            if settings.schema:
                dialect = Dialect(_format(first).mariadb, fold_names=settings.fold_names)
                place = read_schema(Path(settings.schema), definitions, dialect)
                definitions.complete(of_beginning=_is_of_beginning(place, first))
            self._schema = definitions, place
        definitions, place = self._schema
        return definitions.copy(), place

    def _first(self, files: list[Path], start: MySQLPosition) -> int:
        """The index of the first file to read.

        It is the file of the position, or of the oldest XA PREPARE that is read again.
        """
        names = [path.name for path in files]
        awaited = start.awaited(self._settings.select).values()
        places = [place.rpartition(":")[0] for place in awaited if ":" in place]
        oldest = min((start.file, *places), key=file_number)
        if oldest not in names:
            raise SourceError(
                f"the log file {oldest} of the position is missing", hint="restore the file"
            )
        return names.index(oldest)

    def _read(self, path: Path, stream: Stream, *, last: bool) -> Iterator[list[bytes]]:
        """The complete events of a file, about one MiB at a time."""
        with _open(path) as file:
            cutter = EventCutter()
            while not self._stopping.is_set() and (data := file.read(_READ_BYTES)):
                events = cutter.cut(data)
                if any(event[4] == ev.MARIADB_START_ENCRYPTION for event in events[:3]):
                    raise SourceError(f"the log file {path.name} is encrypted", hint=_DECRYPT)
                yield events
            if cutter.partial and not last and not self._stopping.is_set():
                raise DecodeError(
                    "an event is cut off at the end of a file that is not the last one",
                    position=stream.position,
                )


def _feed(stream: Stream, tracking: Tracking, events: list[bytes]) -> Iterator[list[Change]]:
    """``Stream.feed``. An error in the rows of one table is an ``UnloggedChange`` of this table,
    because its definition may be wrong, and there is no server to correct it on.
    """
    try:
        yield from stream.feed(events)
    except UnloggedChange:
        raise
    except (DecodeError, SchemaError) as error:
        id = next((id for id in tracking.tables if str(id) == error.table), None)
        if id is None:
            raise
        raise UnloggedChange(
            error.message, hint=error.hint, table=id, position=error.position
        ) from error


def _open(path: Path) -> IO[bytes]:
    """Open a log file and check its first four bytes."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"the log file {path.name} cannot be read: {error.strerror}") from error
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        file.close()
        _refuse(path, magic)
    return file


def _is_of_beginning(place: str, first: Path) -> bool:
    """Whether a dump was taken at the beginning of the log, as far as it says."""
    file, _, offset = place.rpartition(":")
    return not place or (file == first.name and int(offset) <= _size(first))


def _check_foreign_keys(path: Path) -> Iterator[Finding]:
    """Without a dump, only the statements of the log tell foreign keys."""
    format = _format(path)
    if format.mariadb or format.version < (9, 6):
        yield Finding(
            "warning",
            "foreign keys",
            "the log does not contain the rows that ON DELETE and ON UPDATE change: only those of"
            " foreign keys that a statement of the log creates are changed",
            "name a schema dump in [source] schema if the tables have such foreign keys",
            code="LF005",
        )


def _format(path: Path) -> ev.Format:
    """The format of a file: its first event."""
    with _open(path) as file:
        events, _ = cut_events(file.read(_READ_BYTES))
    if not events or events[0][4] != ev.FORMAT_DESCRIPTION:
        raise DecodeError(f"{path.name} does not begin with the description of its format")
    return ev.read_format(events[0], len(events[0]))


def _refuse(path: Path, magic: bytes) -> NoReturn:
    if magic == _ENCRYPTED_MAGIC:
        raise SourceError(f"the log file {path.name} is encrypted", hint=_DECRYPT)
    raise DecodeError(f"{path.name} does not begin like a binary log file")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SourceError(f"the log file {path.name} cannot be read: {error.strerror}") from error
