"""
Empty databases on a PostgreSQL server.

CREATE DATABASE is a test's slowest step. So a database is emptied and lent again, if nothing of the
last test is left in it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from tests.support.servers import STATEMENT_TIMEOUT_SECONDS, AnyServer, ExternalServer

_ALWAYS = """
DO $$ DECLARE it record; BEGIN
  FOR it IN SELECT tgname, tgrelid::regclass FROM pg_trigger WHERE tgisinternal LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', it.tgrelid, it.tgname);
  END LOOP;
END $$
"""
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SCHEMAS = r"SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'"
_NEW_SCHEMA = """
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC
"""
#: What is left, of which a new database has nothing. 16384 is the first oid of a user's objects.
_LEFT = """
SELECT sum(n) FROM (
    SELECT count(*) AS n FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_cast WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_collation WHERE oid >= 16384 AND collnamespace >= 16384
    UNION ALL SELECT count(*) FROM pg_extension WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_default_acl
    UNION ALL SELECT count(*) FROM pg_event_trigger
    UNION ALL SELECT count(*) FROM pg_publication
    UNION ALL SELECT count(*) FROM pg_largeobject_metadata
    UNION ALL SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL SELECT count(*) FROM pg_replication_slots WHERE database = current_database()
    UNION ALL SELECT count(*) FROM pg_db_role_setting, pg_database
        WHERE setdatabase = pg_database.oid AND datname = current_database()
    UNION ALL SELECT count(*) FROM pg_database WHERE datname = current_database()
        AND (datacl IS NOT NULL OR datconnlimit <> -1)
) AS found
"""


class PostgresDatabases:
    """Lends empty databases of any number of servers."""

    def __init__(self) -> None:
        self._idle: dict[AnyServer, list[str]] = defaultdict(list)

    def take(self, server: AnyServer) -> str:
        """The name of an empty database."""
        if self._idle[server]:
            return self._idle[server].pop()
        name = f"t_{uuid4().hex[:12]}"
        _execute(server.url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def give_back(self, server: AnyServer, name: str) -> None:
        """Empty the database, or drop it if that is not possible."""
        if _emptied(url_of(server.url, name)):
            self._idle[server].append(name)
        else:
            _drop(server.url, name)

    def close(self) -> None:
        """Drop all idle databases. Those of private servers go with their servers."""
        for server, names in self._idle.items():
            for name in names if isinstance(server, ExternalServer) else ():
                _drop(server.url, name)


def url_of(url: str, name: str) -> str:
    """The URL of another database on the server."""
    return f"{url.rpartition('/')[0]}/{name}"


def _emptied(url: str) -> bool:
    try:
        with _connect(url) as connection:
            connection.execute(_END_SESSIONS)
            schemas = [sql.Identifier(name) for (name,) in connection.execute(_SCHEMAS)]
            drop = sql.SQL("DROP SCHEMA {} CASCADE").format(sql.SQL(", ").join(schemas))
            connection.execute(drop)
            connection.execute(_NEW_SCHEMA)
            return connection.execute(_LEFT).fetchone() == (0,)
    except psycopg.Error:
        return False


def _drop(url: str, name: str) -> None:
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    _execute(url, drop.format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    with _connect(url) as connection:
        connection.execute(statement)


def _connect(url: str) -> psycopg.Connection:
    timeout = f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s"
    return psycopg.connect(url, autocommit=True, options=timeout)


def enforce_foreign_keys(session: psycopg.Connection[Any]) -> None:
    """Have the foreign keys of a database act in all sessions. A superuser's engine switches others
    off (``session_replication_role``).
    """
    session.execute(_ALWAYS)
