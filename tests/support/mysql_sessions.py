"""
Sessions and settings of MySQL and MariaDB servers, for tests of live sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.databases.mysql.connect import connect, query
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.servers import AnyServer, connect_mysql

HEARTBEAT_SECONDS = 0.5
MIB = 1 << 20

#: The fixture ``fresh_mysql_database``: makes a database on a server and returns its name.
FreshDatabase = Callable[[AnyServer], str]


def source_of(server: AnyServer, database: str, **settings: Any) -> MySQLSource:
    """A source that follows all tables of one database."""
    defaults = {
        "url": server.url,
        "tables": (f"{database}.*",),
        "heartbeat_seconds": HEARTBEAT_SECONDS,
    }
    return MySQLSource(MySQLSettings(**{**defaults, **settings}))


class Writer:
    """An ordinary session of an application."""

    def __init__(self, server: AnyServer, database: str) -> None:
        self.server, self.database = server, database
        self.connection = connect_mysql(server, database)

    def __call__(self, *statements: str) -> None:
        for statement in statements:
            with self.connection.cursor() as cursor:
                cursor.execute(statement)

    def one(self, statement: str) -> Any:
        """The first row of a query."""
        return query(self.connection, statement)[0]

    def reconnect(self) -> None:
        """End the session and open another one."""
        self.connection.close()
        self.connection = connect_mysql(self.server, self.database)


def prepare_xa(writer: Writer, xid: str, id: int, table: str = "t") -> None:
    """Prepare an XA transaction that inserts one row, and leave it to another session."""
    writer(f"XA START {xid}", f"INSERT INTO {table} VALUES ({id}, 'xa')", f"XA END {xid}")
    writer(f"XA PREPARE {xid}")
    writer.reconnect()


def cipher(settings: MySQLSettings) -> str:
    """The TLS cipher of a new session; empty without TLS."""
    connection = connect(settings)
    try:
        return str(query(connection, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1])
    finally:
        connection.close()


def with_user(server: AnyServer, user: str, **settings: Any) -> MySQLSettings:
    """The settings of a source; ``user`` is ``name:password`` as in a URL."""
    url = f"mysql://{user}@{server.host}:{server.port}/"
    return MySQLSettings(url=url, timeout_seconds=10.0, **settings)
