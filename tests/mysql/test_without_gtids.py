"""
A MySQL server without GTIDs and row metadata, and servers that do not log all changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.change import SchemaChange, Truncate
from engine.databases.mysql.connect import query
from engine.sandbox import Server, start_mysql
from sources.mysql.position import parse_position
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, prepare_xa, source_of
from tests.support.servers import AnyServer, connect_mysql, obtain


@pytest.fixture(scope="module")
def plain_mysql() -> Iterator[Server]:
    """A MySQL server without GTIDs, full row metadata and full row images, and with the binlog
    format MIXED.
    """
    options = (
        "--gtid-mode=OFF",
        "--enforce-gtid-consistency=OFF",
        "--binlog-row-metadata=MINIMAL",
        "--binlog-row-image=MINIMAL",
        "--binlog-expire-logs-seconds=3600",
        "--binlog-ignore-db=unlogged",
        "--log-replica-updates=OFF",
    )
    with obtain(lambda: start_mysql(options=options)) as server:
        yield server


@pytest.fixture
def plain_writer(plain_mysql: Server, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    """A session that logs rows, in a fresh database with the table ``t``."""
    writer = Writer(plain_mysql, fresh_mysql_database(plain_mysql))
    writer("SET binlog_format = 'ROW'", "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))")
    yield writer
    writer.connection.close()


def test_a_stream_without_a_position_starts_at_the_first_log_file(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    plain_writer("INSERT INTO t VALUES (1, 'x')")
    with Following(source, None, ()) as following:
        following.wait()
    assert following.inserted() == [1]


def test_a_stream_resumes_by_file_and_offset(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    start, tables = source.position(), source.catalog()
    assert parse_position(start).gtids is None
    with Following(source, start, tables) as following:
        plain_writer("INSERT INTO t VALUES (1, 'a')", "FLUSH BINARY LOGS")
        plain_writer("INSERT INTO t VALUES (2, 'b')", "UPDATE t SET v = 'c' WHERE id = 2")
        prepare_xa(plain_writer, "'plain'", 9)
        plain_writer("SET binlog_format = 'ROW'", "INSERT INTO t VALUES (3, 'd')")
        following.wait()
    update = next(rows for rows in following.rows if rows.op == "update")
    assert (update.before_present, update.after_present) == (1, 3)
    assert update.after == [(2, "c")]
    with Following(source, following.position, tables) as again:
        plain_writer("INSERT INTO t VALUES (4, 'e')", "XA COMMIT 'plain'")
        again.wait()
    assert (following.inserted(), again.inserted()) == ([1, 2, 3], [4, 9])


def test_a_file_position_of_another_server_is_refused(
    plain_writer: Writer, mysql: AnyServer
) -> None:
    position = source_of(plain_writer.server, plain_writer.database).position()
    with Following(source_of(mysql, plain_writer.database), position, ()) as following:
        assert "another server" in str(following.failure())


def test_a_purged_file_is_refused(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    start = source.position()
    plain_writer("FLUSH BINARY LOGS")
    file = parse_position(source.position()).file
    plain_writer(f"PURGE BINARY LOGS TO '{file}'")
    with Following(source, start, ()) as following:
        assert "has purged its log" in str(following.failure())


def test_without_row_metadata_the_shape_comes_from_statements(plain_writer: Writer) -> None:
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


def test_a_row_change_in_statement_format_is_an_error(plain_writer: Writer) -> None:
    source = source_of(plain_writer.server, plain_writer.database)
    plain_writer("INSERT INTO t VALUES (1, 'a')", "SET binlog_format = 'STATEMENT'")
    with Following(source, source.position(), source.catalog()) as following:
        plain_writer("UPDATE t SET v = 'b'")
        error = following.failure()
    assert error.table == f"{plain_writer.database}.t"
    assert "binlog_format" in error.hint


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


def test_a_replica_without_log_replica_updates_is_refused(plain_writer: Writer) -> None:
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


def test_a_mariadb_replica_without_log_slave_updates_is_refused(mariadb_10: AnyServer) -> None:
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


def test_the_preflight_says_what_to_type(plain_writer: Writer) -> None:
    plain_writer(
        "CREATE TABLE keyless (a INT, b INT)",
        "CREATE TABLE child (id INT PRIMARY KEY, t INT,"
        " FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE)",
    )
    name = plain_writer.database
    source = source_of(plain_writer.server, name, tables=(f"{name}.*", "typo.*"))
    plain_writer("SET GLOBAL binlog_format = MIXED")
    findings = {finding.subject: finding for finding in source.check() if finding.level != "ok"}
    plain_writer("SET GLOBAL binlog_format = ROW")
    source.close()
    wanted = {
        "binlog_format": "SET GLOBAL binlog_format",
        "binlog_row_image": "SET GLOBAL binlog_row_image",
        "binlog_row_metadata": "SET GLOBAL binlog_row_metadata",
        "gtid_mode": "Enabling GTID",
        "retention": "binlog_expire_logs_seconds",
        f"{name}.keyless": "primary key",
        "tables": "SELECT",
    }
    assert {subject for subject, text in wanted.items() if text in findings[subject].action} == set(
        wanted
    )
    assert findings["binlog_format"].level == "error"
    assert set(findings) - set(wanted) <= {
        *(f"{name}.child", "binlog_do_db", "durability", "not carried")
    }


def test_the_preflight_warns_of_cascades_that_the_target_cannot_repeat(
    mariadb_10: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    writer = Writer(mariadb_10, fresh_mysql_database(mariadb_10))
    writer(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, t INT,"
        " FOREIGN KEY fk (t) REFERENCES t (id) ON DELETE SET NULL)",
        "CREATE TABLE computed_child (id INT PRIMARY KEY, t INT, g INT AS (id + 1) VIRTUAL,"
        " FOREIGN KEY fk_2 (t) REFERENCES t (id) ON DELETE SET NULL)",
    )
    source = source_of(mariadb_10, writer.database)
    findings = source.check()
    source.close()
    warnings = [each.subject for each in findings if "the foreign key" in each.message]
    assert warnings == [f"{writer.database}.computed_child"]
    assert "foreign keys" in {finding.subject for finding in findings}
