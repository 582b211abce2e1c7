"""
The target: a PostgreSQL server with a new database for each run.

Each repetition starts from the same state, because its database is a copy of a template database.
The moments at which rows became visible come from the server's commit timestamps, which are read
after the run, so no query runs while the engine works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from benchmarks.harness.source import Sums
from benchmarks.workloads import DATABASE, TableSpec
from engine.change import CaughtUp, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.errors import ConfigError, SinkError
from engine.sandbox import Server, start_postgres
from engine.schema import Table
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink

__all__ = ["PIPELINE", "Committed", "Target", "private_target"]

PIPELINE = "bench"
#: fsync and synchronous_commit keep their default, on. Autovacuum would disturb single runs.
TARGET_OPTIONS = (
    "shared_buffers=1GB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
    "autovacuum=off",
    "track_commit_timestamp=on",
)
TIMEOUT = "-c statement_timeout=600s"
#: The comment on a database that the benchmarks created and may drop.
MARK = "made by tailrace bench"
SETTINGS = ("fsync", "synchronous_commit", "wal_level", "shared_buffers", "max_wal_size")


class Committed(NamedTuple):
    """A transaction of the target: the Unix time of its commit, and the workload's rows in it."""

    at: float
    rows: int


@contextmanager
def private_target(release: str = "15") -> Iterator[Target]:
    """Start a private server with the options of all measurements."""
    with start_postgres(release, options=TARGET_OPTIONS) as server:
        yield Target(server.url, server)


class Target:
    """A server on which databases are created and dropped; ``url`` names any database of it."""

    def __init__(self, url: str, server: Server | None = None) -> None:
        self.url = url
        self.process_id = None if server is None else server.process_id
        self._count = 0

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """Create a database, as a copy of the one at the URL ``template`` if given; yield its URL.

        The database is dropped at the end. Raises ConfigError as ``named`` does.
        """
        self._count += 1
        with self.named(f"{DATABASE}_{self._count}", template) as url:
            yield url

    @contextmanager
    def named(self, name: str, template: str | None = None) -> Iterator[str]:
        """As ``database``, with a given name.

        Raises ConfigError if a database of this name exists that the benchmarks did not create.
        """
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

    def checkpoint(self) -> None:
        """Run CHECKPOINT, so that the next run does not write the pages of an earlier one.

        Does nothing if the role may not.
        """
        with suppress(InsufficientPrivilege), self._connect() as connection:
            connection.execute("CHECKPOINT")

    def info(self) -> dict[str, str]:
        """The server's version, and its settings that affect speed."""
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
                [list(SETTINGS)],
            ).fetchall()
            version = str(connection.info.parameter_status("server_version")).split()[0]
        return {"version": version, **{str(name): str(value) for name, value in rows}}

    def _refuse_foreign(self, database: str) -> None:
        """Raise ConfigError if this database exists and the benchmarks did not create it."""
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        with self._connect() as connection:
            found = connection.execute(query, [database]).fetchone()
        if found is not None and found[0] != MARK:
            raise ConfigError(
                f"the target has a database {database} that the benchmarks did not create",
                hint="The benchmarks drop and re-create it. Rename it or drop it yourself: the"
                f" comment {MARK!r}, which marks their own databases, is missing.",
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
                    "the target refused to create or drop a database of the benchmarks:"
                    f" {error.diag.message_primary}",
                    hint="The benchmarks need a role with CREATEDB.",
                ) from error

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        try:
            return psycopg.connect(self.url, autocommit=True, options=TIMEOUT)
        except psycopg.OperationalError as error:
            raise SinkError(f"the target cannot be reached: {error}") from error


def _database(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


class Mirror:
    """Writes tables and a checkpoint into the database at ``url`` through the engine's own sink.

    The engine then starts there as after a backfill: the tables are live at a known position.
    """

    def __init__(self, url: str) -> None:
        self._sink = PostgresSink(PostgresSettings(url=url), PIPELINE)
        self._checkpoint: Checkpoint | None = None

    async def __aenter__(self) -> Self:
        self._epoch = (await self._sink.open()).epoch
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sink.close()

    async def create(self, tables: Sequence[Table], position: str) -> None:
        """Create the tables, empty, with a checkpoint at ``position``."""
        await self._sink.apply([SchemaChange("", None, table) for table in tables])
        progress = {table.id: TableProgress("live") for table in tables}
        self._checkpoint = Checkpoint(PIPELINE, self._epoch, position, 0.0, progress)
        await self._sink.commit(self._checkpoint)

    async def create_indexes(self, tables: Sequence[Table]) -> None:
        """Create the tables' secondary indexes."""
        assert self._checkpoint is not None
        await self._sink.apply([CaughtUp(table) for table in tables])
        await self._sink.commit(self._checkpoint)


def sums(url: str, spec: TableSpec) -> Sums:
    """The sums of the table on the target."""
    digest = f"encode(sha256(convert_to(concat_ws('|', {spec.postgres_text}), 'UTF8')), 'hex')"
    query = (
        f"SELECT count(*), coalesce(sum(('x' || left({digest}, 8))::bit(32)::bigint), 0)"
        f" FROM {DATABASE}.{spec.name}"
    )
    rows, checksum = fetch_row(url, query)
    return Sums(int(rows), int(checksum))


def transaction_id(url: str) -> int:
    """The id of a transaction that begins now; all earlier transactions have smaller ids."""
    (id,) = fetch_row(url, "SELECT pg_current_xact_id()::text::bigint")
    return int(id)


def commits(url: str, spec: TableSpec, first: int, last: int) -> list[Committed]:
    """The transactions between two ids, each with the number of its rows that are in the table.

    The list is empty if the server has ``track_commit_timestamp = off``.
    """
    query = f"""
        SELECT extract(epoch FROM pg_xact_commit_timestamp(id::text::xid))::float8, coalesce(n, 0)
        FROM generate_series({first + 1}::bigint, {last - 1}::bigint) AS id LEFT JOIN
          (SELECT xmin::text::bigint AS id, count(*) AS n FROM {DATABASE}.{spec.name} GROUP BY 1) t
          USING (id)
        WHERE current_setting('track_commit_timestamp')::bool
          AND pg_xact_commit_timestamp(id::text::xid) IS NOT NULL
        ORDER BY 1"""
    with psycopg.connect(url, options=TIMEOUT) as connection:
        return [Committed(*row) for row in connection.execute(query.encode()).fetchall()]


def execute(url: str, *statements: str) -> None:
    """Execute statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True, options=TIMEOUT) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def fetch_row(url: str, query: str) -> tuple[Any, ...]:
    """The first row of a query's result; an empty tuple if there is none."""
    with psycopg.connect(url, options=TIMEOUT) as connection:
        return connection.execute(query.encode()).fetchone() or ()


def secondary_indexes(url: str, spec: TableSpec) -> list[tuple[str, str]]:
    """The name and the definition of each index of the table except the primary key's."""
    query = (
        "SELECT format('%I.%I', schemaname, indexname), indexdef FROM pg_indexes JOIN pg_index"
        " ON indexrelid = format('%I.%I', schemaname, indexname)::regclass"
        f" WHERE NOT indisprimary AND schemaname = '{DATABASE}' AND tablename = '{spec.name}'"
    )
    with psycopg.connect(url, options=TIMEOUT) as connection:
        return [(str(a), str(b)) for a, b in connection.execute(query.encode()).fetchall()]
