"""
Stops the writes to a MySQL or MariaDB server, and lets them go on.

``super_read_only`` of MySQL refuses the writes of every user. MariaDB, and MySQL before 5.7.8, have
``read_only`` alone, which users with READ ONLY ADMIN or SUPER pass. So the caller watches the end
of the log, too. MySQL manual, "Server System Variables", and MariaDB's "Server System Variables".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import connect, error_code, is_mariadb, query, version_number
from engine.errors import SourceDenied, SourceError, SourceLost
from engine.handover import Changed, Connected, Since
from engine.schema import Table
from sources.mysql.changed_tables import read_changed
from sources.mysql.rights import freeze
from sources.mysql.settings import MySQLSettings
from sources.mysql.stored_programs import may_see_sessions

__all__ = ["MySQLFreezer"]

_VARIABLES: Final = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only')"
# A server refuses it for want of the right also where the value stays the same.
_PROBE: Final = "SET GLOBAL read_only = @@GLOBAL.read_only"
_CLIENTS: Final = """
SELECT user, count(*) FROM information_schema.processlist
WHERE command NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon')
AND user NOT IN ('system user', 'event_scheduler')
AND user <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1) AND id <= %s
GROUP BY user ORDER BY user"""
_PENDING: Final = """
SELECT id FROM information_schema.processlist
WHERE info LIKE 'SET GLOBAL %read_only = ON' AND id <> CONNECTION_ID()"""
_NO_SUCH_THREAD: Final = 1094
#: No session has a greater number.
_LAST_SESSION: Final = 2**64 - 1
_POLL_SECONDS: Final = 0.05
_PROCESS: Final = (
    "the source's user cannot see the sessions of others: GRANT PROCESS ON *.* TO <user>"
)
_OFF: Final = "OFF"


class MySQLFreezer:
    """A ``Freezer`` by the global variables ``read_only`` and ``super_read_only``."""

    def __init__(self, settings: MySQLSettings) -> None:
        self._settings = settings
        self._open: Connection[Any] | None = None

    def before(self) -> str:
        """The values of the variables, as JSON."""
        return msgspec.json.encode(self._variables()).decode()

    def why_not(self) -> str:
        """As ``Freezer.why_not``."""
        try:
            query(self._connection, _PROBE)
        except SourceDenied as error:
            server = self._connection
            right = freeze(is_mariadb(server), version_number(server))
            return f"{error.message}; GRANT {right} ON *.* TO <user>, or set hooks in [cutover]"
        return ""

    def freeze(self, seconds: float) -> None:
        """As ``Freezer.freeze``. The server waits for transactions that are being committed."""
        variables = self._variables()
        name = "super_read_only" if "super_read_only" in variables else "read_only"
        if variables[name] == _OFF:
            # The server gives up before the connection does.
            wait = max(1, int(min(seconds, self._settings.timeout_seconds * 0.8)))
            query(self._connection, "SET SESSION lock_wait_timeout = %s", (wait,))
            query(self._connection, f"SET GLOBAL {name} = ON")

    def is_frozen(self) -> bool:
        """As ``Freezer.is_frozen``."""
        variables = self._variables()
        return variables.get("super_read_only", variables["read_only"]) != _OFF

    def thaw(self, before: str) -> None:
        """As ``Freezer.thaw``. ``super_read_only`` goes first, because switching ``read_only`` off
        switches it off, too.
        """
        wanted = msgspec.json.decode(before, type=dict[str, str])
        self._end_pending()
        now = self._variables()
        for name in ("super_read_only", "read_only"):
            if name in wanted and now.get(name) not in (None, wanted[name]):
                query(self._connection, f"SET GLOBAL {name} = %s", (wanted[name],))

    def _end_pending(self) -> None:
        """End statements that still wait to freeze the server for a process that was killed. They
        would freeze it later.
        """
        deadline = time.monotonic() + self._settings.timeout_seconds
        while pending := query(self._connection, _PENDING):
            if time.monotonic() > deadline:
                raise SourceError(
                    "a session still waits to set read_only on the source",
                    hint="end it with KILL, and abort again",
                )
            for (thread,) in pending:
                try:
                    query(self._connection, f"KILL {thread}")
                except SourceError as error:
                    if error_code(error) != _NO_SUCH_THREAD:
                        raise
            time.sleep(_POLL_SECONDS)

    def newest_session(self) -> int:
        """As ``Freezer.newest_session``: the server numbers sessions in the order of their
        beginning.
        """
        with closing(connect(self._settings)) as session:
            ((number,),) = query(session, "SELECT CONNECTION_ID()")
        return int(number)

    def clients(self, until: int | None = None) -> Connected:
        """As ``Freezer.clients``. Without the right PROCESS, a user sees its own sessions alone."""
        server = self._connection
        found = query(server, _CLIENTS, (_LAST_SESSION if until is None else until,))
        users = tuple(f"{user} ({count})" for user, count in found)
        return Connected(users, "" if may_see_sessions(server) else _PROCESS)

    def changed(self, since: Mapping[Table, Since], seconds: float) -> Changed:
        """As ``Freezer.changed``."""
        return read_changed(self._settings, self._connection, since, seconds)

    def close(self) -> None:
        """As ``Freezer.close``."""
        connection, self._open = self._open, None
        if connection is not None:
            connection.close()

    @property
    def _connection(self) -> Connection[Any]:
        """A connection that answers. The server may have been restarted since the last question."""
        if self._open is not None:
            try:
                query(self._open, "DO 0")
            except SourceLost:
                self.close()
        if self._open is None:
            self._open = connect(self._settings)
        return self._open

    def _variables(self) -> dict[str, str]:
        """The values by name: ON or OFF."""
        rows = query(self._connection, _VARIABLES)
        return {str(name).lower(): str(value).upper() for name, value in rows}
