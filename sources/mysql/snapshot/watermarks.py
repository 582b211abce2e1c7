"""
The low and the high watermark of a read: which part of the log its rows show.

A read shows every transaction up to its low watermark, and none after its high watermark. Both are
positions in the log.

A server sends a transaction to its replicas before its own readers can see it. So the low watermark
is proven by what is visible, not by what is logged:

- MySQL with GTIDs: ``WAIT_FOR_EXECUTED_GTID_SET``. The rows of an executed GTID are visible.
- MySQL without GTIDs, and MySQL 5.6: ``LOCK TABLES … READ``, held for a moment. It is granted when
  every writer of the table has finished its commit. Before 5.7.5 that needs InnoDB's lock on the
  table too, which LOCK TABLES takes only without autocommit. MySQL 5.6 counts a GTID as executed
  before its rows are visible.
- MariaDB: a consistent snapshot, whose position in the log the server reports.

An engine without transactions (MyISAM, Aria, MEMORY) has neither snapshots nor commits. Its rows
are in the log, and their GTIDs executed, before the statement releases its lock on the table; from
then on they are visible. For such a table ``LOCK TABLES`` proves the low watermark on both servers.

The high watermark is the end of the log, read after the rows: everything visible is in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

from pymysql.connections import Connection
from pymysql.err import MySQLError

from engine.databases.mysql.connect import query_all
from engine.databases.mysql.identifiers import quote_table
from engine.databases.mysql.session_variables import IDLE_SECONDS, LOCK_WAIT_SECONDS
from engine.errors import SourceError
from engine.schema import Table, TableId
from sources.mysql.catalog import among
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition
from sources.mysql.rights import database
from sources.mysql.server_info import (
    ServerInfo,
    log_end,
    read_server_info,
    wait_for_gtids,
)
from sources.mysql.snapshot.sessions import Lease

__all__ = ["Flavour", "Watermarks"]

log = logging.getLogger("tailrace.source")

Flavour = Literal["mysql", "mariadb"]

_WAY_ON = (
    "end long transactions on the source: SHOW PROCESSLIST has those of sessions, and XA RECOVER"
    " prepared ones, which end by XA COMMIT or XA ROLLBACK"
)
_DEADLINE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
# One wait for GTIDs, which is shorter than the connection's own read timeout.
_WAIT_SECONDS = 5
# Short, because new writers of the table queue behind a waiting lock.
_LOCK_WAIT_SECONDS = 1
# The server ends a session that holds a momentary lock and is silent for so long, such as that of a
# suspended process: until then nobody writes the table.
_IDLE_LOCK_SECONDS = 5
_USUAL_TIMEOUTS = (
    f"SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}, wait_timeout = {IDLE_SECONDS}"
)
_LOCK_IN_ENGINE = (
    "SET SESSION autocommit = 0, innodb_table_locks = 1,"
    f" innodb_lock_wait_timeout = {_LOCK_WAIT_SECONDS}"
)
_NO_LOCK_IN_ENGINE = "SET SESSION autocommit = 1, innodb_lock_wait_timeout = DEFAULT"
_DENIED = (1044, 1142, 1227, 1045)
_LOCK_TIMEOUT = 1205
_TRANSACTIONAL = """
SELECT TABLE_SCHEMA, TABLE_NAME
FROM information_schema.TABLES JOIN information_schema.ENGINES USING (ENGINE)
WHERE TRANSACTIONS = 'YES' AND {where}
"""


class Watermarks:
    """Proves the watermarks of reads on one server, for sessions in REPEATABLE READ.

    Raises PyMySQL's errors, and SourceError.
    """

    def __init__(self, flavour: Flavour, gtid: bool) -> None:
        self.flavour = flavour
        self.gtid = gtid
        self._info: ServerInfo | None = None

    def wait_until_visible(
        self, connection: Connection[Any], tables: Sequence[Table], low_watermark: MySQLPosition
    ) -> None:
        """Return when everything up to ``low_watermark`` is visible to reads of the tables that
        start from now on.

        On MariaDB, ``begin`` proves it for each read of a table whose engine has transactions.
        """
        to_lock = _without_transactions(connection, tables)
        if self.flavour == "mariadb":
            if to_lock:
                # Wait until all of it is in this server's log: the server may be another one now.
                self._covering_snapshot(connection, low_watermark)
                _query(connection, "ROLLBACK")
        elif self.gtid and isinstance(low_watermark.gtids, GtidSet):
            self._wait_for_gtids(connection, low_watermark.gtids)
            if not self._server_info(connection).executed_is_visible:
                to_lock = list(tables)
        else:
            to_lock = list(tables)
        for table in to_lock:
            with self._lock(connection, table):
                pass

    def begin(self, connection: Connection[Any], low_watermark: MySQLPosition) -> list[str]:
        """Start the transaction of a read. Returns the statements that the caller has to execute
        before the read, if there are any, so that they need no round trip of their own.
        """
        if self.flavour == "mysql":
            # MySQL 5.5 has no READ ONLY.
            read_only = self._server_info(connection).version >= (5, 6, 5)
            return [f"START TRANSACTION{' READ ONLY' if read_only else ''}"]
        self._covering_snapshot(connection, low_watermark)
        return []

    def high(self, connection: Connection[Any]) -> MySQLPosition:
        """The high watermark of a read; to be called after the read. Ends its transaction."""
        return self._end(connection, in_flight=True, then="ROLLBACK")

    @contextmanager
    def exact(
        self,
        connection: Connection[Any],
        table: Table,
        low_watermark: MySQLPosition,
        lease: Callable[[], AbstractContextManager[Lease]],
    ) -> Iterator[MySQLPosition]:
        """A block in which a read of the table shows exactly its changes up to a position.

        The block gets that position. ``lease`` lends another connection, for the lock. If the
        table's engine has no transactions, the table cannot be written until the end of the block.
        """
        transactional = not _without_transactions(connection, [table])
        if self.flavour == "mariadb" and transactional:
            position = self._covering_snapshot(connection, low_watermark)
            yield self._with_gtid(connection, position)
            return
        self.wait_until_visible(connection, [table], low_watermark)
        # Under the lock no change of the table is being committed, so all its logged changes are
        # visible. A transaction that owns a GTID now has not changed the table, but may do so once
        # the lock is released: the position must not include it.
        with ExitStack() as locked:
            locker = locked.enter_context(lease()).connection
            locked.enter_context(self._lock(locker, table, kept=not transactional))
            position = self._end(locker, in_flight=False)
            _query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
            if transactional:
                locked.close()
            yield position

    def _lock(self, connection: Connection[Any], table: Table, *, kept: bool = False) -> _TableLock:
        in_engine = not self._server_info(connection).lock_waits_for_commits
        return _TableLock(connection, table, kept=kept, in_engine=in_engine)

    def _covering_snapshot(
        self, connection: Connection[Any], low_watermark: MySQLPosition
    ) -> MySQLPosition:
        """Start a consistent snapshot on MariaDB that shows everything up to ``low_watermark``.

        Returns the position of the snapshot.
        """
        deadline = time.monotonic() + _DEADLINE_SECONDS
        server = self._server_info(connection).identity
        while True:
            position = self._snapshot(connection, server)
            if self._covers(connection, position, low_watermark):
                return position
            _query(connection, "ROLLBACK")
            if time.monotonic() > deadline:
                raise _too_late("the server's snapshots do not reach the position")
            time.sleep(_PAUSE_SECONDS)

    def _wait_for_gtids(self, connection: Connection[Any], gtids: GtidSet) -> None:
        info = self._server_info(connection)
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            if wait_for_gtids(connection, info, gtids, _WAIT_SECONDS):
                return
        raise _too_late("the server has not executed the position's GTIDs")

    def _snapshot(self, connection: Connection[Any], server: str) -> MySQLPosition:
        start, show = "START TRANSACTION WITH CONSISTENT SNAPSHOT", "SHOW STATUS LIKE %s"
        _, found = query_all(connection, [(start, ()), (show, ("binlog_snapshot_%",))])
        status = {name.lower(): value for name, value in found}
        return MySQLPosition(
            server, status["binlog_snapshot_file"], int(status["binlog_snapshot_position"] or 0)
        )

    def _covers(
        self, connection: Connection[Any], position: MySQLPosition, low_watermark: MySQLPosition
    ) -> bool:
        if position.at_or_after(low_watermark):
            return True
        if position.server == low_watermark.server and low_watermark.file:
            return False
        # Another server than before: its log files cannot be compared with the watermark's.
        return not low_watermark.gtids or self._with_gtid(connection, position).at_or_after(
            low_watermark
        )

    def _with_gtid(self, connection: Connection[Any], position: MySQLPosition) -> MySQLPosition:
        found = _query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", position.file, position.offset)
        state = DomainState.parse(str(found[0][0] or ""))
        return MySQLPosition(position.server, position.file, position.offset, state)

    def _end(
        self, connection: Connection[Any], *, in_flight: bool, then: str = ""
    ) -> MySQLPosition:
        """The end of the log; ``in_flight`` adds the transactions that are being committed."""
        in_flight = in_flight and self.flavour == "mysql" and self.gtid
        return log_end(connection, self._server_info(connection), in_flight=in_flight, then=then)

    def _server_info(self, connection: Connection[Any]) -> ServerInfo:
        if self._info is None:
            self._info = read_server_info(connection)
        return self._info


class _TableLock:
    """A block in which the table cannot be changed and all its changes are visible.

    It takes ``LOCK TABLES … READ``. If the user may not do that, and the lock is not ``kept`` while
    rows are read, it takes ``FLUSH TABLES WITH READ LOCK``. With ``in_engine`` InnoDB locks the
    table too: see ``innodb_table_locks`` in MySQL's manual. The end of the block raises an error if
    the lock was lost.
    """

    def __init__(
        self,
        connection: Connection[Any],
        table: Table,
        *,
        kept: bool = False,
        in_engine: bool = False,
    ) -> None:
        self._connection = connection
        self._table = table
        self._kept = kept
        self._in_engine = in_engine

    def __enter__(self) -> None:
        connection = self._connection
        _query(connection, f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_SECONDS}")
        if self._in_engine:
            _query(connection, _LOCK_IN_ENGINE)
        if not self._kept:
            _query(connection, f"SET SESSION wait_timeout = {_IDLE_LOCK_SECONDS}")
        deadline = time.monotonic() + _DEADLINE_SECONDS
        waits = False
        statement = f"LOCK TABLES {quote_table(self._table)} READ"
        while True:
            try:
                _query(connection, statement)
                return
            except MySQLError as error:
                denied = error.args[0] in _DENIED
                if denied and statement.startswith("LOCK") and not self._kept:
                    statement = "FLUSH TABLES WITH READ LOCK"
                elif denied:
                    raise self._denied() from error
                elif error.args[0] != _LOCK_TIMEOUT:
                    raise
            if time.monotonic() > deadline:
                raise _too_late("a read lock on the table was not granted", self._table.id)
            if not waits:
                waits = True
                log.warning(
                    "a read of a table waits for a lock on it",
                    extra={"table": str(self._table.id), "hint": _WAY_ON},
                )
            time.sleep(_PAUSE_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return  # the connection is closed, and the lock with it
        _query(self._connection, "UNLOCK TABLES")
        if self._in_engine:
            _query(self._connection, _NO_LOCK_IN_ENGINE)
        _query(self._connection, _USUAL_TIMEOUTS)

    def _denied(self) -> SourceError:
        where = database(self._table.id.schema)
        return SourceError(
            "the user may not lock the table, as reads of it by the engine have to",
            hint=f"GRANT LOCK TABLES, SELECT ON {where} TO the user of the source's url",
            table=self._table.id,
        )


def _without_transactions(connection: Connection[Any], tables: Sequence[Table]) -> list[Table]:
    """The tables whose engine has no transactions, and so no consistent snapshots."""
    where, names = among([table.id for table in tables])
    found = _query(connection, _TRANSACTIONAL.format(where=where), *names)
    transactional = {TableId(*row) for row in found}
    return [table for table in tables if table.id not in transactional]


def _too_late(reason: str, table: TableId | None = None) -> SourceError:
    return SourceError(
        f"{reason} within {_DEADLINE_SECONDS:.0f} seconds",
        hint=f"{_WAY_ON}; then `tailrace run CONFIG` goes on",
        table=table,
    )


def _query(connection: Connection[Any], query: str, *arguments: object) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments or None)
        return list(cursor.fetchall())
