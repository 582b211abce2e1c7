"""
The contract of a source (``engine.contract_suite``), run against every registered one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from engine.change import Row, Rows
from engine.contract import Source
from engine.contract_suite.freezing import FreezableContract
from engine.contract_suite.origin import COLUMNS, HEARTBEAT_SECONDS, Origin, Step
from engine.contract_suite.snapshots import SnapshotSourceContract
from engine.contract_suite.sources import FiniteSourceContract, LiveSourceContract
from engine.schema import Column, Table, TableId, Type
from engine.settings import registry
from sources import SOURCES
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings, MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.servers import AnyServer, ExternalServer, connect_mysql

NewDatabase = Callable[[AnyServer], str]


class MemoryOrigin(Origin):
    def __init__(self) -> None:
        key = Column("id", Type("int32"), "int", nullable=False)
        code, note = (Column(name, Type("text"), "text") for name in ("code", "note"))
        item = Table(TableId("shop", "item"), (key, code, note), key=(0,))
        self.tables = {"item": item, "remark": Table(TableId("shop", "remark"), (code, note))}
        self.database = MemoryDatabase()
        for table in self.tables.values():
            self.database.load(table, [])

    def execute(self, *transactions: Sequence[Step]) -> None:
        for steps in transactions:
            self.database.commit(*map(self._rows, steps))

    def _rows(self, step: Step) -> Rows:
        op: Literal["insert", "update", "delete"] = "update"
        if step.old is None or step.new is None:
            op = "insert" if step.old is None else "delete"
        before, after = (None if row is None else [row] for row in (step.old, step.new))
        return Rows(self.tables[step.table], op, before, after, size=20)

    def source(self) -> Source:
        settings = MemorySettings("memory:contract", HEARTBEAT_SECONDS, changes_per_read=3)
        return MemorySource(settings, self.database)


class Database:
    """The two tables in a database on a MySQL or MariaDB server."""

    def __init__(self, server: AnyServer, name: str) -> None:
        self.server = server
        self.name = name
        with connect_mysql(server, name) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE item (id int PRIMARY KEY, code varchar(20), note text)")
            cursor.execute("CREATE TABLE remark (code varchar(20), note text)")

    def execute(self, *transactions: Sequence[Step]) -> None:
        with connect_mysql(self.server, self.name) as connection:
            connection.autocommit(False)
            with connection.cursor() as cursor:
                for steps in transactions:
                    for step in steps:
                        cursor.execute(*self._statement(step))
                    connection.commit()

    def _statement(self, step: Step) -> tuple[str, Row]:
        names = COLUMNS[step.table]
        put = ", ".join(f"{name} = %s" for name in names)
        match = " AND ".join(f"{name} <=> %s" for name in names)
        if step.old is None:
            return f"INSERT INTO {step.table} SET {put}", step.new or ()
        if step.new is None:
            return f"DELETE FROM {step.table} WHERE {match} LIMIT 1", step.old
        return f"UPDATE {step.table} SET {put} WHERE {match} LIMIT 1", (*step.new, *step.old)


class ServerOrigin(Origin):
    """Follows the server itself."""

    def __init__(self, server: AnyServer, new_database: NewDatabase) -> None:
        self.database = Database(server, new_database(server))
        with closing(self.source()) as source:
            self._start = source.position()

    def execute(self, *transactions: Sequence[Step]) -> None:
        self.database.execute(*transactions)

    def source(self) -> Source:
        return MySQLSource(
            MySQLSettings(
                url=self.database.server.url,
                tables=(f"{self.database.name}.*",),
                heartbeat_seconds=HEARTBEAT_SECONDS,
                timeout_seconds=10.0,
            )
        )

    def start(self) -> str | None:
        return self._start


class FileOrigin(Origin):
    """Follows copies of the server's log files, each made when it is complete."""

    def __init__(self, server: AnyServer, new_database: NewDatabase, folder: Path) -> None:
        if isinstance(server, ExternalServer):
            pytest.skip("the log files of the person's own server cannot be reached")
        self.database = Database(server, new_database(server))
        self.folder = folder
        self._first = self._rotate()

    def execute(self, *transactions: Sequence[Step]) -> None:
        self.database.execute(*transactions)
        current = self._rotate()
        for path in sorted(current.parent.glob(f"{current.stem}.[0-9]*")):
            if self._first.name <= path.name < current.name:
                shutil.copy(path, self.folder)

    def _rotate(self) -> Path:
        """End the current log file; the path of the new one."""
        with connect_mysql(self.database.server) as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH BINARY LOGS")
            cursor.execute("SHOW BINARY LOGS")
            name = cursor.fetchall()[-1][0]
            cursor.execute("SELECT @@log_bin_basename")
            return Path(cursor.fetchall()[0][0]).parent / name

    def source(self) -> Source:
        url, tables = f"mysql-binlog:{self.folder}", (f"{self.database.name}.*",)
        return BinlogFileSource(BinlogFileSettings(url=url, tables=tables))


class TestMemorySource(LiveSourceContract, SnapshotSourceContract):
    @pytest.fixture
    def origin(self) -> Origin:
        return MemoryOrigin()


class TestMySQLSource(LiveSourceContract, SnapshotSourceContract, FreezableContract):
    """On MySQL, and on two releases of MariaDB."""

    @pytest.fixture
    def origin(self, mysql_family: AnyServer, fresh_mysql_database: NewDatabase) -> Origin:
        return ServerOrigin(mysql_family, fresh_mysql_database)


class TestBinlogFileSourceOfMySQL(FiniteSourceContract):
    @pytest.fixture
    def origin(self, mysql: AnyServer, fresh_mysql_database: NewDatabase, tmp_path: Path) -> Origin:
        return FileOrigin(mysql, fresh_mysql_database, tmp_path)


class TestBinlogFileSourceOfMariaDB(FiniteSourceContract):
    @pytest.fixture
    def origin(
        self, mariadb_11: AnyServer, fresh_mysql_database: NewDatabase, tmp_path: Path
    ) -> Origin:
        return FileOrigin(mariadb_11, fresh_mysql_database, tmp_path)


def test_every_registered_source_is_here() -> None:
    tested = {MemorySource, MySQLSource, BinlogFileSource}
    assert {registry.load(scheme, SOURCES, "tailrace.sources") for scheme in SOURCES} == tested
