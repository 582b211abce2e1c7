"""
When a read of a table happened, in terms of the log: not before a position, and at most at one.

A server sends a transaction to its replicas before its own readers can see it. So each read proves
its moment by what is visible, not by what is logged:

- MySQL with GTIDs: ``WAIT_FOR_EXECUTED_GTID_SET``; a GTID is executed when its rows can be seen.
- MySQL without: ``LOCK TABLES … READ``, for a moment; it is granted when every writer of the table
  has finished its commit.
- MariaDB: a consistent snapshot, whose place in the log the server tells.

An engine without transactions (MyISAM, Aria, MEMORY) knows neither snapshots nor commits: its rows
are logged and counted before the statement's lock on the table ends, and seen from then on. There
``LOCK TABLES`` proves the moment on both servers.

What a read can have seen at most is asked for after it: everything visible is logged already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import msgspec
from pymysql.connections import Connection
from pymysql.err import MySQLError

from engine.databases.mysql.identifiers import quote_name, quote_table
from engine.errors import SourceError
from engine.schema import Table, TableId
from sources.mysql.catalog import among
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition
from sources.mysql.server_info import ServerInfo, log_end, owned_gtids, read_server_info
from sources.mysql.snapshot.sessions import Lease

__all__ = ["Flavour", "Watermarks"]

Flavour = Literal["mysql", "mariadb"]

_DEADLINE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
# Short: while a lock is waited for, every new writer of the table waits behind it.
_LOCK_WAIT_SECONDS = 1
_DENIED = (1044, 1142, 1227, 1045)
_LOCK_TIMEOUT = 1205
_TRANSACTIONAL = """
SELECT TABLE_SCHEMA, TABLE_NAME
FROM information_schema.TABLES JOIN information_schema.ENGINES USING (ENGINE)
WHERE TRANSACTIONS = 'YES' AND {where}
"""


class Watermarks:
    """Places of reads in one server's log, for sessions in REPEATABLE READ.

    Raises PyMySQL's errors, and SourceError.
    """

    def __init__(self, flavour: Flavour, gtid: bool) -> None:
        self.flavour = flavour
        self.gtid = gtid
        self._info: ServerInfo | None = None

    def wait_until_visible(
        self, connection: Connection[Any], tables: Sequence[Table], low_watermark: MySQLPosition
    ) -> None:
        """Return when all of ``low_watermark`` is visible to reads of the tables that start from
        now on.

        For an engine with transactions MariaDB proves it anew with each ``begin``.
        """
        doubtful = _without_transactions(connection, tables)
        if self.flavour == "mariadb":
            if doubtful:
                # So that all of it is logged here: this may be another server than before.
                self._covering_snapshot(connection, low_watermark)
                _query(connection, "ROLLBACK")
        elif self.gtid and low_watermark.gtids:
            self._wait_for_gtids(connection, low_watermark)
        else:
            doubtful = list(tables)
        for table in doubtful:
            with _TableLock(connection, table):
                pass

    def begin(self, connection: Connection[Any], low_watermark: MySQLPosition) -> None:
        """Start the transaction of a read."""
        if self.flavour == "mysql":
            _query(connection, "START TRANSACTION READ ONLY")
        else:
            self._covering_snapshot(connection, low_watermark)

    def high(self, connection: Connection[Any]) -> MySQLPosition:
        """An upper bound of what a read can have high_watermark, asked for after the read."""
        return self._end(connection, in_flight=True)

    @contextmanager
    def exact(
        self,
        connection: Connection[Any],
        table: Table,
        low_watermark: MySQLPosition,
        lend: Callable[[], AbstractContextManager[Lease]],
    ) -> Iterator[MySQLPosition]:
        """Inside, a read of the table shows exactly its changes up to the place that is given.

        For an engine without transactions nobody can write the table until the end of the block.
        """
        transactional = not _without_transactions(connection, [table])
        if self.flavour == "mariadb" and transactional:
            place = self._covering_snapshot(connection, low_watermark)
            yield self._with_gtid(connection, place)
            return
        self.wait_until_visible(connection, [table], low_watermark)
        # Under the lock no change of the table is on its way: what is logged is visible. Whoever
        # owns a GTID now has not changed the table yet, but may as soon as the lock is gone.
        with ExitStack() as locked:
            locker = locked.enter_context(lend()).connection
            locked.enter_context(_TableLock(locker, table, kept=not transactional))
            place = self._end(locker, in_flight=False)
            _query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
            if transactional:
                locked.close()
            yield place

    def _covering_snapshot(
        self, connection: Connection[Any], low_watermark: MySQLPosition
    ) -> MySQLPosition:
        """Start a transaction of MariaDB that shows all of ``low_watermark``; its place."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        server = self._known(connection).identity
        while True:
            place = self._snapshot(connection, server)
            if self._covers(connection, place, low_watermark):
                return place
            _query(connection, "ROLLBACK")
            if time.monotonic() > deadline:
                raise _too_late("the server's snapshots do not reach the position")
            time.sleep(_PAUSE_SECONDS)

    def _wait_for_gtids(self, connection: Connection[Any], low_watermark: MySQLPosition) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            # In steps, so that the connection's own deadline is not met by waiting.
            done = _query(
                connection, "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 5)", str(low_watermark.gtids)
            )
            if done[0][0] == 0:
                return
        raise _too_late("the server has not executed the position's GTIDs")

    def _snapshot(self, connection: Connection[Any], server: str) -> MySQLPosition:
        _query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
        status = dict(_query(connection, "SHOW STATUS LIKE 'binlog_snapshot_%'"))
        status = {name.lower(): value for name, value in status.items()}
        return MySQLPosition(
            server, status["binlog_snapshot_file"], int(status["binlog_snapshot_position"] or 0)
        )

    def _covers(
        self, connection: Connection[Any], place: MySQLPosition, low_watermark: MySQLPosition
    ) -> bool:
        if place.at_or_after(low_watermark):
            return True
        if place.server == low_watermark.server and low_watermark.file:
            return False
        # Another server than before: its files say nothing about that position.
        return not low_watermark.gtids or self._with_gtid(connection, place).at_or_after(
            low_watermark
        )

    def _with_gtid(self, connection: Connection[Any], place: MySQLPosition) -> MySQLPosition:
        found = _query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", place.file, place.offset)
        state = DomainState.parse(str(found[0][0] or ""))
        return MySQLPosition(place.server, place.file, place.offset, state)

    def _end(self, connection: Connection[Any], *, in_flight: bool) -> MySQLPosition:
        """The log's end; ``in_flight``: with the transactions that are committing just now."""
        # A GTID is owned until its rows are visible and it is executed: in this order none of what
        # is visible can be missed.
        in_flight = in_flight and self.flavour == "mysql"
        committing = owned_gtids(connection) if in_flight else None
        end = log_end(connection, self._known(connection))
        if committing is None or not isinstance(end.executed, GtidSet):
            return end
        return msgspec.structs.replace(end, executed=end.executed.union(committing))

    def _known(self, connection: Connection[Any]) -> ServerInfo:
        if self._info is None:
            self._info = read_server_info(connection)
        return self._info


