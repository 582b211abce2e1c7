"""
The kind, identity and settings of the source's server, and the end of its log.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import is_mariadb, query, version_number
from engine.errors import SourceError
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition

__all__ = [
    "ServerInfo",
    "LogFile",
    "folds_names",
    "log_end",
    "log_files",
    "owned_gtids",
    "read_server_info",
    "visible_log_end",
    "status_statement",
]

#: How long a commit may take from being visible to its GTID being executed.
_COMMIT_SECONDS: Final = 1
#: The owner (a thread id) of each GTID in gtid_owned.
_OWNER: Final = re.compile(r"#[0-9]+")


class ServerInfo(NamedTuple):
    """Facts about a server that do not change while it runs.

    ``identity`` is its UUID, or the server id of MariaDB. ``gtids``: every transaction in the log
    has a GTID. ``fold_names``: the server stores table names in lower case.
    """

    mariadb: bool
    version: tuple[int, ...]
    identity: str
    gtids: bool
    fold_names: bool


class LogFile(NamedTuple):
    """A file of the server's log, and its size in bytes."""

    name: str
    size: int


def read_server_info(connection: Connection[Any]) -> ServerInfo:
    """Query the server. Raises SourceError, SourceLost."""
    mariadb = is_mariadb(connection)
    version = version_number(connection)
    identity = "@@GLOBAL.server_id" if mariadb else "@@GLOBAL.server_uuid"
    gtid_mode = "'ON'" if mariadb else "@@GLOBAL.gtid_mode"
    fold = "@@GLOBAL.lower_case_table_names"
    row = query(connection, f"SELECT {identity}, {gtid_mode}, {fold}")[0]
    return ServerInfo(mariadb, version, str(row[0]), row[1] == "ON", folds_names(int(row[2])))


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


def log_end(connection: Connection[Any], info: ServerInfo) -> MySQLPosition:
    """The end of the log now. Raises SourceError if the server has no binary log."""
    executed: GtidSet | DomainState | None = None
    before = _binlog_state(connection) if info.mariadb else ""
    rows = query(connection, status_statement(info))
    if not rows:
        raise SourceError("the source has no binary log", hint="run `tailrace check`")
    file, offset, *rest = rows[0]
    if info.gtids and not info.mariadb:
        executed = GtidSet.parse(rest[2])
    if info.mariadb:
        if _binlog_state(connection) != before:
            # A transaction was logged between the queries, before or after the offset.
            place = (file, int(offset))
            before = str(query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", place)[0][0] or "")
        executed = DomainState.parse(before)
    return MySQLPosition(info.identity, file, int(offset), executed)


def _binlog_state(connection: Connection[Any]) -> str:
    return str(query(connection, "SELECT @@GLOBAL.gtid_binlog_pos")[0][0])


def visible_log_end(connection: Connection[Any], info: ServerInfo) -> MySQLPosition:
    """The end of the log, at or after everything that was visible before the call.

    MySQL makes a transaction or a new table visible a moment before its GTID counts as executed.
    Until then the GTID is owned. So this waits for the owned GTIDs, but not for long: a GTID that a
    session has set itself, as a replica does, is owned while its transaction is not visible yet.
    While transactions commit, file and offset may not match the GTIDs, and are left out.
    """
    if info.mariadb or not info.gtids:
        return log_end(connection, info)
    if (committing := owned_gtids(connection)) is not None:
        wait = "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)"
        query(connection, wait, (str(committing), _COMMIT_SECONDS))
    before = log_end(connection, info)
    quiet = owned_gtids(connection) is None
    end = log_end(connection, info)
    if quiet and str(before) == str(end):
        return end
    return msgspec.structs.replace(end, file="", offset=0)


def owned_gtids(connection: Connection[Any]) -> GtidSet | None:
    """The GTIDs of the transactions that MySQL is committing; None if there are none."""
    owned = str(query(connection, "SELECT @@GLOBAL.gtid_owned")[0][0] or "")
    return GtidSet.parse(_OWNER.sub("", owned)) if owned else None


def log_files(connection: Connection[Any]) -> list[LogFile]:
    """The files of the log that the server still has, oldest first."""
    return [LogFile(row[0], int(row[1])) for row in query(connection, "SHOW BINARY LOGS")]
