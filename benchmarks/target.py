"""
The PostgreSQL that everything is measured into.

The idea: each repetition starts from the same state, a fresh copy of a template database. When rows
became visible is read afterwards from the server's own record of its commits, so nothing has to
look while the engine works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from benchmarks.kept import Sums
from benchmarks.workloads import DATABASE, Form
from engine.change import CaughtUp, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.errors import ConfigError, SinkError
from engine.sandbox import Server, start_postgres
from engine.schema import Table
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink

__all__ = ["PIPELINE", "Committed", "Target", "private_target"]

PIPELINE = "bench"
#: fsync and synchronous commit stay on. Vacuum would start at moments of its own.
TARGET_OPTIONS = (
    "shared_buffers=1GB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
    "autovacuum=off",
    "track_commit_timestamp=on",
)
TIMEOUT = "-c statement_timeout=600s"
#: The comment on a database that says that it is ours, to be dropped.
MARK = "made by tailrace bench"
SETTINGS = ("fsync", "synchronous_commit", "wal_level", "shared_buffers", "max_wal_size")


class Committed(NamedTuple):
    """One transaction of the target: its commit's Unix time, and the workload's rows in it."""

    at: float
    rows: int


@contextmanager
def private_target(release: str = "15") -> Iterator[Target]:
    """A private server with the options that all measurements share."""
    with start_postgres(release, options=TARGET_OPTIONS) as server:
        yield Target(server.url, server)


class Target:
    """A server at ``url`` (of a database on it) where databases may be made and dropped."""

    def __init__(self, url: str, server: Server | None = None) -> None:
        self.url = url
        self.process_id = None if server is None else server.process_id
        self._count = 0

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a new database, a copy of that at the URL ``template``; dropped at the end."""
        self._count += 1
        with self.named(f"{DATABASE}_{self._count}", template) as url:
            yield url

    @contextmanager
    def named(self, name: str, template: str | None = None) -> Iterator[str]:
        """As ``database``, of a given name. Raises ConfigError if somebody else has such a one."""
        self._refuse_foreign(name)
        database = sql.Identifier(name)
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database)
        create = sql.SQL("CREATE DATABASE {}").format(database)
        if template is not None:
            create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(_database(template)))
        mark = sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, MARK)
        self._execute(drop, create, mark)
        try:
            yield self._url_of(name)
        finally:
            self._execute(drop)

    def calm(self) -> None:
        """Write out what former runs have left behind, where we may."""
        with suppress(InsufficientPrivilege), self._connect() as connection:
            connection.execute("CHECKPOINT")

    def facts(self) -> dict[str, str]:
        """The server's version, and the settings that speed depends on."""
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
                [list(SETTINGS)],
            ).fetchall()
            version = str(connection.info.parameter_status("server_version")).split()[0]
        return {"version": version, **{str(name): str(value) for name, value in rows}}

    def version(self) -> str:
        """Of the server."""
        return self.facts()["version"]

    def _refuse_foreign(self, database: str) -> None:
        """Raises ConfigError if there is a database of this name that the benchmarks did not
        make."""
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        with self._connect() as connection:
            found = connection.execute(query, [database]).fetchone()
        if found is not None and found[0] != MARK:
            raise ConfigError(
                f"the target has a database {database} that the benchmarks did not make",
                hint=f"They would drop it. Rename or drop it yourself; theirs say {MARK!r}.",
            )

    def _url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    def _execute(self, *statements: sql.SQL | sql.Composed) -> None:
        with self._connect() as connection:
            try:
                for statement in statements:
                    connection.execute(statement)
            except psycopg.Error as error:
                raise SinkError(
                    f"the target refuses what the benchmarks need: {error.diag.message_primary}",
                    hint="They need a role that may make databases (CREATEDB).",
                ) from error

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        try:
            return psycopg.connect(self.url, autocommit=True, options=TIMEOUT)
        except psycopg.OperationalError as error:
            raise SinkError(f"the target cannot be reached: {error}") from error


def _database(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


class Mirror:
    """The database at ``url`` as an engine keeps it, made by the engine's own sink."""

    def __init__(self, url: str) -> None:
        self._sink = PostgresSink(PostgresSettings(url=url), PIPELINE)
        self._checkpoint: Checkpoint | None = None

    async def __aenter__(self) -> Self:
        self._epoch = (await self._sink.open()).epoch
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sink.close()

    async def create(self, tables: Sequence[Table], position: str) -> None:
        """The tables, empty, followed from ``position`` on."""
        await self._sink.apply([SchemaChange("", None, table) for table in tables])
        progress = {table.id: TableProgress("live") for table in tables}
        self._checkpoint = Checkpoint(PIPELINE, self._epoch, position, 0.0, progress)
        await self._sink.commit(self._checkpoint)

    async def settle(self, tables: Sequence[Table]) -> None:
        """Their secondary indexes."""
        assert self._checkpoint is not None
        await self._sink.apply([CaughtUp(table) for table in tables])
        await self._sink.commit(self._checkpoint)


def sums(url: str, form: Form) -> Sums:
    """The sums of the table as the target has it."""
    digest = f"encode(sha256(convert_to(concat_ws('|', {form.postgres_text}), 'UTF8')), 'hex')"
    query = (
        f"SELECT count(*), coalesce(sum(('x' || left({digest}, 8))::bit(32)::bigint), 0)"
        f" FROM {DATABASE}.{form.name}"
    )
    rows, checksum = ask(url, query)
    return Sums(int(rows), int(checksum))


def transaction_id(url: str) -> int:
    """The id of a transaction that begins now: all earlier ones have smaller ids."""
    (id,) = ask(url, "SELECT pg_current_xact_id()::text::bigint")
    return int(id)


def commits(url: str, form: Form, first: int, last: int) -> list[Committed]:
    """The transactions between these ids, with the rows that each has left in the table; empty if
    the server does not record when its transactions commit.
    """
    query = f"""
        SELECT extract(epoch FROM pg_xact_commit_timestamp(id::text::xid))::float8, coalesce(n, 0)
        FROM generate_series({first + 1}::bigint, {last - 1}::bigint) AS id LEFT JOIN
          (SELECT xmin::text::bigint AS id, count(*) AS n FROM {DATABASE}.{form.name} GROUP BY 1) t
          USING (id)
        WHERE current_setting('track_commit_timestamp')::bool
          AND pg_xact_commit_timestamp(id::text::xid) IS NOT NULL
        ORDER BY 1"""
    with psycopg.connect(url, options=TIMEOUT) as connection:
        return [Committed(*row) for row in connection.execute(query.encode()).fetchall()]


def run(url: str, *statements: str) -> None:
    """Statements, each committed by itself."""
    with psycopg.connect(url, autocommit=True, options=TIMEOUT) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ask(url: str, query: str) -> tuple[Any, ...]:
    """The one row of a query."""
    with psycopg.connect(url, options=TIMEOUT) as connection:
        return connection.execute(query.encode()).fetchone() or ()


def secondary_indexes(url: str, form: Form) -> list[tuple[str, str]]:
    """Name and definition of each index of the table but the key's."""
    query = (
        "SELECT format('%I.%I', schemaname, indexname), indexdef FROM pg_indexes JOIN pg_index"
        " ON indexrelid = format('%I.%I', schemaname, indexname)::regclass"
        f" WHERE NOT indisprimary AND schemaname = '{DATABASE}' AND tablename = '{form.name}'"
    )
    with psycopg.connect(url, options=TIMEOUT) as connection:
        return [(str(a), str(b)) for a, b in connection.execute(query.encode()).fetchall()]
