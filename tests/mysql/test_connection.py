"""
The source against live servers: connections, positions, and everything that breaks.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from pymysql.constants import COMMAND

from engine.change import Commit, Heartbeat, SchemaChange, Truncate
from engine.databases.mysql.connect import connect, query
from engine.databases.mysql.connect import prepare as prepared
from engine.databases.mysql.settings import address_of
from engine.errors import ConfigError, SourceError, SourceLost, TailraceError
from engine.sandbox import Server, start_mysql
from engine.schema import TableId
from sources.mysql.binlog.connection import replica_host
from sources.mysql.gtid import GtidSet
from sources.mysql.position import parse_position
from sources.mysql.settings import MySQLSettings, selector
from sources.mysql.source import MySQLSource
from tests.support.changes import Replica
from tests.support.following import Following
from tests.support.servers import AnyServer, connect_mysql, obtain
from tests.support.waiting import wait_until

HEARTBEAT_SECONDS = 0.5
MIB = 1 << 20

Fresh = Callable[[AnyServer], str]


def source_of(server: AnyServer, database: str, **settings: Any) -> MySQLSource:
    defaults = {"tables": (f"{database}.*",), "heartbeat_seconds": HEARTBEAT_SECONDS}
    return MySQLSource(MySQLSettings(url=server.url, **{**defaults, **settings}))


class Writer:
    """An ordinary session of an application."""

    def __init__(self, server: AnyServer, database: str) -> None:
        self.server, self.database = server, database
        self.connection = connect_mysql(server, database)

    def __call__(self, *statements: str) -> None:
        for statement in statements:
            with self.connection.cursor() as cursor:
                cursor.execute(statement)

    def one(self, statement: str) -> Any:
        return query(self.connection, statement)[0]

    def reconnect(self) -> None:
        self.connection.close()
        self.connection = connect_mysql(self.server, self.database)


@pytest.fixture
def writer(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> Iterator[Writer]:
    """A session in a fresh database with the table ``t``, on each server in turn."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    yield writer
    writer.connection.close()


@pytest.fixture
def source(writer: Writer) -> Iterator[MySQLSource]:
    source = source_of(writer.server, writer.database)
    yield source
    source.close()


@pytest.fixture(scope="module")
def plain_mysql() -> Iterator[Server]:
    """A MySQL without GTIDs, metadata, whole images, and with statements in its log."""
    options = (
        "--gtid-mode=OFF",
        "--enforce-gtid-consistency=OFF",
        "--binlog-row-metadata=MINIMAL",
        "--binlog-row-image=MINIMAL",
        "--binlog-format=MIXED",
        "--binlog-expire-logs-seconds=3600",
        "--binlog-ignore-db=unlogged",
        "--log-replica-updates=OFF",
    )
    with obtain(lambda: start_mysql(options=options)) as server:
        yield server


@pytest.fixture
def plain_writer(plain_mysql: Server, fresh_mysql_database: Fresh) -> Iterator[Writer]:
    writer = Writer(plain_mysql, fresh_mysql_database(plain_mysql))
    writer("SET binlog_format = 'ROW'", "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))")
    yield writer
    writer.connection.close()


# -- the stream ------------------------------------------------------------------------------------


def test_what_is_written_arrives(writer: Writer, source: MySQLSource) -> None:
    with Following(source, source.position(), source.catalog()) as following:
        writer(
            "INSERT INTO t VALUES (1, 'one'), (2, 'two')",
            "UPDATE t SET id = 3 WHERE id = 2",
            "ALTER TABLE t ADD COLUMN more INT",
            "INSERT INTO t VALUES (4, 'four', 44)",
            "DELETE FROM t WHERE id = 1",
            "FLUSH BINARY LOGS",
            "INSERT INTO t VALUES (5, NULL, 55)",
        )
        following.wait()
    replica = Replica([following.rows[0].table])
    replica.apply(following.changes)
    assert sorted(replica.rows["t"]) == [(3, "two", None), (4, "four", 44), (5, None, 55)]


