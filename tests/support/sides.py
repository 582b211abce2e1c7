"""
A source database and a target schema that a test writes by hand, and their comparison.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg

from engine.contract import RowReader
from engine.databases.mysql.row_reader import MySQLRowReader
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.databases.postgres.stored import Storage
from engine.schema import Table, TableId
from engine.toolkit.checksums import EVERYTHING, Checksum
from engine.toolkit.policies import ReadPolicies, StoragePolicies
from engine.verify.comparison import verify
from engine.verify.report import TableReport, VerifyReport
from sinks.postgres.ddl import create_table
from sinks.postgres.settings import PostgresSettings
from sources.mysql.catalog import read_table
from sources.mysql.settings import MySQLSettings
from tests.support.background import Background
from tests.support.passing import at_once
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until_async

__all__ = ["Mirror", "Sides"]


class Sides:
    """A source database, and a target schema of the same name. ``values`` and ``reads`` are the
    policies of both sides."""

    def __init__(
        self,
        server: AnyServer,
        schema: str,
        target_url: str,
        *,
        values: StoragePolicies | None = None,
        reads: ReadPolicies | None = None,
    ) -> None:
        self.server, self.target_url = server, target_url
        self.schema = schema
        self._storage = Storage(values or StoragePolicies())
        self.source = connect_mysql(server, schema)
        with self.source.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', sql_mode = ''")
        self.target = psycopg.connect(target_url, autocommit=True)
        self.target.execute("SET timezone = 'UTC'")
        self.target.execute(f'CREATE SCHEMA "{schema}"')
        self.target.execute(f'SET search_path = "{schema}"')
        self._settings, self._reads = MySQLSettings(url=server.url), reads
        self.source_reader: RowReader = self.new_source_reader()
        target = PostgresSettings(url=target_url)
        self.target_reader = PostgresRowReader(target, Naming(), self._storage)

    def new_source_reader(self) -> MySQLRowReader:
        """A reader of the source that has read nothing."""
        return MySQLRowReader(self._settings, self._reads)

    def on_source(self, *statements: str) -> None:
        with self.source.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def on_target(self, *statements: str) -> None:
        for statement in statements:
            self.target.execute(statement)

    def make(self, name: str, definition: str) -> Table:
        """Create the table, empty, in both databases."""
        self.on_source(f"CREATE TABLE `{name}` ({definition}) CHARACTER SET utf8mb4")
        return self.make_target(self.table(name))

    def make_target(self, table: Table) -> Table:
        """Create the table, empty, on the target."""
        self.on_target(create_table(self._storage.table(table), Naming().sql(table.id)))
        return table

    def table(self, name: str) -> Table:
        table = read_table(self.source, TableId(self.schema, name))
        assert table is not None
        return table

    def compare(self, table: Table, **options: Any) -> TableReport:
        return self.compare_all([table], **options).tables[0]

    def compare_all(
        self,
        tables: Sequence[Table],
        *,
        passed: Callable[[str, float], Awaitable[bool]] | None = None,
        chunk_rows: int = 3,
        source_position: Callable[[], str] = lambda: "here",
        **options: Any,
    ) -> VerifyReport:
        comparison = verify(
            tables,
            self.source_reader,
            self.target_reader,
            source_position=source_position,
            passed=passed or at_once,
            chunk_rows=chunk_rows,
            **options,
        )
        return asyncio.run(comparison)

    def sums(self, table: Table) -> tuple[Checksum, Checksum]:
        """The checksums of all rows, of the source and of the target."""
        readers = self.source_reader, self.target_reader
        one, other = (reader.sum_range(table, EVERYTHING) for reader in readers)
        return one, other

    def close(self) -> None:
        self.source_reader.close()
        self.target_reader.close()
        self.source.close()
        self.target.close()


class Mirror(Background):
    """A writer that never pauses, and a pipeline that is a few statements behind it.

    ``statement`` returns the n-th change. If it is empty, the writer waits for the pipeline.
    """

    def __init__(self, sides: Sides, statement: Callable[[int], str]) -> None:
        super().__init__(self._run)
        self._sides = sides
        self._statement = statement
        self.done = 0

    def _run(self, stopping: threading.Event) -> None:
        queue: list[str] = []
        number = 0
        while not stopping.is_set():
            number += 1
            statement = self._statement(number)
            if statement:
                queue.append(statement)
                self._sides.on_source(statement)
            if len(queue) > 5 or not statement:
                self._sides.on_target(*queue[:1])
                del queue[:1]
                self.done += 1
        self._sides.on_target(*queue)

    async def passed(self, position: str, deadline: float) -> bool:
        wanted = self.done + 10
        await wait_until_async(lambda: self.done >= wanted)
        return True
