"""
Log files with changes in statement format: none is passed over in silence.

A log file comes without a catalog, so a name may be a view, and a table may have triggers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymysql.connections import Connection

from engine.change import Change, Rows, SchemaChange
from engine.errors import SchemaError
from engine.schema import TableId
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from tests.support.log_files import record
from tests.support.servers import AnyServer, connect_mysql

SHAPES = (
    "CREATE TABLE wanted (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE plain (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE audited (id INT PRIMARY KEY, v INT)",
    "CREATE VIEW seen AS SELECT id, v FROM wanted",
    (
        "CREATE TRIGGER copied AFTER INSERT ON audited FOR EACH ROW"
        " INSERT INTO wanted VALUES (NEW.id, NEW.v)"
    ),
    "CREATE PROCEDURE add_one(n INT) INSERT INTO wanted VALUES (n, n)",
    (
        "CREATE FUNCTION change_one(n INT) RETURNS INT DETERMINISTIC MODIFIES SQL DATA"
        " BEGIN INSERT INTO wanted VALUES (n, n); RETURN n; END"
    ),
    "INSERT INTO plain VALUES (1, 1), (2, 2)",
)
# A statement, and the table that the error names.
WRITES = (
    ("INSERT INTO wanted VALUES (1, 1), (2, 2)", "wanted"),
    ("REPLACE wanted SET id = 1, v = 2", "wanted"),
    ("UPDATE wanted SET v = 3", "wanted"),
    ("UPDATE plain JOIN wanted USING (id) SET wanted.v = 4", "wanted"),
    ("DELETE FROM wanted WHERE id = 1", "wanted"),
    ("DELETE w FROM plain JOIN wanted w USING (id)", "wanted"),
    ("INSERT INTO wanted WITH c AS (SELECT 5 AS n) SELECT n, n FROM c", "wanted"),
    ("INSERT INTO seen VALUES (6, 6)", "seen"),
    ("DELETE FROM seen", "seen"),
    ("INSERT INTO audited VALUES (7, 7)", "audited"),
    ("CALL add_one(8)", "wanted"),
    ("LOAD DATA INFILE '{file}' INTO TABLE wanted FIELDS TERMINATED BY ','", "wanted"),
    ("DELETE FROM wanted", "wanted"),
)
MYSQL_WRITES = (
    ("WITH c AS (SELECT 1 AS id) UPDATE plain JOIN c USING (id) SET plain.v = 4", "plain"),
)

Recording = Callable[..., Path]


@pytest.fixture(scope="module")
def database() -> str:
    return "statement_files"


@pytest.fixture(scope="module")
def recording(
    mysql_family: AnyServer, database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recording]:
    """A function that records statements in statement format, in a database with ``SHAPES``."""
    connection = connect_mysql(mysql_family)

    def run(*statements: str) -> Path:
        folder = tmp_path_factory.mktemp("log")
        return record(mysql_family, connection, statements, folder)

    try:
        _execute(connection, f"CREATE DATABASE {database} CHARACTER SET utf8mb4", f"USE {database}")
        _execute(connection, *SHAPES, "SET SESSION binlog_format = 'STATEMENT'")
        yield run
    finally:
        _execute(connection, f"DROP DATABASE IF EXISTS {database}")
        connection.close()


def _execute(connection: Connection, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def read(folder: Path, *tables: str, schema: str = "") -> list[Change]:
    settings = BinlogFileSettings(url=f"mysql-binlog:{folder}", tables=tables, schema=schema)
    source = BinlogFileSource(settings)
    return [change for part in source.stream(None, ()) for change in part]


def test_a_statement_that_may_change_a_selected_table_is_refused(
    mysql_family: AnyServer, recording: Recording, database: str
) -> None:
    """The table was not seen before in the log, and the name may be a view or have triggers."""
    rows = mysql_family.layout.scratch / "rows.csv"  # type: ignore[union-attr]
    rows.write_text("9,9\n")
    rows.chmod(0o644)
    cases = WRITES + (MYSQL_WRITES if mysql_family.kind == "mysql" else ())
    for statement, table in cases:
        log = recording(statement.format(file=rows))
        with pytest.raises(SchemaError) as caught:
            pytest.fail(f"{statement}: {read(log, f'{database}.wanted')}")
        assert caught.value.table == f"{database}.{table}", statement
        assert caught.value.position, statement
        assert caught.value.hint, statement


def test_a_statement_on_a_table_that_the_log_creates_is_no_doubt(
    recording: Recording, database: str
) -> None:
    log = recording(
        "CREATE TABLE apart (id INT PRIMARY KEY, v INT)",
        "INSERT INTO apart VALUES (1, 1)",
        "CREATE TABLE apart_too LIKE apart",
        "RENAME TABLE apart_too TO moved",
        "INSERT INTO moved SELECT * FROM apart",
        "UPDATE mysql.time_zone SET Use_leap_seconds = 'N'",
        "CREATE TABLE wanted_too (id INT PRIMARY KEY, v INT)",
        "SET SESSION binlog_format = 'ROW'",
        "INSERT INTO wanted_too VALUES (3, 3)",
        "SET SESSION binlog_format = 'STATEMENT'",
        "DROP TABLE apart, moved, wanted_too",
    )
    changes = read(log, f"{database}.wanted*")
    assert [change.after for change in changes if isinstance(change, Rows)] == [[(3, 3)]]
    tables = [change.after for change in changes if isinstance(change, SchemaChange)]
    assert [table and table.id for table in tables] == [TableId(database, "wanted_too"), None]


@pytest.mark.parametrize(
    "statement", ["DO change_one(51)", "INSERT INTO known VALUES (change_one(52), 0)"]
)
def test_a_stored_function_is_in_doubt(recording: Recording, database: str, statement: str) -> None:
    log = recording("CREATE TABLE known (id INT, v INT)", statement, "DROP TABLE known")
    with pytest.raises(SchemaError, match=f"stored function {database}.change_one"):
        read(log, f"{database}.wanted")


def test_a_trigger_that_the_log_creates_is_seen(recording: Recording, database: str) -> None:
    log = recording(
        "CREATE TABLE apart (id INT PRIMARY KEY, v INT)",
        "CREATE TRIGGER sent AFTER INSERT ON apart FOR EACH ROW"
        " INSERT INTO wanted VALUES (NEW.id + 100, NEW.v)",
        "INSERT INTO apart VALUES (1, 1)",
    )
    with pytest.raises(SchemaError, match="the trigger") as caught:
        read(log, f"{database}.wanted")
    assert caught.value.table == f"{database}.wanted"
    log = recording(
        "DROP TABLE apart",
        "CREATE TABLE apart (id INT PRIMARY KEY, v INT)",
        "CREATE TRIGGER sent AFTER INSERT ON apart FOR EACH ROW SET @n = NEW.v",
        "DROP TRIGGER sent",
        "INSERT INTO apart VALUES (1, 1)",
        "DROP TABLE apart",
    )
    assert [type(change).__name__ for change in read(log, f"{database}.wanted")] == ["Heartbeat"]


DUMP = "-- Host: localhost    Database: {0}\nCREATE TABLE wanted (id INT PRIMARY KEY, v INT);\n"


def test_a_name_that_a_dump_of_its_database_lacks_is_a_table_without_triggers(
    recording: Recording, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once. A name of another database, and of a dump of a later time, is refused."""
    log = recording(
        "UPDATE plain SET v = 2 WHERE id = 1",
        "UPDATE plain SET v = 3 WHERE id = 1",
        f"CREATE DATABASE {database}_new",
        f"DROP DATABASE {database}_new",
        "SET SESSION binlog_format = 'ROW'",
        "INSERT INTO wanted VALUES (60, 6)",
        "DELETE FROM wanted WHERE id = 60",
        "SET SESSION binlog_format = 'STATEMENT'",
    )
    dump = tmp_path / "dump.sql"
    dump.write_text(DUMP.format(database))
    found = read(log, f"{database}.wanted", schema=str(dump))
    assert [change.op for change in found if isinstance(change, Rows)] == ["insert", "delete"]
    [line] = [each for each in caplog.records if each.name == "tailrace.source"]
    assert "without triggers" in line.getMessage()
    assert vars(line)["table"] == f"{database}.plain"
    source = BinlogFileSource(
        BinlogFileSettings(
            url=f"mysql-binlog:{log}", tables=(f"{database}.wanted",), schema=str(dump)
        )
    )
    assert [it.subject for it in source.check() if it.level == "warning"] == [f"{database}.plain"]

    for other in (
        DUMP.format("elsewhere"),
        "CHANGE MASTER TO MASTER_LOG_FILE='later.000099', MASTER_LOG_POS=4;\n"
        + DUMP.format(database),
    ):
        dump.write_text(other)
        with pytest.raises(SchemaError, match="may be a view or have triggers"):
            read(log, f"{database}.wanted", schema=str(dump))


def test_a_new_database_has_no_unknown_tables(recording: Recording, database: str) -> None:
    new = f"{database}_new"
    log = recording(
        f"CREATE DATABASE {new}",
        f"CREATE TABLE {new}.t AS SELECT 1 AS a",
        f"DELETE FROM {new}.t",
        f"DROP DATABASE {new}",
    )
    assert [type(change).__name__ for change in read(log, f"{database}.wanted")] == ["Heartbeat"]