def test_the_position_of_a_commit_is_the_servers(writer: Writer, source: MySQLSource) -> None:
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (1, 'one')")
        end = source.position()
        following.wait(end)
    (commit,) = (change for change in following.changes if isinstance(change, Commit))
    assert str(commit.position) == end
    assert source.backlog(end) == 0
    assert source.reached(end, str(commit.position))


def test_every_position_is_one_to_go_on_from(writer: Writer, source: MySQLSource) -> None:
    start, tables = source.position(), source.catalog()
    with Following(source, start, tables) as following:
        for id in range(1, 6):
            writer(f"INSERT INTO t VALUES ({id}, 'x')")
        following.wait()
    commits = [change for change in following.changes if isinstance(change, Commit)]
    for done, commit in enumerate(commits, start=1):
        with Following(source, str(commit.position), tables) as again:
            again.wait(str(commits[-1].position))
        assert again.inserted() == list(range(done + 1, 6))


def test_an_idle_server_shows_that_it_lives(writer: Writer, source: MySQLSource) -> None:
    start = source.position()
    with Following(source, start, source.catalog()) as following:
        following.wait(start)
    assert not following.rows


def test_what_is_not_followed_moves_the_position(writer: Writer) -> None:
    source = source_of(writer.server, writer.database, exclude=("*.noise",))
    writer("CREATE TABLE noise (id INT PRIMARY KEY)")
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO noise VALUES (1)")
        following.wait()
    assert not following.rows


