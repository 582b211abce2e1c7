"""
The replica's connection: lost connections, heartbeats and server ids.
"""

from __future__ import annotations

import os
import signal
import struct

import pytest
from pymysql.constants import COMMAND

from engine.databases.mysql.connect import query
from engine.databases.mysql.pymysql_adapter import force_close, read_ok, send_command, take_socket
from engine.errors import SourceLost
from engine.sandbox import Server
from sources.mysql.binlog.connection import replica_host
from sources.mysql.position import parse_position
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer, connect_mysql


def test_a_hanging_server_is_detected_by_missing_heartbeats(
    mariadb_10: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    if not isinstance(mariadb_10, Server):
        pytest.skip("stops the server's process")
    source = source_of(mariadb_10, fresh_mysql_database(mariadb_10), heartbeat_seconds=0.2)
    start = source.position()
    with Following(source, start, ()) as following:
        following.wait(start)
        os.kill(mariadb_10.process_id, signal.SIGSTOP)
        try:
            error = following.failure()
        finally:
            os.kill(mariadb_10.process_id, signal.SIGCONT)
    assert isinstance(error, SourceLost)
    assert "heartbeat" in str(error)


def test_a_killed_dump_connection_is_lost(writer: Writer, source: MySQLSource) -> None:
    if not isinstance(writer.server, Server):
        pytest.skip("kills replicas' connections")
    start = source.position()
    with Following(source, start, ()) as following:
        following.wait(start)
        dumps = query(
            writer.connection,
            "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'",
        )
        for (id,) in dumps:
            writer(f"KILL {id}")
        assert isinstance(following.failure(), SourceLost)


def test_the_server_id_of_the_source_is_refused(writer: Writer) -> None:
    own = int(writer.one("SELECT @@server_id")[0])
    source = source_of(writer.server, writer.database, server_id=own)
    with Following(source, source.position(), ()) as following:
        assert "server_id" in following.failure().hint


def test_a_server_id_of_another_replica_is_refused(writer: Writer) -> None:
    other = connect_mysql(writer.server)
    query(other, "SET @master_binlog_checksum = 'CRC32', @mariadb_slave_capability = 4")
    host = b"elsewhere"
    registration = struct.pack("<IB", 4242, len(host)) + host + bytes(12)
    send_command(other, COMMAND.COM_REGISTER_SLAVE, registration)
    read_ok(other)
    position = parse_position(source_of(writer.server, writer.database).position())
    dump = struct.pack("<IHI", position.offset, 0, 4242) + position.file.encode()
    send_command(other, COMMAND.COM_BINLOG_DUMP, dump)
    assert take_socket(other, timeout_seconds=20.0).recv(1)  # the dump has started
    source = source_of(writer.server, writer.database, server_id=4242)
    with Following(source, str(position), ()) as following:
        assert "another replica" in str(following.failure())
    force_close(other)


def test_a_newer_engine_of_the_pipeline_takes_over(writer: Writer) -> None:
    one, two = (source_of(writer.server, writer.database, server_id=4343) for _ in range(2))
    start = one.position()
    with Following(one, start, ()) as first:
        first.wait(start)
        with Following(two, start, ()) as second:
            second.wait(start)
            error = first.failure()
    assert "the same server_id" in str(error)
    assert error.retryable


def test_a_server_id_of_another_pipeline_is_refused(writer: Writer) -> None:
    one = source_of(writer.server, writer.database, server_id=4444)
    two = source_of(writer.server, writer.database, server_id=4444, exclude=("*.none",))
    start = one.position()
    with Following(one, start, ()) as first:
        first.wait(start)
        assert [each.level for each in two.check() if "4444" in each.message] == ["error"]
        with Following(two, start, ()) as second:
            assert "another replica" in str(second.failure())
        assert [each for each in one.check() if each.level == "error"] == []
        writer("INSERT INTO t VALUES (1, 'x')")
        first.wait()


def test_the_replica_host_contains_no_secret() -> None:
    one = MySQLSettings(url="mysql://user:secret@host/")
    two = MySQLSettings(url="mysql://other:changed@host:3306/")
    assert replica_host(one) == replica_host(two)
    assert replica_host(one).startswith("tailrace-")
    assert len(replica_host(one)) < 60
