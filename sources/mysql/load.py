"""
Short looks at a server: whether it accepts connections, and how busy it is.

``Threads_running`` ("Server Status Variables" in MySQL's manual and MariaDB's) is the number of
threads that are not sleeping. Every account may read it, in all releases. The session that reads it
is one of them, and so is each thread that sends the log to a replica, all the time. MariaDB also
counts threads of its own that its list of processes shows.
"""

from __future__ import annotations

from typing import Any, Final

from pymysql.connections import Connection

from engine.databases.mysql.connect import establish, prepare, query
from engine.databases.mysql.settings import ConnectionSettings
from engine.errors import SourceError

__all__ = ["accepts_connections", "other_threads_running"]

#: How long the server may take to accept a connection when it is probed.
_PROBE_SECONDS: Final = 2.0
#: The threads of Tailrace: the one that asks, and the one that sends the log to the engine.
_OWN_THREADS: Final = 2


def accepts_connections(settings: ConnectionSettings) -> bool:
    """Whether a connection can be made now, within a few seconds."""
    connection = prepare(settings, timeout_seconds=_PROBE_SECONDS)
    try:
        establish(connection)
    except SourceError:
        return False
    connection.close()
    return True


def other_threads_running(session: Connection[Any]) -> int:
    """The number of threads that execute a statement, without those of Tailrace."""
    found = query(session, "SHOW GLOBAL STATUS LIKE 'Threads_running'")
    if not found:
        raise SourceError(
            "the source does not tell its status variable Threads_running",
            hint="busy_threads = 0 in [verify] compares tables however busy the source is",
        )
    return max(0, int(found[0][1]) - _OWN_THREADS)
