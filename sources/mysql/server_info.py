"""
The kind, identity and settings of the source's server, and the end of its log.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import is_mariadb, query, query_all, version_number
from engine.errors import SourceError, SourceLost
from sources.mysql.binlog.events import xid_text
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import UNKNOWN_PLACE, MySQLPosition
from sources.mysql.releases import refuse_too_old

__all__ = [
    "SWITCH_LOG_ON",
    "ServerInfo",
    "LogFile",
    "converted_time",
    "folds_names",
    "has_native_foreign_keys",
    "log_end",
    "log_files",
    "owned_gtids",
    "prepared_transactions",
    "read_server_info",
    "settled_log_end",
    "visible_log_end",
    "wait_for_gtids",
    "status_statement",
]

#: How long a commit may take from being visible to its GTID being executed.
_COMMIT_SECONDS: Final = 1
#: How long ``settled_log_end`` waits for the XA transactions that are prepared when it is called.
_PREPARED_SECONDS: Final = 1.0
_PREPARED_POLL_SECONDS: Final = 0.05
#: The remedy for a server without a binary log.
SWITCH_LOG_ON: Final = (
    "set `log_bin = binlog` below [mysqld] in the option file of the server, and restart it"
)
#: The owner (a thread id) of each GTID in gtid_owned.
_OWNER: Final = re.compile(r"#[0-9]+")
#: Not selected as @@name, because MySQL 5.5 has no server_uuid and no gtid_mode.
_VARIABLES: Final = """
SHOW GLOBAL VARIABLES WHERE Variable_name IN
    ('gtid_mode', 'hostname', 'lower_case_table_names', 'port', 'server_id', 'server_uuid')
"""
_POLL_SECONDS: Final = 0.02
_NATIVE: Final = "innodb_native_foreign_keys"
_BINLOG_STATE: Final = "SELECT @@GLOBAL.gtid_binlog_pos"
_OWNED: Final = "SELECT @@GLOBAL.gtid_owned"


class ServerInfo(NamedTuple):
    """Facts about a server that do not change while it runs.

    ``identity`` tells it from other servers: see ``_identity``. ``gtids``: every transaction in the
    log has a GTID. ``fold_names``: the server stores table names in lower case.
    """

    mariadb: bool
    version: tuple[int, ...]
    identity: str
    gtids: bool
    fold_names: bool

    @property
    def executed_is_visible(self) -> bool:
        """Whether the rows of an executed GTID are visible.

        MySQL 5.6 counts a GTID as executed when it is written to the log, before the transaction is
        committed in the engine. It has no WAIT_FOR_EXECUTED_GTID_SET, which came with 5.7.5.
        """
        return self.mariadb or self.version >= (5, 7, 5)

    @property
    def lock_waits_for_commits(self) -> bool:
        """Whether ``LOCK TABLES … READ`` waits until each writer of the table has committed.

        Before 5.7.5 MySQL's own lock belongs to the statement of a writer, not to its transaction.
        InnoDB's lock belongs to the transaction.
        """
        return self.mariadb or self.version >= (5, 7, 5)


class LogFile(NamedTuple):
    """A file of the server's log, and its size in bytes."""

    name: str
    size: int


def read_server_info(connection: Connection[Any]) -> ServerInfo:
    """Query the server. Raises SourceError for a release that is too old, SourceLost."""
    mariadb = is_mariadb(connection)
    version = version_number(connection)
    refuse_too_old(mariadb, version)
    variables = {name.lower(): value for name, value in query(connection, _VARIABLES)}
    gtids = mariadb or variables.get("gtid_mode") == "ON"
    fold_names = folds_names(int(variables["lower_case_table_names"]))
    return ServerInfo(mariadb, version, _identity(mariadb, variables), gtids, fold_names)


def _identity(mariadb: bool, variables: Mapping[str, str]) -> str:
    """What tells a server from others: its UUID, or the server id of MariaDB.

    MySQL 5.5 has no UUID, and its positions are offsets in files, which other servers have too. A
    server id is unique only among replicas, and often 1. So the host name and the port are added.
    """
    if mariadb:
        return variables["server_id"]
    place = f"{variables['server_id']}@{variables['hostname']}:{variables['port']}"
    return variables.get("server_uuid", place)


