"""
`tailrace check` on a database with every danger that it knows: each is named with its remedy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from engine.cli.main import main
from tests.support.engine_process import write_config
from tests.support.global_variables import set_globally
from tests.support.mysql_sessions import FreshDatabase, Writer, prepare_xa
from tests.support.servers import AnyServer, connect_mysql

LONG = "n" * 64
VARIABLES = {
    "binlog_checksum": "NONE",
    "binlog_expire_logs_seconds": 3600,
    "binlog_format": "MIXED",
    "binlog_row_image": "MINIMAL",
    "binlog_row_metadata": "MINIMAL",
    "binlog_row_value_options": "PARTIAL_JSON",
    "sync_binlog": 0,
}


class Danger(NamedTuple):
    """The subject of a finding, a table or a setting, and parts of its message and its action."""

    subject: str
    message: str
    action: str
    server: str = ""


#: Dangers of tables, with the statements that make them.
TABLES = {
    Danger("keyless", "no primary key", "add a primary key"): (
        "CREATE TABLE keyless (a INT, b INT)",
    ),
    Danger("nullable_key", "no primary key", "add a primary key"): (
        "CREATE TABLE nullable_key (a INT, UNIQUE (a))",
    ),
    Danger("my_isam", "no transactions", "ENGINE = InnoDB"): (
        "CREATE TABLE my_isam (id INT PRIMARY KEY) ENGINE = MyISAM",
    ),
    Danger("merged", "MERGE table", "exclude"): (
        "CREATE TABLE part_1 (id INT, KEY (id)) ENGINE = MyISAM",
        "CREATE TABLE merged (id INT, KEY (id)) ENGINE = MRG_MyISAM UNION = (part_1)",
    ),
    Danger("broken", "MERGE table", "exclude"): (
        "CREATE TABLE broken (id INT, KEY (id)) ENGINE = MRG_MyISAM UNION = (absent)",
    ),
    Danger("partitioned", "PARTITION", "unlogged_change"): (
        "CREATE TABLE partitioned (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3",
    ),
    Danger("child", "the target cannot do the same", "let applications", "mariadb"): (
        "CREATE TABLE parent (k INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, k INT, g INT AS (id + 1) VIRTUAL)",
        "ALTER TABLE child ADD FOREIGN KEY (k) REFERENCES parent (k) ON DELETE SET NULL",
    ),
    Danger("zero_dates", "not in the calendar", "zero_date"): (
        "CREATE TABLE zero_dates (id INT PRIMARY KEY, d DATE)",
        "INSERT INTO zero_dates VALUES (1, '0000-00-00'), (2, '2024-02-29')",
    ),
    Danger("dated_key", "key column d", "zero_date"): (
        "CREATE TABLE dated_key (d DATETIME PRIMARY KEY)",
    ),
    Danger("labels", "invalid value 0", "`e` + 0 = 0"): (
        "CREATE TABLE labels (id INT PRIMARY KEY, e ENUM('', 'a'))",
        "INSERT INTO labels VALUES (1, 'nothing of these'), (2, '')",
    ),
    Danger("latin", "hold UTF-8", 'charset = "utf8mb4"'): (
        "CREATE TABLE latin (id INT PRIMARY KEY, v VARCHAR(40) CHARACTER SET latin1)",
        "INSERT INTO latin VALUES (1, x'c3a9'), (2, x'e282ac'), (3, x'c3bc')",
    ),
    Danger("nuls", "U+0000", "nul_byte"): (
        "CREATE TABLE nuls (id INT PRIMARY KEY, v VARCHAR(9))",
        "INSERT INTO nuls VALUES (1, x'610062')",
    ),
    Danger("folded", "ignore case", 'collation = "source"'): (
        "CREATE TABLE folded (k VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY)",
    ),
    Danger("wide", "can hold up to", "shorten"): (
        "CREATE TABLE wide (k VARCHAR(760) CHARACTER SET utf8mb4 PRIMARY KEY)",
    ),
    Danger("unknown_type", "", "to exclude in [source]"): (
        "CREATE TABLE unknown_type (id INT PRIMARY KEY, e ENUM(x'ff', 'b') CHARACTER SET binary)",
    ),
    Danger("system_column", "cannot have the name xmin", "Rename"): (
        "CREATE TABLE system_column (id INT PRIMARY KEY, xmin INT)",
    ),
    Danger(LONG, "too long", "Rename"): (f"CREATE TABLE {LONG} (id INT PRIMARY KEY)",),
    Danger("counter", "sequence", "cutover", "mariadb"): ("CREATE SEQUENCE counter",),
    Danger("taken", "the target has a table of this name", "DROP TABLE"): (
        "CREATE TABLE taken (id INT PRIMARY KEY)",
    ),
}
#: No dangers: nothing is to be done about them.
HARMLESS = (
    "CREATE TABLE Names (id INT PRIMARY KEY)",
    "CREATE TABLE names (id INT PRIMARY KEY)",
    "CREATE VIEW seen AS SELECT id FROM names",
    "CREATE TRIGGER copies AFTER INSERT ON names FOR EACH ROW INSERT INTO Names VALUES (NEW.id)",
)
SERVER = (
    Danger("binlog_format", "MIXED", "SET GLOBAL binlog_format"),
    Danger("binlog_row_image", "MINIMAL", "SET GLOBAL binlog_row_image"),
    Danger("binlog_row_metadata", "column names", "SET GLOBAL binlog_row_metadata"),
    Danger("binlog_row_value_options", "JSON", "SET GLOBAL binlog_row_value_options", "mysql"),
    Danger("binlog_checksum", "damage", "SET GLOBAL binlog_checksum"),
    Danger("durability", "sync_binlog = 0", "SET GLOBAL sync_binlog = 1"),
    Danger("retention", "1.0 hours", "binlog_expire_logs_seconds"),
    Danger("xa", "1 XA transactions", "XA ROLLBACK"),
    Danger("tables", "typo.*", "correct it in tables of [source]"),
)


@contextmanager
def awful(server: AnyServer, database: str) -> Iterator[set[Danger]]:
    """Inside, the server and the database have the dangers that the block gets."""
    dangers = {*TABLES, *SERVER}
    dangers = {each for each in dangers if each.server in ("", server.kind)}
    writer = Writer(server, database)
    writer("SET sql_mode = ''")
    for danger, statements in TABLES.items():
        if danger in dangers:
            writer(*statements)
    writer(*HARMLESS, "CREATE TABLE t (id INT PRIMARY KEY, v TEXT)")
    prepare_xa(writer, "'awful'", 1)
    try:
        with set_globally(server, VARIABLES):
            yield dangers
    finally:
        writer("XA ROLLBACK 'awful'")
        writer.connection.close()


@pytest.fixture
def reserved(mysql_family: AnyServer) -> Iterator[str]:
    """A database whose name PostgreSQL reserves for itself."""
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE pg_awful")
        cursor.execute("CREATE TABLE pg_awful.t (id INT PRIMARY KEY)")
        yield "pg_awful"
        cursor.execute("DROP DATABASE pg_awful")


def test_check_names_every_danger_with_its_remedy(
    mysql_family: AnyServer,
    reserved: str,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = fresh_mysql_database(mysql_family)
    with psycopg.connect(target_database, autocommit=True) as target:
        target.execute(f"CREATE SCHEMA {database} CREATE TABLE taken (x int)".encode())
    patterns = '", "'.join((f"{database}.*", f"{reserved}.*", "typo.*"))
    config = write_config(tmp_path, mysql_family.url, target_database, patterns)
    monkeypatch.setenv("COLUMNS", "220")
    with awful(mysql_family, database) as dangers:
        assert main(["check", str(config), "--json"]) == 1
        findings = json.loads(capfd.readouterr().out)
        assert main(["check", str(config)]) == 1
        table = "".join(capfd.readouterr().out.split())
    dangers.add(Danger(reserved, "reserved", "Set [sink] schema"))
    found = [each for each in findings if each["level"] != "ok"]
    assert [each for each in found if not each["action"]] == []
    assert [each for each in dangers if not any(map(is_finding(database, each), found))] == []
    for each in found:
        assert "".join(each["action"].split()) in table
    assert not {f"{database}.{name}" for name in ("Names", "names", "seen")} & {
        each["subject"] for each in found
    }


def is_finding(database: str, danger: Danger) -> Callable[[dict[str, str]], bool]:
    """Whether a finding is about a danger."""

    def matches(finding: dict[str, str]) -> bool:
        return (
            finding["subject"] in (danger.subject, f"{database}.{danger.subject}")
            and danger.message in finding["message"]
            and danger.action in finding["action"]
        )

    return matches
