"""
A MySQL or MariaDB server as a source: its log as a stream, its tables in chunks.

The stream has a connection of its own; everything else is asked over one ordinary session, which is
made when it is needed and made again when it has broken.

Idea: who asks holds the session's lock, who stops does not. ``stop`` and ``close`` break whatever
connection a thread waits on, so that the lock is free again at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import pymysql
from pymysql.connections import Connection

from engine.change import Begin, Change, Chunk, Heartbeat
from engine.contract import Finding, RowReader
from engine.databases.mysql.connect import establish, interrupt, prepare, query
from engine.databases.mysql.row_reader import MySQLRowReader
from engine.errors import SourceError, SourceLost
from engine.schema import Table, TableId
from sources.mysql.binlog.connection import BinlogConnection
from sources.mysql.binlog.events import xid_text
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.catalog import read_catalog, read_table, row_estimates
from sources.mysql.position import UNKNOWN_PLACE, MySQLPosition, file_number, parse_position
from sources.mysql.preflight import preflight
from sources.mysql.resume import resume_at
from sources.mysql.server_info import (
    ServerInfo,
    log_end,
    log_files,
    read_server_info,
    settled_log_end,
)
from sources.mysql.settings import MySQLSettings, selector
from sources.mysql.snapshot.chunks import ChunkReader

__all__ = ["MySQLSource"]

T = TypeVar("T")

#: How long the log must be silent before a moved position is told at once.
_QUIET_SECONDS: Final = 0.05
#: How long ``position`` waits for XA transactions that are prepared at that moment.
_DECISION_SECONDS: Final = 1.0
_DECISION_POLL_SECONDS: Final = 0.05


class MySQLSource:
    """The source for ``mysql://`` and ``mariadb://`` URLs.

    Guarantee: every committed row change of a followed table, once, in commit order. A position
    holds GTIDs where the server has them, so that another server of the same group may go on.
    """

    can_snapshot: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = MySQLSettings

    def __init__(self, settings: MySQLSettings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._session: Connection[Any] | None = None
        #: The session while someone waits for it.
        self._asked: Connection[Any] | None = None
        self._info: ServerInfo | None = None
        self._stopping = threading.Event()
        self._replica: BinlogConnection | None = None
        self._chunks: ChunkReader | None = None

    # -- the server as it is now -------------------------------------------------------------------

    def check(self) -> list[Finding]:
        """Preflight, see ``sources.mysql.preflight``."""
        return self._ask(lambda session: preflight(session, self._known(session), self._settings))

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        """The followed tables as they are now, without those that are ``known``."""

        def read(session: Connection[Any]) -> list[Table]:
            wanted = self._wanted(session)
            return read_catalog(session, lambda id: id not in known and wanted(id))

        return self._ask(read)

    def estimates(self, tables: Sequence[Table]) -> dict[TableId, int]:
        """About how many rows each table holds, from the server's statistics."""
        return self._ask(lambda session: row_estimates(session, tables))

    def position(self) -> str:
        """The end of the log now.

        XA transactions that are prepared at this moment are waited for, up to a second: their rows
        are in the log before the position, and take effect after it.
        """
        return str(self._ask(self._position))

    def reached(self, position: str, target: str) -> bool:
        """Whether a stream at ``position`` has seen everything that ``target`` stands for."""
        return parse_position(position).at_or_after(parse_position(target))

    def includes(self, position: str, begin: Begin) -> bool:
        """Whether the transaction that ``begin`` starts is part of what ``position`` stands for."""
        start = begin.position
        if not isinstance(start, MySQLPosition):
            start = parse_position(str(start))
        return parse_position(position).contains(begin.transaction, start)

    def backlog(self, position: str) -> int | None:
        """Bytes of the server's log after ``position``; None after a change of servers."""
        return self._ask(lambda session: self._backlog(session, parse_position(position)))

    def acknowledge(self, position: str) -> None:
        """Nothing: the server keeps its log by age, not for us."""

    # -- the log -----------------------------------------------------------------------------------

    def stream(
        self, position: str | None, tables: Iterable[Table], waiting: Iterable[Table] = ()
    ) -> Iterator[list[Change]]:
        """Every change to a followed table after ``position``; see the contract.

        A ``Heartbeat``'s ``at`` is the source's commit time of the newest transaction that was
        passed over; it is our own clock only where the log is silent: nothing came for a moment, or
        the server itself says that it has nothing more.
        """
        tables = list(tables)
        replica = self._replica = BinlogConnection(self._settings)
        try:
            if self._stopping.is_set():
                return
            begin = parse_position(position) if position is not None else None
            schemas = {table.id.schema for table in tables}
            start, dump = self._ask(
                lambda session: resume_at(session, self._known(session), begin, schemas)
            )
            replica.open()
            stream = Stream(start, self._tracking(tables, waiting), checksum=replica.checksum)
            dump(replica)
            yield from self._follow(replica, stream)
        except SourceLost:
            if not self._stopping.is_set():
                raise
        finally:
            replica.close()

    def _tracking(self, tables: Iterable[Table], waiting: Iterable[Table]) -> Tracking:
        info = self._ask(self._known)
        return Tracking(
            tables,
            self._ask(self._wanted),
            waiting=waiting,
            live=lambda id: self._ask(lambda session: read_table(session, id)),
            default_charset=lambda schema: self._ask(lambda each: _schema_charset(each, schema)),
            fold_names=info.fold_names,
        )

    def _follow(self, replica: BinlogConnection, stream: Stream) -> Iterator[list[Change]]:
        """Changes, and heartbeats: one when the server has taken our position, one whenever the log
        falls silent, and now and then while it passes over what is not for us.

        Before it has sent what was in its log at our start, its silence means nothing: it searches.
        """
        interval = self._settings.heartbeat_seconds
        opened = news = caught_up = False
        end = self._ask(lambda session: log_end(session, self._known(session)))
        told_at = time.monotonic()
        while not self._stopping.is_set():
            events = replica.receive(_QUIET_SECONDS if news else interval)
            if events and not opened:
                opened = True
                yield [Heartbeat(stream.progress.position, 0.0)]
            for changes in stream.feed(events):
                yield changes
                news, told_at = True, time.monotonic()
            news = news or stream.progress.moved or (stream.idle and bool(events))
            if stream.inside or not news:
                continue
            caught_up = caught_up or stream.progress.position.at_or_after(end)
            silent = caught_up and not replica.partial and (stream.idle or not events)
            at = time.time() if silent else stream.committed_at
            if silent or (at and time.monotonic() - told_at > interval * 0.9):
                stream.progress.moved = False
                yield [Heartbeat(stream.progress.position, at)]
                news, told_at = not silent, time.monotonic()

    # -- the tables --------------------------------------------------------------------------------

    def chunks(
        self, table: Table, cursor: str | None, low_watermark: str, *, rows: int, readers: int
    ) -> Generator[Chunk, None, None]:
        """The rows of ``table`` in key order; see the contract."""
        yield from self._chunk_reader().chunks(
            table, cursor, low_watermark, rows=rows, readers=readers
        )

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        """Those of the tables that hold no row; see the contract."""
        return self._chunk_reader().empty(tables, low_watermark)

    def _chunk_reader(self) -> ChunkReader:
        info = self._ask(self._known)
        with self._lock:
            if self._chunks is None:
                self._chunks = ChunkReader(
                    lambda: prepare(self._settings),
                    "mariadb" if info.mariadb else "mysql",
                    gtid=info.gtids,
                )
            return self._chunks

    def row_reader(self) -> RowReader:
        """Plain reads for parity."""
        return MySQLRowReader(self._settings)

    # -- the end -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make ``stream`` and ``chunks`` end soon, and break off what is being asked."""
        self._break_off()
        if self._replica is not None:
            self._replica.stop()
        if self._chunks is not None:
            self._chunks.stop()

    def _break_off(self) -> None:
        self._stopping.set()
        asked = self._asked
        if asked is not None:
            interrupt(asked)

    def close(self) -> None:
        """Free all connections; the source can be used again afterwards."""
        self._break_off()
        with self._lock:
            self._drop_session()
            self._info = None
            if self._chunks is not None:
                self._chunks.close()
            self._chunks = None
        self._stopping.clear()

    # -- the ordinary session ----------------------------------------------------------------------

    def _ask(self, question: Callable[[Connection[Any]], T]) -> T:
        """Ask over the session. If an old one turns out to be broken, over a new one."""
        with self._lock:
            fresh = self._session is None
            try:
                return self._ask_once(question)
            except SourceLost:
                if fresh or self._stopping.is_set():
                    raise
            return self._ask_once(question)

    def _ask_once(self, question: Callable[[Connection[Any]], T]) -> T:
        fresh = self._session is None
        session = self._session = self._asked = self._session or prepare(self._settings)
        try:
            if fresh:
                establish(session)
            return question(session)
        except SourceError:
            self._drop_session()
            raise
        finally:
            self._asked = None

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(pymysql.MySQLError):
                session.close()

    def _known(self, session: Connection[Any]) -> ServerInfo:
        if self._info is None:
            self._info = read_server_info(session)
        return self._info

    def _wanted(self, session: Connection[Any]) -> Callable[[TableId], bool]:
        settings = self._settings
        fold_names = self._known(session).fold_names
        return selector(settings.tables, settings.exclude, fold_names=fold_names)

    def _position(self, session: Connection[Any]) -> MySQLPosition:
        end = settled_log_end(session, self._known(session))
        prepared = waiting = _prepared(session)
        deadline = time.monotonic() + _DECISION_SECONDS
        while waiting and time.monotonic() < deadline and not self._stopping.is_set():
            time.sleep(_DECISION_POLL_SECONDS)
            waiting &= _prepared(session)
        if not prepared:
            return end
        # A decided one is visible to whoever looks from now on, so its commit may be passed over.
        places = {xid: UNKNOWN_PLACE if xid in waiting else "" for xid in sorted(prepared)}
        return msgspec.structs.replace(end, prepared=places)

    def _backlog(self, session: Connection[Any], position: MySQLPosition) -> int | None:
        if position.server != self._known(session).identity or not position.file:
            return None
        here = file_number(position.file)
        after = sum(log.size for log in log_files(session) if file_number(log.name) >= here)
        return max(0, after - position.offset)


def _prepared(session: Connection[Any]) -> frozenset[str]:
    """The XA transactions that wait for their decision, as the log would name them."""
    try:
        rows = query(session, "XA RECOVER")
    except SourceLost:
        raise
    except SourceError:
        return frozenset()  # we have no right to look; `tailrace check` says so
    return frozenset(_xid(*row) for row in rows)


def _xid(format_id: int, global_size: int, branch_size: int, data: str | bytes) -> str:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return xid_text(raw[:global_size], raw[global_size : global_size + branch_size], format_id)


def _schema_charset(session: Connection[Any], schema: str) -> str:
    """The collation that tables of a schema get by default; empty if there is no such schema."""
    rows = query(
        session,
        "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s",
        (schema,),
    )
    return str(rows[0][0]) if rows else ""