def folds_names(lower_case_table_names: int) -> bool:
    """Whether the server stores names in lower case. Raises SourceError for a server that compares
    names in lower case and stores them as they are written, which only macOS has by default: its
    log and its catalog spell a name differently.
    """
    if lower_case_table_names == 2:
        raise SourceError(
            "the source has lower_case_table_names = 2, which is not supported",
            hint="follow a replica on Linux, which has lower_case_table_names = 1 or 0",
        )
    return lower_case_table_names == 1


def status_statement(info: ServerInfo) -> str:
    """The statement that returns the end of this server's log."""
    if info.mariadb or info.version < (8, 2):
        return "SHOW MASTER STATUS"
    return "SHOW BINARY LOG STATUS"


def log_end(
    connection: Connection[Any], info: ServerInfo, *, in_flight: bool = False, then: str = ""
) -> MySQLPosition:
    """The end of the log now. Raises SourceError if the server has no binary log.

    ``in_flight`` adds the transactions that MySQL with GTIDs is committing. ``then`` is a statement
    to execute after that, in the same round trip.
    """
    executed: GtidSet | DomainState | None = None
    # A GTID is owned until its rows are visible and it is executed. So the owned GTIDs are read
    # before the executed ones: no visible transaction is missed.
    around = [_BINLOG_STATE] if info.mariadb else []
    statements = [*around, *([_OWNED] if in_flight else []), status_statement(info), *around]
    found = query_all(connection, [(sql, ()) for sql in (*statements, then) if sql])
    file, offset, *rest = _end(found[statements.index(status_statement(info))])
    if info.gtids and not info.mariadb:
        executed = GtidSet.parse(rest[2])
        if in_flight and (committing := _owned(found[0])) is not None:
            executed = executed.union(committing)
    if info.mariadb:
        before, after = str(found[0][0][0]), str(found[2][0][0])
        if before != after:
            # A transaction was logged between the queries, before or after the offset.
            place = (file, int(offset))
            before = str(query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", place)[0][0] or "")
        executed = DomainState.parse(before)
    return MySQLPosition(info.identity, file, int(offset), executed)


def _end(rows: list[Any]) -> tuple[Any, ...]:
    """The row of the end of the log: file, offset, and in MySQL at last the executed GTIDs."""
    if not rows:
        raise SourceError("the source has no binary log", hint=SWITCH_LOG_ON)
    row: tuple[Any, ...] = rows[0]
    return row


def visible_log_end(connection: Connection[Any], info: ServerInfo) -> MySQLPosition:
    """The end of the log, at or after everything that was visible before the call.

    MySQL makes a transaction or a new table visible a moment before its GTID counts as executed.
    Until then the GTID is owned. So this waits for the owned GTIDs, but not for long: a GTID that a
    session has set itself, as a replica does, is owned while its transaction is not visible yet.
    While transactions commit, file and offset may not match the GTIDs, and are left out.
    """
    if info.mariadb or not info.gtids:
        return log_end(connection, info)
    status = status_statement(info)
    look = [(sql, ()) for sql in (_OWNED, status, _OWNED, status)]
    found = query_all(connection, look)
    if (committing := _owned(found[0])) is not None:
        _wait_for_commits(connection, info, committing)
        found = query_all(connection, look)
    _, before, owned, after = found
    file, offset, *rest = _end(after)
    if _owned(owned) is not None or before != after:
        file, offset = "", 0
    return MySQLPosition(info.identity, file, int(offset), GtidSet.parse(rest[2]))


def settled_log_end(
    connection: Connection[Any], info: ServerInfo, stopped: Callable[[], bool]
) -> MySQLPosition:
    """``visible_log_end``, with the XA transactions that are prepared now. Waits for them for some
    time, or until ``stopped``.
    """
    end = visible_log_end(connection, info)
    prepared = left = prepared_transactions(connection)
    deadline = time.monotonic() + _PREPARED_SECONDS
    while left and time.monotonic() < deadline and not stopped():
        time.sleep(_PREPARED_POLL_SECONDS)
        left &= prepared_transactions(connection)
    if not prepared:
        return end
    # A committed one is visible to every later read, so its XA COMMIT may be skipped.
    places = {xid: UNKNOWN_PLACE if xid in left else "" for xid in sorted(prepared)}
    return msgspec.structs.replace(end, prepared=places)


def _wait_for_commits(connection: Connection[Any], info: ServerInfo, committing: GtidSet) -> None:
    """Wait for some time until the transactions that owned these GTIDs are committed."""
    if info.executed_is_visible:
        wait_for_gtids(connection, info, committing, _COMMIT_SECONDS)
        return
    deadline = time.monotonic() + _COMMIT_SECONDS
    while time.monotonic() < deadline:
        owned = owned_gtids(connection)
        if owned is None or str(committing.minus(owned)) == str(committing):
            return
        time.sleep(_POLL_SECONDS)


def wait_for_gtids(
    connection: Connection[Any], info: ServerInfo, gtids: GtidSet, seconds: int
) -> bool:
    """Wait until the GTIDs count as executed. Returns whether they do."""
    if info.version >= (5, 7, 5):
        wait = "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)"
        return query(connection, wait, (str(gtids), seconds)) == [(0,)]
    deadline = time.monotonic() + seconds
    while query(connection, "SELECT GTID_SUBSET(%s, @@GLOBAL.gtid_executed)", (str(gtids),)) != [
        (1,)
    ]:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def owned_gtids(connection: Connection[Any]) -> GtidSet | None:
    """The GTIDs of the transactions that MySQL is committing; None if there are none."""
    return _owned(query(connection, _OWNED))


def _owned(rows: list[Any]) -> GtidSet | None:
    owned = str(rows[0][0] or "")
    return GtidSet.parse(_OWNER.sub("", owned)) if owned else None


def converted_time(
    connection: Connection[Any], since: int, text: str, of: str, to: str
) -> str | None:
    """A time of the time zone ``of`` in the zone ``to``, as this server converts it.

    A server reads the system's time zone and the definitions of zones when it starts. None if it
    was started after ``since``, in Unix seconds, or does not know a zone.
    """
    ((_, uptime),) = query(connection, "SHOW GLOBAL STATUS LIKE 'Uptime'")
    ((now, converted),) = query(
        connection, "SELECT UNIX_TIMESTAMP(), CAST(CONVERT_TZ(%s, %s, %s) AS CHAR)", (text, of, to)
    )
    if int(now) - int(uptime) > since or converted is None:
        return None
    return str(converted).partition(".")[0]


def has_native_foreign_keys(connection: Connection[Any], info: ServerInfo) -> bool:
    """Whether InnoDB executes the actions of foreign keys, so that they are not logged.

    MySQL 9.6 introduced the execution by the SQL layer, and the variable with it.
    """
    if info.mariadb or info.version < (9, 6):
        return True
    rows = query(connection, "SHOW GLOBAL VARIABLES LIKE %s", (_NATIVE,))
    return dict(rows).get(_NATIVE) == "ON"


def log_files(connection: Connection[Any]) -> list[LogFile]:
    """The files of the log that the server still has, oldest first."""
    return [LogFile(row[0], int(row[1])) for row in query(connection, "SHOW BINARY LOGS")]


def prepared_transactions(session: Connection[Any]) -> frozenset[str]:
    """The ids of the prepared XA transactions, as the log names them."""
    try:
        rows = query(session, "XA RECOVER")
    except SourceLost:
        raise
    except SourceError:
        return frozenset()  # the user has no right to list them; `tailrace check` warns of it
    return frozenset(_xid(*row) for row in rows)


def _xid(format_id: int, global_size: int, branch_size: int, data: str | bytes) -> str:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return xid_text(raw[:global_size], raw[global_size : global_size + branch_size], format_id)
