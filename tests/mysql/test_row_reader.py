"""The plain reads of a source: ``close`` ends one that another thread waits for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

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


def test_a_long_read_is_no_idle_time(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is kept after a read that takes longer than it may be idle."""
    now = 100_000.0
    for name in ("mysql", "postgres"):
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr(f"engine.databases.{name}.row_reader.time", clock)
    source, target = sides.source_reader, sides.target_reader
    table = sides.make("t", "id INT PRIMARY KEY")
    for _ in range(2):
        with source._reading() as connection, target._translate_errors(table):
            session = target._open()
            now += 31.0
        now += 29.0
        assert (source._connection, target._connection) == (connection, session)
        with source._reading() as again, target._translate_errors(table):
            assert (again, target._open()) == (connection, session)


#: Names of aliases that the statements of comparisons may have.
ALIASES = "part x h s t w k n v w0 w1 k0 k1 b0 v0 r0 c0 i f name"


@pytest.mark.parametrize("key", ["id INT PRIMARY KEY", "id VARCHAR(9) PRIMARY KEY", "id INT"])
def test_columns_named_like_aliases_hide_no_row(
    mysql_family: AnyServer, new_sides: Callable[..., Sides], key: str
) -> None:
    """GIVEN columns with the names of aliases, which are equal in all rows WHEN rows are missing
    and changed on the target THEN every method finds these rows.
    """
    sides = new_sides(mysql_family)
    names = ALIASES.split()
    table = sides.make("t", ", ".join([key, *(f"`{name}` INT" for name in names)]))
    ones = ", 1" * len(names)
    rows = ", ".join(f"({number}{ones})" for number in range(40))
    sides.on_source(f"INSERT INTO t VALUES {rows}")
    sides.on_target(f"INSERT INTO t VALUES {rows}")
    parts = [it.sum_parts(table) for it in (sides.source_reader, sides.target_reader)]
    assert parts[0] == parts[1]
    assert sum(it.rows for it in parts[0].values()) == 40
    for by_rows in (False, True):
        assert sides.compare(table, by_rows=by_rows).equal
    sides.on_target(
        "DELETE FROM t WHERE id IN ('17', '23')", "UPDATE t SET part = 2 WHERE id = '5'"
    )
    for by_rows in (False, True):
        report = sides.compare(table, by_rows=by_rows)
        changed = (1, 2, 0) if table.key else (0, 3, 1)
        assert (report.differing, report.missing, report.extra) == changed, by_rows
