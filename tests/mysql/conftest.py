"""The fixtures of the tests of MySQL and MariaDB as a source."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.databases.mysql.connect import prepare
from sources.mysql.settings import MySQLSettings
from sources.mysql.snapshot.chunks import ChunkReader
from sources.mysql.source import MySQLSource
from tests.support.mysql_chunks import MakeReader
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer


@pytest.fixture
def make_reader() -> Iterator[MakeReader]:
    """A function that makes the chunk reader of a server; the readers are closed after the test."""
    made: list[ChunkReader] = []

    def make(server: AnyServer, *, gtid: bool = True, url: str | None = None) -> ChunkReader:
        settings = MySQLSettings(url=url or server.url, timeout_seconds=20)
        flavour = "mysql" if server.kind == "mysql" else "mariadb"
        made.append(ChunkReader(lambda: prepare(settings), flavour, gtid=gtid))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


@pytest.fixture
def writer(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    """A session in a fresh database with the table ``t``, on each server in turn."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    yield writer
    writer.connection.close()


@pytest.fixture
def source(writer: Writer) -> Iterator[MySQLSource]:
    """A source that follows the database of ``writer``."""
    source = source_of(writer.server, writer.database)
    yield source
    source.close()


@pytest.fixture
def silent_log(mysql_family: AnyServer) -> Iterator[AnyServer]:
    """A server that writes as little metadata as it can: MariaDB none, MySQL charsets."""
    admin = Writer(mysql_family, "mysql")
    least = "NO_LOG" if mysql_family.kind == "mariadb" else "MINIMAL"
    admin(f"SET GLOBAL binlog_row_metadata = {least}")
    yield mysql_family
    admin("SET GLOBAL binlog_row_metadata = FULL")
    admin.connection.close()
