"""
Changes that a server does not write to its log, so that they cannot be followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pymysql.connections import Connection

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.errors import SourceError, SourceLost
from sources.mysql.rights import read_replication
from sources.mysql.server_info import ServerInfo, status_statement

__all__ = ["check_format", "replicas_log", "unlogged"]

_RESTART = "in its option file and restart the server"
#: Whether a replica logs what it replicates. MySQL 8.0.26 introduced the new name.
_REPLICAS_LOG = ("log_slave_updates", "log_replica_updates")
_VARIABLES = f"""
SHOW GLOBAL VARIABLES WHERE Variable_name IN {(*_REPLICAS_LOG, "wsrep_on")}
"""


def check_format(format: str) -> Finding:
    """The finding about ``binlog_format``. Servers that have no such variable log rows."""
    if format in ("", "ROW"):
        return Finding("ok", "binlog_format", "rows are logged as rows")
    return Finding(
        "error",
        "binlog_format",
        f"binlog_format is {format}: changes are logged as statements, which do not contain their"
        " rows",
        "SET GLOBAL binlog_format = 'ROW'; set it in the option file too, and let open sessions"
        " reconnect",
        code="MY003",
    )


def unlogged(
    session: Connection[Any], info: ServerInfo, schemas: Iterable[str]
) -> Iterator[Finding]:
    """Findings about changes in these schemas that are not logged.

    ``schemas`` are the schemas of the followed tables. A finding is an error if changes are not
    logged, and a warning if that is possible. Raises SourceLost, and SourceError if the state of
    the log cannot be queried.
    """
    yield from _filters(session, info, sorted(set(schemas)))
    yield from _replicated(session, info)


def _filters(session: Connection[Any], info: ServerInfo, schemas: list[str]) -> Iterator[Finding]:
    rows = query(session, status_statement(info))
    only, never = (set(filter(None, str(text).split(","))) for text in rows[0][2:4])
    if not only and not never:
        return
    # As in the server: if binlog_do_db is set, binlog_ignore_db has no effect.
    hidden = [name for name in schemas if (name not in only if only else name in never)]
    action = f"remove binlog_do_db and binlog_ignore_db {_RESTART}"
    if hidden:
        message = f"changes in {', '.join(hidden)} are not logged"
        yield Finding("error", "binlog_do_db", message, action, code="MY012")
    else:
        message = "a statement such as TRUNCATE is not logged if USE has selected another database"
        yield Finding("warning", "binlog_do_db", message, action, code="MY013")


def _replicated(session: Connection[Any], info: ServerInfo) -> Iterator[Finding]:
    variables = {name.lower(): value for name, value in query(session, _VARIABLES)}
    if replicas_log(variables):
        return
    galera = variables.get("wsrep_on") == "ON"
    action = f"set `log_slave_updates = ON` below [mysqld] {_RESTART}, or follow its source"
    try:
        replica = galera or bool(query(session, _replica_statement(info)))
    except SourceLost:
        raise
    except SourceError:
        right = read_replication(info.mariadb, info.version)
        message = (
            "if the server is a replica, what it replicates is not logged; the user has no right to"
            " query that"
        )
        yield Finding(
            "warning", "log_slave_updates", message, f"GRANT {right} ON *.* TO <user>", code="MY014"
        )
        return
    if replica:
        message = "the server is a replica, and what it replicates is not logged"
        yield Finding("error", "log_slave_updates", message, action, code="MY015")


def replicas_log(variables: Mapping[str, str]) -> bool:
    """Whether the server logs what it replicates, if it is a replica."""
    return "OFF" not in map(variables.get, _REPLICAS_LOG)


def _replica_statement(info: ServerInfo) -> str:
    if info.mariadb:
        return "SHOW ALL SLAVES STATUS"
    return "SHOW REPLICA STATUS" if info.version >= (8, 0, 22) else "SHOW SLAVE STATUS"
