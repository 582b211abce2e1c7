"""The plain reads of a source: ``close`` ends one that another thread waits for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from engine.databases.mysql.row_reader import MySQLRowReader
from engine.errors import SinkLost, SourceLost
from engine.toolkit.checksums import KeyRange
from sources.mysql.settings import MySQLSettings
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer
from tests.support.sides import Sides
from tests.support.waiting import wait_until

WAITING = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '%metadata lock%'"


@pytest.mark.parametrize("tls", ["disable", "require"])
def test_closing_ends_a_read_that_waits(
    mysql: AnyServer, fresh_mysql_database: FreshDatabase, tls: str
) -> None:
    """GIVEN a checksum that waits for a lock WHEN the reader is closed THEN it fails at once, and
    the reader opens no other connection.
    """
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY)")
    (table,) = source_of(mysql, writer.database).catalog()
    reader = MySQLRowReader(MySQLSettings(url=f"{mysql.url}?tls={tls}"))
    assert reader.count(table) == 0
    writer("LOCK TABLES t WRITE")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.sum_range, table, KeyRange())
        try:
            wait_until(lambda: writer.one(WAITING)[0], what="a read waits")
            reader.close()
            with pytest.raises(SourceLost):
                reading.result(10)
        finally:
            writer("UNLOCK TABLES")
    reader.close()
    with pytest.raises(SourceLost):
        reader.count(table)
    writer.connection.close()


@pytest.mark.parametrize(("idle_seconds", "goes_on"), [(-1.0, True), (30.0, False)])
def test_a_connection_that_was_idle_is_opened_again(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, idle_seconds: float, *, goes_on: bool
) -> None:
    """GIVEN readers that have rested WHEN the servers have ended their connections THEN they go on
    with other ones. A connection that is lost between two reads is an error.
    """
    for name in ("mysql", "postgres"):
        monkeypatch.setattr(f"engine.databases.{name}.row_reader.IDLE_SECONDS", idle_seconds)
    table = sides.make("t", "id INT PRIMARY KEY")
    readers = sides.source_reader, sides.target_reader
    assert [reader.count(table) for reader in readers] == [0, 0]
    connection = sides.source_reader._connection
    assert connection is not None
    sides.on_source(f"KILL {connection.thread_id()}")
    sides.on_target(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE '%verify' AND datname = current_database()"
    )
    for reader, lost in zip(readers, (SourceLost, SinkLost), strict=True):
        with nullcontext() if goes_on else pytest.raises(lost):
            assert reader.count(table) == 0
