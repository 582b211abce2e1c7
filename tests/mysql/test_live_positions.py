"""
Positions of live servers with GTIDs: purged logs, positions ahead of the source, gaps and tags.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from engine.errors import SourceError
from engine.sandbox import Server
from sources.mysql.gtid import GtidSet
from sources.mysql.position import parse_position
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until


def test_a_purged_log_is_an_error_before_the_first_change(
    writer: Writer, source: MySQLSource
) -> None:
    if not isinstance(writer.server, Server):
        pytest.skip("purges the server's log")
    start = source.position()
    writer("INSERT INTO t VALUES (1, 'lost')", "FLUSH BINARY LOGS")
    file = parse_position(source.position()).file
    writer("INSERT INTO t VALUES (2, 'here')")
    if writer.server.kind == "mariadb" and writer.server.version >= "11":
        writer("SET GLOBAL slave_connections_needed_for_purge = 0")

    def purged() -> bool:
        writer(f"PURGE BINARY LOGS TO '{file}'")
        return bool(writer.one("SHOW BINARY LOGS")[0] == file)

    # The server keeps a file until it detects that the last reader of it has disconnected.
    wait_until(purged, 20.0, "the log to be purged")
    with Following(source, start, source.catalog()) as following:
        error = following.failure()
    assert isinstance(error, SourceError)
    assert not error.retryable
    assert "purged" in str(error)
    assert error.hint


def test_a_position_ahead_of_the_source_is_refused(writer: Writer, source: MySQLSource) -> None:
    position = parse_position(source.position())
    gtids = position.gtids
    assert gtids is not None
    if isinstance(gtids, GtidSet):
        ahead: Any = gtids.add("aaaaaaaa-0000-0000-0000-000000000001", 1, 9)
    else:
        domain, (server_id, sequence) = next(iter(gtids.domains.items()))
        ahead = gtids.add(domain, server_id, sequence + 1000)
    text = str(position).replace(str(gtids), str(ahead))
    with Following(source, text, source.catalog()) as following:
        assert "never had" in str(following.failure())


def test_gtids_that_fill_a_gap_are_read(
    mysql: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY)")
    source = source_of(mysql, writer.database)
    uuid, tables = "bbbbbbbb-0000-0000-0000-00000000000" + str(os.getpid() % 10), source.catalog()
    first = max((pair[1] for pair in _numbers(source, uuid)), default=0) + 1

    def insert(number: int, id: int) -> None:
        writer(f"SET gtid_next = '{uuid}:{number}'", f"INSERT INTO t VALUES ({id})")
        writer("SET gtid_next = 'AUTOMATIC'")

    with Following(source, source.position(), tables) as following:
        insert(first, 1)
        insert(first + 2, 2)
        following.wait()
    with Following(source, following.position, tables) as again:
        insert(first + 1, 3)
        again.wait()
    assert (following.inserted(), again.inserted()) == ([1, 2], [3])
    assert _numbers(source, uuid) == [(1, first + 2)] or first > 1


def _numbers(source: MySQLSource, uuid: str) -> list[tuple[int, int]]:
    gtids = parse_position(source.position()).gtids
    assert isinstance(gtids, GtidSet)
    return list(gtids.sources.get(uuid, ()))


def test_tagged_gtids(mysql: AnyServer, fresh_mysql_database: FreshDatabase) -> None:
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY)", "SET gtid_next = 'AUTOMATIC:blue'")
    source = source_of(mysql, writer.database)
    writer("INSERT INTO t VALUES (1)")
    with Following(source, source.position(), source.catalog()) as following:
        writer(
            "INSERT INTO t VALUES (2)", "SET gtid_next = 'AUTOMATIC'", "INSERT INTO t VALUES (3)"
        )
        following.wait()
    with Following(source, following.position, source.catalog()) as again:
        again.wait()
    assert (following.inserted(), again.inserted()) == ([2, 3], [])
    assert str(parse_position(following.position).gtids).count(":blue:") == 1
