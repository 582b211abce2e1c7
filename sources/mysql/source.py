"""
A MySQL or MariaDB server as a source: its log as a stream, its tables in chunks.

The stream has a replication connection of its own, and the chunk readers have theirs. All other
queries use one ordinary session. It is opened when it is needed, and again after it has broken.

Queries hold the session lock. ``stop`` and ``close`` do not take it first: they shut the socket
down, so a blocked query fails at once and releases the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import pymysql
from pymysql.connections import Connection

from engine.change import Begin, Change, Chunk, Heartbeat
from engine.contract import Finding, RowFilter, RowReader
from engine.databases.mysql.connect import establish, interrupt, prepare
from engine.databases.mysql.row_filter import condition
from engine.databases.mysql.row_reader import MySQLRowReader
from engine.errors import SchemaError, SourceError, SourceLost
from engine.log_status import LogAhead
from engine.recovery import LostChanges
from engine.rights import Grants, HandoverRights
from engine.schema import Part, Table, TableId
from engine.structure import Counter, Structure
from sources.mysql.binlog.connection import BinlogConnection
from sources.mysql.binlog.foreign_keys import ancestors
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.temporary_tables import SessionId
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.catalog import (
    all_foreign_keys,
    created_at,
    database_collations,
    engine_of,
    missing_partitions,
    read_catalog,
    read_table,
)
from sources.mysql.catalog_place import CatalogPlace, at_once
from sources.mysql.clock import ServerClock
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.ddl.databases import DatabaseCharsets
from sources.mysql.freeze import MySQLFreezer
from sources.mysql.load import accepts_connections, other_threads_running
from sources.mysql.log_ahead import bytes_after, log_ahead
from sources.mysql.log_watch import EndOfLog, LogWatch
from sources.mysql.lost_changes import read_lost_changes
from sources.mysql.merge_tables import MergeTables, all_merge_tables
from sources.mysql.overrides import Overrides
from sources.mysql.position import MySQLPosition, parse_position, place_of, unresolved
from sources.mysql.preflight import preflight
from sources.mysql.preflight.grants import read_grants
from sources.mysql.resume import confirm_log, resume_at
from sources.mysql.server_info import (
    ServerInfo,
    converted_time,
    has_native_foreign_keys,
    log_end,
    read_server_info,
    settled_log_end,
)
from sources.mysql.settings import MySQLSettings, selector
from sources.mysql.snapshot.chunks import ChunkReader
from sources.mysql.snapshot.table_reads import TableReads
from sources.mysql.statistics import are_narrow, row_estimates
from sources.mysql.stored_programs import read_programs
from sources.mysql.structure import read_counters, read_structure

__all__ = ["MySQLSource"]

T = TypeVar("T")

#: The log must be silent for this long before a moved position is reported early.
_QUIET_SECONDS: Final = 0.05
#: How often a position is reported while only changes that are not followed come.
_PASSING_SECONDS: Final = 0.9


class MySQLSource(TableReads):
    """The source for ``mysql://`` and ``mariadb://`` URLs.

    Guarantee: every committed row change of a followed table, once, in commit order. A position has
    GTIDs if the server has them, so that it is also valid on other servers of the same group.
    """

    Settings: ClassVar[type[msgspec.Struct]] = MySQLSettings

    def __init__(self, settings: MySQLSettings) -> None:
        self._settings = settings
        #: As ``TellsHeartbeat.heartbeat_seconds``.
        self.heartbeat_seconds = settings.heartbeat_seconds
        self._invalid_text = InvalidText(settings.values)
        self._overrides = Overrides(settings.values)
        self._lock = threading.RLock()
        #: The tables that the last reading of the catalog has left out.
        self._refused: Mapping[TableId, SchemaError] = {}
        self._session: Connection[Any] | None = None
        #: The session while a query runs on it, for ``stop``.
        self._asked: Connection[Any] | None = None
        self._info: ServerInfo | None = None
        self._clock = ServerClock()
        self._stopping = threading.Event()
        self._replica: BinlogConnection | None = None
        #: How long earlier replica connections have waited for the server.
        self._waited_seconds = 0.0
        self._chunks: ChunkReader | None = None
        #: The conditions of ``filter``.
        self._conditions: dict[Table, str] = {}

    # -- the server as it is now -------------------------------------------------------------------

    def check(self) -> list[Finding]:
        """The findings of ``sources.mysql.preflight``."""
        return self._ask(lambda it: preflight(it, self._server_info(it), self._settings))

    def grants(self, handover: HandoverRights | None = None) -> Grants:
        """As ``SourceRights.grants``."""
        return read_grants(self._settings, handover)

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        """The current definitions of the followed tables, without those that are ``known``."""
        refused: dict[TableId, SchemaError] = {}

        def read(session: Connection[Any]) -> list[Table]:
            refused.clear()
            wanted = self._wanted(session)
            tables = read_catalog(session, lambda id: id not in known and wanted(id), refused)
            self._refused = refused
            return list(map(self._overrides.apply, tables))

        return self._ask(read)

    place = staticmethod(place_of)
    unresolved = staticmethod(unresolved)

    def pass_over(self, position: str, place: str, *, whole: bool, end: str) -> str:
        """As ``PassesOver.pass_over``."""
        at, last = parse_position(position), parse_position(end)
        return str(at.pass_over(place, whole=whole, end=last))

    def lost(self, position: str, place: str, *, whole: bool) -> LostChanges:
        """As ``PassesOver.lost``."""
        at = parse_position(position)
        return read_lost_changes(self._settings, at, place_of(place), whole=whole)

    def structure(self, tables: Sequence[Table]) -> Structure:
        """As ``DescribesSchema.structure``."""
        return self._ask(lambda session: read_structure(session, tables))

    def counters(self, tables: Sequence[Table]) -> Mapping[TableId, Counter]:
        """As ``DescribesSchema.counters``."""
        return self._ask(lambda session: read_counters(session, tables))

    def selected(self, ids: Collection[TableId]) -> set[TableId]:
        """Those of ``ids`` that the configuration selects."""
        return set(filter(self._ask(self._wanted), ids))

    def refused(self) -> Mapping[TableId, SchemaError]:
        """As ``RefusesTables.refused``."""
        return self._refused

    def estimates(self, tables: Sequence[Table]) -> dict[TableId, int]:
        """The approximate number of rows of each table, from the server's statistics."""
        return self._ask(lambda session: row_estimates(session, tables, self._conditions))

    def position(self) -> str:
        """The end of the log now.

        Waits up to one second for the XA transactions that are prepared now, because their rows
        are in the log before the position and take effect after it.
        """
        stopping = self._stopping.is_set
        return str(self._ask(lambda it: settled_log_end(it, self._server_info(it), stopping)))

    def reached(self, position: str, goal: str) -> bool:
        """Whether a stream at ``position`` has read everything that ``goal`` includes."""
        return parse_position(position).at_or_after(parse_position(goal))

    def includes(self, position: str, begin: Begin) -> bool:
        """Whether ``position`` includes the transaction that ``begin`` starts."""
        start = begin.position
        if not isinstance(start, MySQLPosition):
            start = parse_position(str(start))
        return parse_position(position).contains(begin.transaction, start)

    def backlog(self, position: str) -> int | None:
        """Bytes of the server's log after ``position``; None if it is from another server."""
        place = parse_position(position)
        return self._ask(lambda session: bytes_after(session, self._server_info(session), place))

    def log_ahead(self, position: str, lag_seconds: float) -> LogAhead:
        """As ``DescribesLog.log_ahead``."""
        place = parse_position(position)

        def ask(session: Connection[Any]) -> LogAhead:
            self._clock.compare(session)
            return log_ahead(session, self._server_info(session), place, lag_seconds)

        return self._ask(ask)

    @property
    def clock_ahead_seconds(self) -> float | None:
        """As ``HasClock.clock_ahead_seconds``."""
        return self._clock.ahead_seconds

    def check_position(self, position: str, tables: Iterable[Table]) -> None:
        """As ``ChecksPosition.check_position``."""
        ids = {table.id for table in tables}
        place = parse_position(position)
        self._ask(lambda session: resume_at(session, self._server_info(session), place, ids))

    def reachable(self) -> bool:
        """As ``Reachable.reachable``."""
        return accepts_connections(self._settings)

    def threads_running(self) -> int:
        """As ``TellsLoad.threads_running``."""
        return self._ask(other_threads_running)

    def acknowledge(self, position: str) -> None:
        """Do nothing: a server purges its log by age, whatever its replicas have read."""

    def take_replaced(self) -> Mapping[tuple[TableId, str, str], int]:
        """As ``ReadsByPolicy.take_replaced``."""
        return self._invalid_text.take_replaced()

    def outdated(self, tables: Iterable[Table]) -> Mapping[TableId, str]:
        """As ``ReadsByPolicy.outdated``."""
        return self._overrides.outdated(tables)

    # -- the log -----------------------------------------------------------------------------------

    def stream(
        self,
        position: str | None,
        tables: Iterable[Table],
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
    ) -> Iterator[list[Change]]:
        """Every change to a followed table after ``position``; see ``Source.stream``.

        The ``at`` of a ``Heartbeat`` is the commit time of the newest transaction that was skipped.
        It is the server's time of now only if the log is silent: no event has come for a moment, or
        the server has sent a heartbeat of its own.
        """
        tables = list(tables)
        self._overrides.check(tables)
        self._waited_seconds = self.waited_seconds
        replica = self._replica = BinlogConnection(self._settings)
        try:
            if self._stopping.is_set():
                return
            begin = parse_position(position) if position is not None else None
            ids = {table.id for table in tables}
            parents: frozenset[TableId] = frozenset()
            if begin is not None and begin.skipped:
                parents = ancestors(tables, self._ask(all_foreign_keys))
            with replica.opening() as opened:
                start, dump = self._ask(
                    lambda it: resume_at(it, self._server_info(it), begin, ids, parents)
                )
                tracking = self._tracking(tables, discovered, ignored, opened)
            stream = Stream(start, tracking, checksum=replica.checksum)
            dump(replica)
            followed = {*ids, *parents}
            log = LogWatch(
                lambda place: self._ask(
                    lambda it: confirm_log(it, self._server_info(it), place, followed)
                )
            )
            yield from self._read_log(replica, stream, tracking, log)
        except SourceLost:
            if not self._stopping.is_set():
                raise
        finally:
            replica.close()

    @property
    def waited_seconds(self) -> float:
        """As ``MeasuresWaits.waited_seconds``."""
        replica = self._replica
        return self._waited_seconds + (0.0 if replica is None else replica.waited_seconds)

    def _tracking(
        self,
        tables: Sequence[Table],
        discovered: Iterable[Table],
        ignored: Collection[TableId],
        opened: Callable[[], SessionId],
    ) -> Tracking:
        info = self._ask(self._server_info)
        return Tracking(
            tables,
            self._ask(self._wanted),
            discovered=discovered,
            ignored=ignored,
            live=lambda id: self._ask(lambda session: read_table(session, id)),
            databases=DatabaseCharsets(self._ask(database_collations)),
            fold_names=info.fold_names,
            overrides=self._overrides,
            programs=lambda schemas: self._ask(lambda each: read_programs(each, info, schemas)),
            created=lambda id: self._ask(lambda each: created_at(each, id)),
            convert_time=lambda *it: self._ask(lambda session: converted_time(session, *it)),
            invalid_text=self._invalid_text,
            foreign_keys=lambda: self._ask(all_foreign_keys),
            partitions=self._ask(lambda session: missing_partitions(session, tables)),
            reads_alone=lambda it: self._ask(lambda session: are_narrow(session, it)),
            engine=lambda id: self._ask(lambda session: engine_of(session, id)),
            merged=MergeTables(self._ask(all_merge_tables)),
            native_foreign_keys=self._ask(lambda session: has_native_foreign_keys(session, info)),
            newest=opened(),  # at last, after all queries
        )

    def _read_log(
        self,
        replica: BinlogConnection,
        stream: Stream,
        tracking: Tracking,
        log: LogWatch,
    ) -> Iterator[list[Change]]:
        """Changes, and heartbeats.

        There is a heartbeat when the server has accepted the position, when the log becomes silent,
        and at intervals while events are skipped. Silence counts only after the server has sent all
        that was in its log at the start: before, it may still be searching the log.
        """
        interval = self._settings.heartbeat_seconds
        opened = unreported = caught_up = False
        end = self._log_end()
        catalog = CatalogPlace(stream, tracking.foreign_keys, self._log_end, end)
        last = EndOfLog(self._log_end, end)
        reported_at = time.monotonic()
        while not self._stopping.is_set():
            events = replica.receive(_QUIET_SECONDS if unreported else log.wait_seconds(interval))
            caught_up = caught_up or stream.position.resume_position.at_or_after(end)
            if caught_up:
                tracking.reach_catalog()
            if events and not opened:
                opened = True
                if applied := self._overrides.record(tracking.tables):
                    tracking.foreign_keys.changed()
                    yield at_once(stream.position.resume_position, applied)
                if caught_up:
                    yield from catalog.reach()
                yield [Heartbeat(stream.position.resume_position, 0.0)]
            for changes in stream.feed(events):
                # Errors are raised before the place is reported as reached.
                following = list(catalog.reach()) if opened else ()
                yield from (changes, *following)
                unreported, reported_at = True, time.monotonic()
            received, events, changes = bool(events), [], []  # a huge row does not stay in memory
            caught_up = caught_up or stream.position.resume_position.at_or_after(end)
            if caught_up and opened:
                yield from catalog.reach()
            if opened and not stream.inside:
                log.look(stream.position.resume_position, new=received and not stream.idle)
            unreported = unreported or stream.position.moved or (stream.idle and received)
            if stream.inside or not unreported:
                continue
            now = self._clock.now()
            silent = caught_up and not replica.partial and (stream.idle or not received)
            if silent and not stream.idle:
                age = now - stream.committed_at
                silent = last.reached(stream.position.resume_position, age)
            at = now if silent else stream.committed_at
            if silent or (at and time.monotonic() - reported_at > _PASSING_SECONDS):
                stream.position.moved = False
                yield [Heartbeat(stream.position.resume_position, at)]
                unreported, reported_at = not silent, time.monotonic()

    # -- the tables --------------------------------------------------------------------------------

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
        """The rows of ``table`` in key order; see ``SnapshotSource.chunks``."""
        yield from self._chunk_reader().chunks(
            *(table, cursor, low_watermark),
            rows=rows,
            readers=readers,
            part=part,
            columns=columns,
            where=self._conditions.get(table, ""),
        )

    def filter(self, table: Table, rows: RowFilter) -> None:
        """Leave out rows of a table from ``chunks``; see ``FiltersRows``."""
        self._conditions[table] = condition(table, rows, self._settings.values)

    def _chunk_reader(self) -> ChunkReader:
        info = self._ask(self._server_info)
        with self._lock:
            if self._chunks is None:
                self._chunks = ChunkReader(
                    lambda: prepare(self._settings),
                    "mariadb" if info.mariadb else "mysql",
                    gtid=info.gtids,
                    invalid_text=self._invalid_text,
                )
            return self._chunks

    def row_reader(self) -> RowReader:
        """Plain reads of the tables for ``tailrace verify``."""
        return MySQLRowReader(self._settings, self._settings.values)

    def freezer(self) -> MySQLFreezer:
        """As ``Freezable.freezer``."""
        return MySQLFreezer(self._settings)

    # -- the end -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make ``stream`` and ``chunks`` end soon, and interrupt the query that is running."""
        self._interrupt()
        if self._replica is not None:
            self._replica.stop()
        if self._chunks is not None:
            self._chunks.stop()

    def _interrupt(self) -> None:
        self._stopping.set()
        asked = self._asked
        if asked is not None:
            interrupt(asked)

    def close(self) -> None:
        """Close all connections; the source can be used again afterwards."""
        self._interrupt()
        with self._lock:
            self._drop_session()
            self._info = None
            if self._chunks is not None:
                self._chunks.close()
            self._chunks = None
        self._stopping.clear()

    # -- the ordinary session ----------------------------------------------------------------------

    def _ask(self, question: Callable[[Connection[Any]], T]) -> T:
        """Run ``question`` on the session; if an existing session has broken, on a new one."""
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
                self._clock.compare(session)
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

    def _server_info(self, session: Connection[Any]) -> ServerInfo:
        if self._info is None:
            self._info = read_server_info(session)
        return self._info

    def _wanted(self, session: Connection[Any]) -> Callable[[TableId], bool]:
        settings = self._settings
        fold_names = self._server_info(session).fold_names
        return selector(settings.tables, settings.exclude, fold_names=fold_names)

    def _log_end(self) -> MySQLPosition:
        return self._ask(lambda session: log_end(session, self._server_info(session)))