class _TableLock:
    """A context in which nobody changes the table and all its changes are visible.

    The rights to lock one table are tried first, then, if it is not ``kept`` for longer than a
    moment, those to lock all. Ends with an error if the lock was lost.
    """

    def __init__(self, connection: Connection[Any], table: Table, *, kept: bool = False) -> None:
        self._connection = connection
        self._table = table
        self._kept = kept

    def __enter__(self) -> None:
        connection = self._connection
        _query(connection, f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_SECONDS}")
        deadline = time.monotonic() + _DEADLINE_SECONDS
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
                raise _too_late("a transaction keeps the table from being locked for a moment")
            time.sleep(_PAUSE_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return  # the connection is closed, and the lock with it
        _query(self._connection, "UNLOCK TABLES")
        _query(self._connection, "SET SESSION lock_wait_timeout = DEFAULT")

    def _denied(self) -> SourceError:
        schema = quote_name(self._table.id.schema)
        return SourceError(
            "the user may not lock the table, which its copy needs",
            hint=f"GRANT LOCK TABLES, SELECT ON {schema}.* TO the user of the source's url",
            table=self._table.id,
        )


def _without_transactions(connection: Connection[Any], tables: Sequence[Table]) -> list[Table]:
    """Those whose engine has no transactions, and so no consistent snapshots either."""
    where, names = among([table.id for table in tables])
    found = _query(connection, _TRANSACTIONAL.format(where=where), *names)
    transactional = {TableId(*row) for row in found}
    return [table for table in tables if table.id not in transactional]


def _too_late(reason: str) -> SourceError:
    return SourceError(
        f"{reason} within {_DEADLINE_SECONDS:.0f} seconds",
        hint="Look for long transactions on the source (SHOW PROCESSLIST), end them, and go on.",
    )


def _query(connection: Connection[Any], query: str, *arguments: object) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments or None)
        return list(cursor.fetchall())
