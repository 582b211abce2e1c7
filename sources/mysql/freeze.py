"""
Stops the writes to a MySQL or MariaDB server, and lets them go on.

``super_read_only`` of MySQL refuses the writes of every user. MariaDB, and MySQL before 5.7.8, have
``read_only`` alone, which users with READ ONLY ADMIN or SUPER pass. So the caller watches the end
of the log, too. MySQL manual, "Server System Variables", and MariaDB's "Server System Variables".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import connect, error_code, query
from engine.errors import SourceDenied, SourceError, SourceLost
from engine.handover import Changed, Since
from engine.schema import Table
from sources.mysql.changed_tables import read_changed
from sources.mysql.settings import MySQLSettings

__all__ = ["MySQLFreezer"]

_VARIABLES: Final = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only')"
# A server refuses it for want of the right also where the value stays the same.
_PROBE: Final = "SET GLOBAL read_only = @@GLOBAL.read_only"
_CLIENTS: Final = """
SELECT user, count(*) FROM information_schema.processlist
WHERE command NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon')
AND user NOT IN ('system user', 'event_scheduler')
AND user <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1)
GROUP BY user ORDER BY user"""
_PENDING: Final = """
SELECT id FROM information_schema.processlist
WHERE info LIKE 'SET GLOBAL %read_only = ON' AND id <> CONNECTION_ID()"""
_NO_SUCH_THREAD: Final = 1094
_POLL_SECONDS: Final = 0.05
_RIGHT: Final = (
    "grant the source's user SYSTEM_VARIABLES_ADMIN (MySQL 8.0 or newer), READ ONLY ADMIN (MariaDB"
    " 10.5 or newer) or SUPER, or set hooks in [cutover.freeze] and [cutover.thaw]"
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
            return f"{error.message}; {_RIGHT}"
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

    def clients(self) -> list[str]:
        """As ``Freezer.clients``. Without the right PROCESS there are none."""
        return [f"{user} ({count})" for user, count in query(self._connection, _CLIENTS)]

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
