"""
Statements that failed on the source and are logged, because they have had effects.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Thread

import pymysql
import pytest

from engine.change import Change, Commit, Heartbeat, SchemaChange
from engine.errors import SchemaError
from engine.schema import TableId
from sources.mysql.ddl.outcome import outcome
from sources.mysql.ddl.statements import DropTables, DropTemporary, Statement, read_statement
from tests.mysql.test_temporary_tables import assert_equal
from tests.support.changes import Replica
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

DUPLICATES = "SELECT 1 AS id UNION ALL SELECT 1"


def read(sql: str) -> Statement:
    statement = read_statement(sql, "d")
    assert statement is not None
    return statement


def test_what_a_failed_statement_has_done() -> None:
    drop = read("DROP TABLE t, u")
    assert outcome(drop, 0) is drop
    assert outcome(drop, 1051) is drop
    assert outcome(drop, 1217).problem
    replaced = outcome(read("CREATE OR REPLACE TABLE t (id INT)"), 1113)
    assert isinstance(replaced, DropTables)
    assert replaced.tables == (TableId("d", "t"),)
    assert not replaced.problem
    assert isinstance(outcome(read("CREATE TEMPORARY TABLE t (id INT)"), 1062), DropTemporary)
    for sql in (
        "CREATE TABLE t (id INT)",
        "TRUNCATE t",
        "ALTER TABLE t ADD b INT",
        "DROP DATABASE d",
    ):
        assert "error 1317" in outcome(read(sql), 1317).problem


@pytest.fixture
def database(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Writer:
    """A session in a database with tables."""
    return made(mysql_family, fresh_mysql_database(mysql_family))


def made(server: AnyServer, database: str) -> Writer:
    writer = Writer(server, database)
    for name in ("t", "u", "v", "w", "x"):
        writer(f"CREATE TABLE {name} (id INT PRIMARY KEY)")
    return writer


def attempt(writer: Writer, *statements: str) -> None:
    for statement in statements:
        with suppress(pymysql.MySQLError):
            writer(statement)


@pytest.mark.parametrize("format", ["ROW", "STATEMENT"])
def test_failed_schema_changes(database: Writer, format: str) -> None:
    source = source_of(database.server, database.database)
    tables = source.catalog()
    with Following(source, source.position(), tables) as following:
        database("INSERT INTO w VALUES (1)", "INSERT INTO x VALUES (1)")
        database(f"SET binlog_format = {format}")
        attempt(
            database,
            "DROP TABLE t, missing",
            "DROP TABLE IF EXISTS t, missing",
            "ALTER TABLE w ADD v INT, ADD UNIQUE (missing)",
            "RENAME TABLE w TO w2, missing TO m",
            "CREATE OR REPLACE TABLE u",
            f"CREATE OR REPLACE TABLE v (id INT PRIMARY KEY) {DUPLICATES}",
            f"CREATE TABLE n (id INT PRIMARY KEY) {DUPLICATES}",
            "CREATE OR REPLACE TABLE x (id INT PRIMARY KEY, bad INT DEFAULT 'x')",
            "CREATE OR REPLACE TABLE w (id INT PRIMARY KEY, FULLTEXT (id))",
            f"CREATE OR REPLACE TEMPORARY TABLE w (id INT PRIMARY KEY) {DUPLICATES}",
            "CREATE TABLE IF NOT EXISTS w (id INT PRIMARY KEY, more INT)",
        )
        database("SET binlog_format = ROW", "INSERT INTO w (id) VALUES (2)")
        following.wait()
        replica = Replica(tables)
        replica.apply(following.changes)
        assert_equal(database, replica)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["ROW", "STATEMENT"])
def test_old_servers(
    old_server: AnyServer, fresh_mysql_database: FreshDatabase, format: str
) -> None:
    test_failed_schema_changes(made(old_server, fresh_mysql_database(old_server)), format)


def test_dml_that_failed_in_part_stops(database: Writer) -> None:
    database("CREATE TABLE m (id INT PRIMARY KEY) ENGINE = MyISAM")
    source = source_of(database.server, database.database)
    with Following(source, source.position(), source.catalog()) as following:
        attempt(database, "INSERT INTO m VALUES (1), (2), (1), (3)")
        following.wait()
        assert following.inserted() == [1, 2]
        database("SET binlog_format = STATEMENT")
        attempt(database, "INSERT INTO m VALUES (4), (5), (4), (6)")
        error = following.failure()
    assert isinstance(error, SchemaError)
    assert error.table == f"{database.database}.m"


@pytest.fixture(params=["mariadb_10", "mariadb_11"])
def mariadb(request: pytest.FixtureRequest, fresh_mysql_database: FreshDatabase) -> Writer:
    """A session in a database of MariaDB that logs an ALTER in two parts."""
    server: AnyServer = request.getfixturevalue(request.param)
    writer = Writer(server, fresh_mysql_database(server))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v INT)", "CREATE TABLE u (id INT PRIMARY KEY)")
    return writer


def test_an_alter_that_is_logged_in_two_parts(mariadb: Writer) -> None:
    """Other changes come between the parts, and a stream can begin there."""
    source = source_of(mariadb.server, mariadb.database)
    tables = source.catalog()
    reader, other = (Writer(mariadb.server, mariadb.database) for _ in range(2))
    with Following(source, source.position(), tables) as following:
        mariadb("INSERT INTO t VALUES (1, 1), (2, 1)", "SET binlog_alter_two_phase = ON")
        attempt(mariadb, "ALTER TABLE t ADD UNIQUE KEY (v)", "CREATE UNIQUE INDEX i ON t (v)")
        mariadb("ALTER TABLE t ADD w INT")
        reader("BEGIN", "SELECT * FROM t")  # the ALTER waits for it after its first part
        alter = Thread(target=mariadb, args=("ALTER TABLE t ADD x INT, ALGORITHM = COPY",))
        alter.start()
        wait_until(lambda: "metadata lock" in str(other.one(STATE)), 10.0, "the first part")
        other("INSERT INTO u VALUES (1)")
        reader("COMMIT")
        alter.join()
        mariadb("INSERT INTO t VALUES (3, 3, 3, 3)")
        following.wait()
    changes = [change for change in following.changes if not isinstance(change, Heartbeat)]
    (last_alter,) = (at for at, each in enumerate(changes) if _adds(each, "x"))
    replica = Replica(tables)
    replica.apply(changes[: last_alter - 1])
    between = changes[last_alter - 2]
    assert isinstance(between, Commit)
    assert replica.rows["u"] == [(1,)]
    with Following(source, str(between.position), replica.tables.values()) as again:
        again.wait()
    replica.apply(again.changes)
    assert_equal(mariadb, replica)


STATE = "SELECT GROUP_CONCAT(STATE) FROM information_schema.PROCESSLIST"


def _adds(change: Change, column: str) -> bool:
    """Whether the change is an ALTER that adds the column."""
    if not isinstance(change, SchemaChange) or change.before is None or change.after is None:
        return False
    return column in change.after.names and column not in change.before.names
