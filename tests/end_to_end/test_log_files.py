"""
The archive of a dead server, its log files and a schema dump, carried into PostgreSQL.

The log has no names of columns, as before MariaDB 10.5 and MySQL 8.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.commands import run_tailrace
from tests.support.log_files import record
from tests.support.servers import AnyServer, connect_mysql

DATABASE = "archive"
SHAPES = (
    "CREATE TABLE good (id INT PRIMARY KEY, name TEXT, size ENUM('s','m'), paid DECIMAL(8,2))",
    "CREATE TABLE forgotten (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE differing (id INT PRIMARY KEY, v VARCHAR(20))",
    "CREATE TABLE stated (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE misread (id INT PRIMARY KEY, t TEXT)",
    "CREATE TABLE parent (id INT PRIMARY KEY)",
    (
        "CREATE TABLE child (id INT PRIMARY KEY, parent INT,"
        " FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE SET NULL)"
    ),
)
CHANGES = (
    "INSERT INTO good VALUES (1, 'é', 's', 1.50), (2, '€', 'm', NULL)",
    "INSERT INTO forgotten VALUES (1, 1), (2, 2)",
    "INSERT INTO differing VALUES (1, 'x')",
    "ALTER TABLE good ADD COLUMN added VARCHAR(5)",
    "INSERT INTO stated VALUES (1, 1)",
    "INSERT INTO misread VALUES (1, 'x'), (2, 'é')",
    "SET SESSION binlog_format = 'STATEMENT'",
    "UPDATE stated SET v = 2",
    "SET SESSION binlog_format = 'ROW'",
    "INSERT INTO stated VALUES (2, 2)",
    "UPDATE differing SET v = 'y'",
    "CREATE TABLE later (id INT PRIMARY KEY, v VARCHAR(5))",
    "INSERT INTO later VALUES (1, 'ü')",
    "INSERT INTO good VALUES (3, 'ü', 's', 3.00, 'a')",
    "INSERT INTO parent VALUES (1), (2), (3)",
    "INSERT INTO child VALUES (1, 1), (2, 2), (3, 3)",
    "DELETE FROM parent WHERE id = 1",
    "UPDATE parent SET id = 20 WHERE id = 2",
)


@pytest.fixture(scope="module")
def archive(mariadb_10: AnyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the log files and ``schema.sql``."""
    folder = tmp_path_factory.mktemp("archive")
    connection = connect_mysql(mariadb_10)
    with connection.cursor() as cursor:
        try:
            cursor.execute("SET GLOBAL binlog_row_metadata = NO_LOG")
            cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET latin1")
            cursor.execute(f"USE {DATABASE}")
            dump = [f"CREATE DATABASE {DATABASE} CHARACTER SET latin1", f"USE {DATABASE}"]
            for statement in SHAPES:
                cursor.execute(statement)
                cursor.execute(f"SHOW CREATE TABLE {statement.split()[2]}")
                dump.append(cursor.fetchall()[0][1])
            record(mariadb_10, connection, CHANGES, folder)
            (folder / "schema.sql").write_text(";\n".join(dump) + ";\n")
            yield folder
        finally:
            cursor.execute("SET GLOBAL binlog_row_metadata = FULL")
            cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
            connection.close()


def write_config(folder: Path, archive: Path, schema: Path, target: str, tables: str) -> Path:
    config = folder / "archive.toml"
    config.write_text(
        f'[source]\nurl = "mysql-binlog:{archive}"\nschema = "{schema}"\n'
        f'tables = ["{DATABASE}.{tables}"]\n[sink]\nurl = "{target}"\n'
    )
    return config


def rows(target: str, table: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(target) as connection:
        return connection.execute(
            f"SELECT * FROM {DATABASE}.{table} ORDER BY id".encode()
        ).fetchall()


def test_the_rows_arrive(archive: Path, target_database: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, archive, archive / "schema.sql", target_database, "good")
    done = run_tailrace("run", config)
    assert done.returncode == 0, done.stderr
    assert [(id, name, str(paid)) for id, name, _, paid, _ in rows(target_database, "good")] == [
        (1, "é", "1.50"),
        (2, "€", "None"),
        (3, "ü", "3.00"),
    ]
    assert run_tailrace("run", config).returncode == 0


def test_a_table_that_cannot_be_followed_stops_alone(
    archive: Path, target_database: str, tmp_path: Path
) -> None:
    """Its columns are not known, the dump contradicts the log, a change has no rows, or the bytes
    are no text in the dump's charset. The files are read to their end, and the exit status says
    that the target lacks changes."""
    dump = (archive / "schema.sql").read_text()
    start = dump.index("CREATE TABLE `forgotten`")
    dump = dump[:start] + dump[dump.index("CREATE TABLE `differing`") :]
    schema = tmp_path / "schema.sql"
    dump = dump.replace("`v` varchar(20)", "`v` varchar(30)")
    schema.write_text(dump.replace("`t` text", "`t` text CHARACTER SET utf8mb4"))
    config = write_config(tmp_path, archive, schema, target_database, "*")
    values = 'values = { invalid_text = "error" }\n'
    config.write_text(config.read_text().replace("[sink]", f"{values}[sink]"))
    check = run_tailrace("check", config, "--json")
    found = json.loads(check.stdout)
    warned = {finding["subject"] for finding in found if finding["level"] == "warning"}
    left_out = {"forgotten", "differing", "stated"}
    assert {f"{DATABASE}.{name}" for name in left_out} <= warned
    assert check.returncode == 0
    done = run_tailrace("run", config)
    assert done.returncode == 3, done.stderr
    counts = dict(
        re.findall(r"rows of a quarantined table.* table=\S+\.(\w+) rows=(\d+)", done.stderr)
    )
    assert counts == {"forgotten": "2", "differing": "2", "misread": "2", "stated": "1"}
    assert [row[0] for row in rows(target_database, "good")] == [1, 2, 3]
    assert rows(target_database, "later") == [(1, "ü")]
    assert rows(target_database, "child") == [(2, None), (3, 3)]
    status = json.loads(run_tailrace("status", config, "--json").stdout)
    reasons = {table["table"]: table["reason"] for table in status["tables"] if table["reason"]}
    assert {name.partition(".")[2] for name in reasons} == {*left_out, "misread"}
    assert "not valid utf8mb4 text" in reasons[f"{DATABASE}.misread"]
    assert "names of the table's columns" in reasons[f"{DATABASE}.forgotten"]
    assert "varchar(30)" in reasons[f"{DATABASE}.differing"]
    assert "VARCHAR or VARBINARY of 20 bytes" in reasons[f"{DATABASE}.differing"]
    assert reasons[f"{DATABASE}.stated"] == "UPDATE was logged as a statement, not as rows"
    shown = run_tailrace("status", config).stdout
    assert "quarantined: UPDATE was logged as a statement" in shown
    assert run_tailrace("run", config).returncode == 3
