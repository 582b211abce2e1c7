"""
A mirrored database for the tests of value policies.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import psycopg

from engine.databases.mysql.row_reader import MySQLRowReader
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.databases.postgres.stored import Storage
from engine.ops.status import Status
from engine.settings.loader import BackfillSettings, ErrorSettings, OnError
from engine.toolkit.policies import ReadPolicies, StoragePolicies
from engine.verify import comparison
from engine.verify.report import VerifyReport
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.settings import MySQLSettings
from tests.support.mirror import catch_up, make_pipeline
from tests.support.passing import at_once
from tests.support.servers import AnyServer, connect_mysql

__all__ = ["Mirror", "Rows", "verify_stopped"]

Rows = list[tuple[Any, ...]]


class Mirror:
    """A database that is mirrored, with an open connection to each side."""

    def __init__(self, server: AnyServer, database: str, target_url: str) -> None:
        self.server, self.database, self.target_url = server, database, target_url
        self.source = connect_mysql(server, database)
        self.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        self.target = psycopg.connect(target_url, autocommit=True)
        self.target.execute("SET TimeZone = 'UTC'")
        self.replaced: dict[tuple[str, str], float] = {}

    def execute(self, *statements: str) -> None:
        with self.source.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def run(
        self,
        values: StoragePolicies | None = None,
        reads: ReadPolicies | None = None,
        *,
        stops: bool = False,
        on_error: OnError = "stop",
    ) -> Status:
        """Run a pipeline until the target is current. Returns its status then."""
        pipeline = make_pipeline(
            self.server.url,
            self.target_url,
            [f"{self.database}.*"],
            backfill=BackfillSettings(
                chunk_rows=2, unlogged_change="stop" if stops else "backfill"
            ),
            values=values,
            reads=reads,
            errors=ErrorSettings(on_error),
        )
        catch_up(pipeline)
        for metric in pipeline.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == "tailrace_replaced_values_total":
                    place = sample.labels["column"], sample.labels["reason"]
                    self.replaced[place] = self.replaced.get(place, 0) + sample.value
        return pipeline.status()

    def rows(self, table: str, columns: str = "*") -> Rows:
        """The rows of the target, as text."""
        query = f'SELECT {columns} FROM "{self.database}"."{table}" AS t ORDER BY 1'
        return [tuple(map(_text, row)) for row in self.target.execute(query)]  # type: ignore[call-overload]

    def types(self, table: str) -> dict[str, str]:
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0"
        )
        return dict(self.target.execute(query, (f'"{self.database}"."{table}"',)).fetchall())

    def oid(self, table: str) -> Any:
        """What identifies the target's table: a table that replaces it has another one."""
        query = "SELECT %s::regclass::oid"
        return self.target.execute(query, (f'"{self.database}"."{table}"',)).fetchone()

    def verify(
        self, values: StoragePolicies | None = None, reads: ReadPolicies | None = None
    ) -> VerifyReport:
        settings = PostgresSettings(self.target_url, values=values or StoragePolicies())
        return verify_stopped(self.server, settings, reads)

    def close(self) -> None:
        self.source.close()
        self.target.close()


def verify_stopped(
    server: AnyServer, settings: PostgresSettings, reads: ReadPolicies | None = None
) -> VerifyReport:
    """Compare the tables of a pipeline that has caught up and does not run."""
    state = asyncio.run(PostgresSink(settings, "mirror").state())
    assert state is not None
    source = MySQLRowReader(MySQLSettings(url=server.url), reads)
    target = PostgresRowReader(settings, Naming(), Storage(settings.values))
    compared = comparison.verify(
        *(state.tables, source, target),
        source_position=lambda: "",
        passed=at_once,
        chunk_rows=2,
    )
    with closing(source), closing(target):
        return asyncio.run(compared)


def _text(value: Any) -> Any:
    return value if value is None else str(value)