def test_the_log_can_be_read_from_its_beginning(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    plain_writer("INSERT INTO t VALUES (1, 'x')")
    with Following(source, None, ()) as following:
        following.wait()
    assert following.inserted() == [1]


def test_stop_ends_a_stream_that_waits(writer: Writer) -> None:
    source = source_of(writer.server, writer.database, heartbeat_seconds=30.0)
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (1, 'x')")
        following.wait()
    source.stop()
    assert list(source.stream(source.position(), ())) == []
    source.close()


@pytest.mark.parametrize("size", [16 * MIB - 40, 33 * MIB])
def test_rows_larger_than_a_packet(writer: Writer, source: MySQLSource, size: int) -> None:
    with Following(source, source.position(), source.catalog()) as following:
        writer(f"INSERT INTO t VALUES (1, REPEAT('y', {size}))", "INSERT INTO t VALUES (2, 'x')")
        following.wait()
    assert [len(rows.after[0][1]) for rows in following.rows if rows.after] == [size, 1]


def test_packets_that_end_exactly_at_the_greatest_length(
    mysql: AnyServer, fresh_mysql_database: Fresh
) -> None:
    """The event with its status byte is 2^24 - 1 bytes long: an empty packet follows."""
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    source = source_of(mysql, writer.database)
    probe = 1 * MIB
    with Following(source, source.position(), source.catalog()) as following:
        writer(f"INSERT INTO t VALUES (1, REPEAT('y', {probe}))")
        following.wait()
        overhead = _rows_event_size(writer) - probe
        for id, less in enumerate((1, 0, 2), start=2):
            length = (1 << 24) - 1 - overhead - less
            writer(f"INSERT INTO t VALUES ({id}, REPEAT('y', {length}))")
        following.wait()
    assert following.inserted() == [1, 2, 3, 4]


def _rows_event_size(writer: Writer) -> int:
    """The size of the newest rows event."""
    file = parse_position(source_of(writer.server, writer.database).position()).file
    sizes = [
        row[4] - row[1]
        for row in query(writer.connection, f"SHOW BINLOG EVENTS IN '{file}'")
        if row[2] == "Write_rows"
    ]
    return int(sizes[-1])


# -- XA --------------------------------------------------------------------------------------------


def prepare(writer: Writer, xid: str, id: int) -> None:
    writer(f"XA START {xid}", f"INSERT INTO t VALUES ({id}, 'xa')", f"XA END {xid}")
    writer(f"XA PREPARE {xid}")
    writer.reconnect()


def test_xa_across_restarts(writer: Writer, source: MySQLSource) -> None:
    kept, lost = f"'{writer.database}', 'kept', 3", f"'{writer.database}', 'lost'"
    tables = source.catalog()
    with Following(source, source.position(), tables) as first:
        prepare(writer, kept, 1)
        prepare(writer, lost, 2)
        writer("INSERT INTO t VALUES (3, 'between')")
        first.wait()
    assert first.inserted() == [3]
    with Following(source, first.position, tables) as second:
        writer("INSERT INTO t VALUES (4, 'still')", f"XA ROLLBACK {lost}")
        second.wait()
    assert second.inserted() == [4]
    with Following(source, second.position, tables) as third:
        writer(f"XA COMMIT {kept}", "INSERT INTO t VALUES (5, 'after')")
        third.wait()
    assert third.inserted() == [1, 5]
    assert not parse_position(third.position).prepared


def test_what_was_prepared_before_our_beginning_is_not_lost_in_silence(
    writer: Writer, source: MySQLSource
) -> None:
    xid = f"'{writer.database}', 'early'"
    prepare(writer, xid, 1)
    with Following(source, source.position(), source.catalog()) as following:
        writer(f"XA COMMIT {xid}")
        assert "prepared before" in str(following.failure())
    writer("INSERT INTO t VALUES (2, 'x')")
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (3, 'x')")
        following.wait()
    assert following.inserted() == [3]


# -- positions -------------------------------------------------------------------------------------


def test_a_purged_log_is_found_before_anything_is_read(writer: Writer, source: MySQLSource) -> None:
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

    # A file is kept as long as the server has not noticed that its last reader has gone.
    wait_until(purged, 20.0, "the log to be purged")
    with Following(source, start, source.catalog()) as following:
        error = following.failure()
    assert isinstance(error, SourceError)
    assert not error.retryable
    assert "purged" in str(error)
    assert error.hint


def test_a_target_that_is_ahead_is_refused(writer: Writer, source: MySQLSource) -> None:
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


def test_gtids_with_a_gap_are_filled(mysql: AnyServer, fresh_mysql_database: Fresh) -> None:
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


def test_tagged_gtids(mysql: AnyServer, fresh_mysql_database: Fresh) -> None:
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


def test_by_file_and_offset(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    start, tables = source.position(), source.catalog()
    assert parse_position(start).gtids is None
    with Following(source, start, tables) as following:
        plain_writer("INSERT INTO t VALUES (1, 'a')", "FLUSH BINARY LOGS")
        plain_writer("INSERT INTO t VALUES (2, 'b')", "UPDATE t SET v = 'c' WHERE id = 2")
        prepare(plain_writer, "'plain'", 9)
        plain_writer("SET binlog_format = 'ROW'", "INSERT INTO t VALUES (3, 'd')")
        following.wait()
    update = next(rows for rows in following.rows if rows.op == "update")
    assert (update.before_present, update.after_present) == (1, 3)
    assert update.after == [(2, "c")]
    with Following(source, following.position, tables) as again:
        plain_writer("INSERT INTO t VALUES (4, 'e')", "XA COMMIT 'plain'")
        again.wait()
    assert (following.inserted(), again.inserted()) == ([1, 2, 3], [4, 9])


def test_another_server_cannot_go_on_from_a_file(plain_writer: Writer, mysql: AnyServer) -> None:
    position = source_of(plain_writer.server, plain_writer.database).position()
    with Following(source_of(mysql, plain_writer.database), position, ()) as following:
        assert "another server" in str(following.failure())


def test_a_file_that_was_purged(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    start = source.position()
    plain_writer("FLUSH BINARY LOGS")
    file = parse_position(source.position()).file
    plain_writer(f"PURGE BINARY LOGS TO '{file}'")
    with Following(source, start, ()) as following:
        assert "has purged its log" in str(following.failure())


def test_without_metadata_statements_tell_the_shape(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    with Following(source, source.position(), source.catalog()) as following:
        plain_writer(
            "ALTER TABLE t ADD COLUMN n INT FIRST, MODIFY v VARCHAR(400)",
            "INSERT INTO t VALUES (7, 1, 'x')",
            "CREATE TABLE u LIKE t",
            "RENAME TABLE t TO t_old, u TO t",
            "INSERT INTO t VALUES (8, 2, 'y')",
            "TRUNCATE TABLE t_old",
        )
        following.wait()
    assert [rows.after for rows in following.rows] == [[(7, 1, "x")], [(8, 2, "y")]]
    kinds = [type(change) for change in following.changes]
    assert kinds.count(SchemaChange) == 4
    assert kinds.count(Truncate) == 1


def test_a_row_change_that_was_logged_as_a_statement_stops(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    plain_writer("INSERT INTO t VALUES (1, 'a')", "SET binlog_format = 'STATEMENT'")
    with Following(source, source.position(), source.catalog()) as following:
        plain_writer("UPDATE t SET v = 'b'")
        error = following.failure()
    assert error.table == f"{plain_writer.database}.t"
    assert "binlog_format" in error.hint


# -- connections -----------------------------------------------------------------------------------


def test_a_server_that_hangs_is_found_by_its_missing_heartbeat(
    mariadb_10: AnyServer, fresh_mysql_database: Fresh
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


def test_a_connection_that_is_cut(writer: Writer, source: MySQLSource) -> None:
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


def test_the_session_is_made_again_when_it_has_broken(writer: Writer, source: MySQLSource) -> None:
    if not isinstance(writer.server, Server):
        pytest.skip("kills connections")
    source.position()
    for (id,) in query(
        writer.connection,
        "SELECT id FROM information_schema.processlist"
        " WHERE command = 'Sleep' AND db IS NULL AND id <> CONNECTION_ID()",
    ):
        writer(f"KILL {id}")
    assert source.position()


def test_our_own_server_id_may_not_be_taken(writer: Writer) -> None:
    own = int(writer.one("SELECT @@server_id")[0])
    source = source_of(writer.server, writer.database, server_id=own)
    with Following(source, source.position(), ()) as following:
        assert "server_id" in following.failure().hint


def test_another_replica_with_our_server_id_is_seen(writer: Writer) -> None:
    other = connect_mysql(writer.server)
    query(other, "SET @master_binlog_checksum = 'CRC32', @mariadb_slave_capability = 4")
    host = b"elsewhere"
    registration = struct.pack("<IB", 4242, len(host)) + host + bytes(12)
    other._execute_command(COMMAND.COM_REGISTER_SLAVE, registration)
    other._read_ok_packet()
    position = parse_position(source_of(writer.server, writer.database).position())
    dump = struct.pack("<IHI", position.offset, 0, 4242) + position.file.encode()
    other._execute_command(COMMAND.COM_BINLOG_DUMP, dump)
    assert other._read_packet() is not None
    source = source_of(writer.server, writer.database, server_id=4242)
    with Following(source, str(position), ()) as following:
        assert "another replica" in str(following.failure())
    other._force_close()


def test_a_newer_engine_of_the_pipeline_takes_over(writer: Writer) -> None:
    one, two = (source_of(writer.server, writer.database, server_id=4343) for _ in range(2))
    start = one.position()
    with Following(one, start, ()) as first:
        first.wait(start)
        with Following(two, start, ()) as second:
            second.wait(start)
            error = first.failure()
    assert "our server_id" in str(error)
    assert error.retryable


def test_another_pipeline_with_our_server_id_is_seen(writer: Writer) -> None:
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


def test_the_name_of_a_replica_tells_no_secret() -> None:
    one = MySQLSettings(url="mysql://user:secret@host/")
    two = MySQLSettings(url="mysql://other:changed@host:3306/")
    assert replica_host(one) == replica_host(two)
    assert replica_host(one).startswith("tailrace-")
    assert len(replica_host(one)) < 60


# -- what is not logged ----------------------------------------------------------------------------


def test_a_database_that_is_not_logged_is_refused(plain_writer: Writer) -> None:
    plain_writer("CREATE DATABASE unlogged", "CREATE TABLE unlogged.t (id INT PRIMARY KEY)")
    source = source_of(plain_writer.server, "unlogged")
    (error,) = (finding for finding in source.check() if finding.subject == "binlog_do_db")
    assert (error.level, "unlogged" in error.message) == ("error", True)
    assert error.action
    with Following(source, source.position(), source.catalog()) as following:
        failure = following.failure()
    plain_writer("DROP DATABASE unlogged")
    assert "not logged" in str(failure)
    assert failure.hint
    assert not failure.retryable


def test_a_replica_that_does_not_log_what_it_replicates_is_refused(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    assert [each for each in source.check() if each.subject == "log_slave_updates"] == []
    plain_writer("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1'")
    try:
        (error,) = (each for each in source.check() if each.subject == "log_slave_updates")
        with Following(source, source.position(), source.catalog()) as following:
            failure = following.failure()
    finally:
        plain_writer("RESET REPLICA ALL")
    assert error.level == "error"
    assert "is a replica" in str(failure)
    assert failure.hint


def test_a_replica_of_mariadb_that_does_not_log(mariadb_10: AnyServer) -> None:
    if not isinstance(mariadb_10, Server):
        pytest.skip("makes the server a replica")
    source = MySQLSource(MySQLSettings(url=mariadb_10.url))
    with connect_mysql(mariadb_10) as connection:
        if query(connection, "SELECT @@log_slave_updates")[0][0]:
            pytest.skip("the server logs what it replicates")
        query(connection, "CHANGE MASTER 'far' TO MASTER_HOST = '127.0.0.1'")
        try:
            findings = source.check()
        finally:
            query(connection, "RESET SLAVE 'far' ALL")
            source.close()
    assert "log_slave_updates" in [each.subject for each in findings if each.level == "error"]


# -- time ------------------------------------------------------------------------------------------


def test_heartbeats_tell_the_time_of_what_was_passed_over(writer: Writer) -> None:
    """Under unbroken foreign traffic it is the source's; in silence it is ours."""
    source = source_of(writer.server, writer.database, exclude=("*.noise",), heartbeat_seconds=0.1)
    writer("CREATE TABLE noise (id INT PRIMARY KEY)", "SET timestamp = 1000000000")
    if writer.server.kind == "mariadb":
        old = 1_000_000_000.0
    else:  # whose commit times are no one's to set
        old = 0.0
    with Following(source, source.position(), source.catalog()) as following:
        following.wait()
        ids = iter(range(1_000_000))

        def passed() -> bool:
            for _ in range(50):
                writer(f"INSERT INTO noise VALUES ({next(ids)})")
            beats = [each.at for each in following.changes if isinstance(each, Heartbeat)]
            return any(abs(at - old) < 1 for at in beats) if old else len(beats) > 5

        wait_until(passed)
        following.changes.clear()
        goal = source.position()
        following.wait(goal)
        wait_until(lambda: following.changes and _last_beat(following) > time.time() - 5)


def _last_beat(following: Following) -> float:
    last = following.changes[-1]
    return last.at if isinstance(last, Heartbeat) else 0.0


# -- errors of ours --------------------------------------------------------------------------------


def test_a_fault_of_ours_is_not_a_lost_connection(
    writer: Writer, source: MySQLSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object) -> None:
        int("x")

    monkeypatch.setattr("sources.mysql.source.read_catalog", faulty)
    with pytest.raises(ValueError, match="invalid literal"):
        source.catalog()


# -- logging in ------------------------------------------------------------------------------------


def cipher(settings: MySQLSettings) -> str:
    connection = connect(settings)
    try:
        return str(query(connection, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1])
    finally:
        connection.close()


def with_user(server: AnyServer, user: str, **settings: Any) -> MySQLSettings:
    url = f"mysql://{user}@{server.host}:{server.port}/"
    return MySQLSettings(url=url, timeout_seconds=10.0, **settings)


@pytest.fixture
def user(mysql_family: AnyServer) -> Iterator[str]:
    """``name:password`` as a URL has them, of a user that may follow the log."""
    name = f"t_{uuid4().hex[:12]}"
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 's€cret/:@'")
        cursor.execute(f"GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {name}@'%'")
        yield f"{name}:s%E2%82%ACcret%2F%3A%40"
        cursor.execute(f"DROP USER {name}@'%'")


def test_a_password_without_tls(mysql_family: AnyServer, user: str, writer: Writer) -> None:
    """caching_sha2_password then needs the server's RSA key; MariaDB has mysql_native_password."""
    settings = with_user(mysql_family, user, tls="disable", tables=(f"{writer.database}.*",))
    assert cipher(settings) == ""
    source = MySQLSource(settings)
    findings = source.check()
    assert [finding for finding in findings if finding.level == "error"] == []
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (1, 'x')")
        following.wait()
    assert following.inserted() == [1]


def test_a_wrong_password_is_refused_without_being_told(mysql_family: AnyServer, user: str) -> None:
    with pytest.raises(SourceError) as caught:
        connect(with_user(mysql_family, user.partition(":")[0] + ":wr0ng-secret"))
    assert not caught.value.retryable
    assert "wr0ng-secret" not in str(caught.value) + caught.value.hint


def test_a_user_without_rights_is_told_which(mysql_family: AnyServer) -> None:
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        name = f"t_{uuid4().hex[:12]}"
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 'x'")
        try:
            findings = MySQLSource(with_user(mysql_family, f"{name}:x")).check()
        finally:
            cursor.execute(f"DROP USER {name}@'%'")
    (rights,) = (finding for finding in findings if finding.level == "error")
    assert "GRANT" in rights.action
    assert "REPLICATION SLAVE" in rights.action


@pytest.mark.parametrize("name", ["mysql", "mariadb_11"])
def test_tls(name: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(name)
    if not isinstance(server, Server):
        pytest.skip("needs root without a password")
    assert cipher(with_user(server, "root", tls="prefer"))
    assert cipher(with_user(server, "root", tls="require"))
    assert not cipher(with_user(server, "root", tls="disable"))


def test_a_connection_that_breaks_before_its_handshake_is_closed() -> None:
    """GIVEN a server that hangs up when TLS begins THEN no socket is left to the collector, which
    would say so (any warning fails a test)."""
    connection = prepared(MySQLSettings(url="mysql://u:p@127.0.0.1/?tls=prefer"))
    context: ssl.SSLContext = vars(connection)["ctx"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert select.select([ours], [], [], 5)[0]  # the reset has arrived
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(ours)
    gc.collect()


def test_the_stream_over_tls(mysql: AnyServer, fresh_mysql_database: Fresh) -> None:
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    source = source_of(mysql, writer.database, tls="require")
    with Following(source, source.position(), source.catalog()) as following:
        writer(
            "INSERT INTO t VALUES (1, 'x')", f"INSERT INTO t VALUES (2, REPEAT('y', {20 * MIB}))"
        )
        following.wait()
    assert following.inserted() == [1, 2]


def test_a_certificate_is_verified(mysql: AnyServer) -> None:
    if not isinstance(mysql, Server):
        pytest.skip("needs the server's own certificate")
    own = str(mysql.layout.data / "ca.pem")
    assert cipher(with_user(mysql, "root", tls="verify-ca", tls_ca=own))
    with pytest.raises(SourceError, match="secure") as caught:
        connect(with_user(mysql, "root", tls="verify-full", tls_ca=own))
    assert not caught.value.retryable
    other = str(mysql.layout.data / "client-cert.pem")
    with pytest.raises(SourceError, match="secure"):
        connect(with_user(mysql, "root", tls="verify-ca", tls_ca=other))


def test_a_server_without_tls_is_refused_where_it_is_required(mariadb_10: AnyServer) -> None:
    if not isinstance(mariadb_10, Server):
        pytest.skip("needs a server without TLS")
    assert cipher(with_user(mariadb_10, "root", tls="prefer")) == ""
    with pytest.raises(SourceError, match="SSL"):
        connect(with_user(mariadb_10, "root", tls="require"))


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceLost):
        connect(MySQLSettings(url=f"mysql://root@127.0.0.1:{port}/", timeout_seconds=2.0))


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mysql://root@127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(SourceLost):
            connect(MySQLSettings(url=url, timeout_seconds=0.3))


def test_stop_and_close_do_not_wait_for_a_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = MySQLSource(
            MySQLSettings(url=f"mysql://root@127.0.0.1:{server.getsockname()[1]}/")
        )
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(source.position)
            accepted, _ = server.accept()
            wait_until(lambda: source._asked is not None and source._asked.open)
            started = time.monotonic()
            source.stop()
            source.close()
            with pytest.raises(SourceLost):
                asking.result(timeout=20)
            took = time.monotonic() - started
        accepted.close()
    assert took < 2


def test_stop_breaks_off_a_question(writer: Writer, source: MySQLSource) -> None:
    table = next(each for each in source.catalog() if each.id.name == "t")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(
            source._ask, lambda session: query(session, "SELECT SLEEP(20), 'asked'")
        )
        wait_until(lambda: "'asked'" in str(query(writer.connection, "SHOW FULL PROCESSLIST")[1:]))
        started = time.monotonic()
        source.stop()
        with pytest.raises(SourceLost):
            asking.result(timeout=15)
        assert time.monotonic() - started < 5
    source.close()
    assert source.estimates([table])[table.id] >= 0


# -- preflight and settings ------------------------------------------------------------------------


def test_preflight_says_what_to_type(plain_writer: Writer) -> None:
    plain_writer(
        "CREATE TABLE bag (a INT, b INT)",
        "CREATE TABLE child (id INT PRIMARY KEY, t INT,"
        " FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE)",
    )
    name = plain_writer.database
    source = source_of(plain_writer.server, name, tables=(f"{name}.*", "typo.*"))
    findings = {finding.subject: finding for finding in source.check() if finding.level != "ok"}
    source.close()
    wanted = {
        "binlog_format": "SET GLOBAL binlog_format",
        "binlog_row_image": "SET GLOBAL binlog_row_image",
        "binlog_row_metadata": "SET GLOBAL binlog_row_metadata",
        "gtid_mode": "Enabling GTID",
        "retention": "binlog_expire_logs_seconds",
        f"{name}.bag": "primary key",
        "tables": "SELECT",
    }
    assert {subject for subject, text in wanted.items() if text in findings[subject].action} == set(
        wanted
    )
    assert findings["binlog_format"].level == "error"
    assert set(findings) - set(wanted) <= {f"{name}.child", "binlog_do_db"}


def test_cascades_that_are_not_logged_are_told(
    mariadb_10: AnyServer, fresh_mysql_database: Fresh
) -> None:
    writer = Writer(mariadb_10, fresh_mysql_database(mariadb_10))
    writer(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, t INT,"
        " FOREIGN KEY fk (t) REFERENCES t (id) ON DELETE SET NULL)",
    )
    source = source_of(mariadb_10, writer.database)
    warnings = [finding for finding in source.check() if finding.level == "warning"]
    source.close()
    assert [finding.subject for finding in warnings] == [f"{writer.database}.child"]


def test_a_url_says_everything() -> None:
    address = address_of(
        MySQLSettings(url="mariadb://a%40b:p%3Aw@db.example:3307/?tls=verify-full&tls_ca=/ca.pem")
    )
    assert address[:6] == ("db.example", 3307, "a@b", "p:w", "verify-full", "/ca.pem")
    assert "p:w" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost/",
        "mysql://",
        "mysql://host:port/",
        "mysql://host/?tls=maybe",
        "mysql://host/?tls=verify-ca",
        "mysql://host/?colour=blue",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address_of(MySQLSettings(url=url))
    assert caught.value.hint


def test_patterns_select_tables() -> None:
    select = selector(("shop.*", "*.order?"), ("shop.tmp_*",))
    chosen = ["shop.a", "shop.tmp_a", "x.orders", "x.order", "mysql.orders", "Shop.a"]
    assert [name for name in chosen if select(TableId(*name.split(".")))] == ["shop.a", "x.orders"]
    assert selector(("Shop.*",), (), fold_names=True)(TableId("shop", "A"))
    with pytest.raises(TailraceError):
        selector(("orders",), ())
