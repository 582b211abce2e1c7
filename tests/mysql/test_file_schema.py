"""
Log files without the names and charsets of columns, with a schema dump.

Each server records one history for each `binlog_row_metadata` that it has. The tables of the dump
have expressions, invisible and generated columns and partitions, and the log changes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from pymysql.connections import Connection

from engine.change import Change, Commit, Rows
from engine.errors import SchemaError
from engine.toolkit.policies import ReadPolicies
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from tests.support.changes import Replica
from tests.support.log_files import record
from tests.support.servers import AnyServer, connect_mysql

DATABASE = "file_schema"
METADATA = {"mysql": ("MINIMAL", "FULL"), "mariadb": ("NO_LOG", "MINIMAL", "FULL")}

SHAPES = (
    (
        "CREATE TABLE item (id INT UNSIGNED PRIMARY KEY, name VARCHAR(40), note TEXT CHARACTER SET"
        " utf8mb4, size ENUM('small', 'größer'), marks SET('a','b'), price DECIMAL(8,2),"
        " twice BIGINT AS (id * 2) VIRTUAL, once BIGINT AS (id + 1) STORED) COMMENT 'a; b'"
    ),
    (
        "CREATE TABLE parted (id INT PRIMARY KEY, v VARCHAR(9)) PARTITION BY RANGE (id)"
        " (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE)"
    ),
    "CREATE TABLE altered (id INT PRIMARY KEY, old_name VARCHAR(10))",
    "CREATE TABLE before_rename (id INT PRIMARY KEY, v CHAR(5) CHARACTER SET utf8mb4)",
    "CREATE TABLE gone (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE model (id INT PRIMARY KEY, v VARCHAR(5) CHARACTER SET cp1251)",
    "CREATE TABLE keyless (a SMALLINT UNSIGNED, b VARCHAR(200))",
    "CREATE TABLE untouched (id INT PRIMARY KEY)",
    "CREATE VIEW seen AS SELECT id, name FROM item",
)
MYSQL_SHAPES = (
    (
        "CREATE TABLE hidden (id INT PRIMARY KEY, v VARCHAR(9), w INT INVISIBLE,"
        " KEY k ((lower(v))), UNIQUE KEY u ((id + 5), id))"
    ),
    "SET SESSION sql_generate_invisible_primary_key = ON",
    "CREATE TABLE generated_key (v VARCHAR(9))",
    "SET SESSION sql_generate_invisible_primary_key = OFF",
)
MARIADB_SHAPES = (
    "CREATE TABLE hidden (id INT PRIMARY KEY, v VARCHAR(9), w INT INVISIBLE DEFAULT 3)",
    "CREATE TABLE generated_key (id SERIAL, v VARCHAR(9), j JSON)",
)
CHANGES = (
    (
        "INSERT INTO item (id, name, note, size, marks, price) VALUES"
        " (4294967295, 'naïve', 'ж€', 'größer', 'a,b', -1.50), (2, NULL, '', 'small', '', NULL)"
    ),
    "UPDATE item SET name = '€', price = 9.99 WHERE id = 2",
    "DELETE FROM item WHERE id = 4294967295",
    "INSERT INTO parted VALUES (1, 'ü'), (11, 'b')",
    "INSERT INTO hidden (id, v, w) VALUES (1, 'V', 7)",
    "INSERT INTO generated_key (v) VALUES ('ß')",
    "INSERT INTO keyless VALUES (65535, 'é'), (NULL, NULL)",
    "DELETE FROM keyless WHERE a IS NULL",
    # Changed before its first rows.
    "ALTER TABLE altered ADD COLUMN first VARCHAR(5) FIRST, CHANGE old_name new_name VARCHAR(12)",
    "ALTER TABLE altered ADD COLUMN filled INT AS (id * 3) STORED, ADD KEY (new_name)",
    "INSERT INTO altered (first, id, new_name) VALUES ('é', 1, 'x')",
    "FLUSH BINARY LOGS",
    "RENAME TABLE before_rename TO renamed",
    "INSERT INTO renamed VALUES (1, 'ж')",
    "DROP TABLE gone",
    "CREATE TABLE gone (w VARCHAR(7) CHARACTER SET koi8r, id INT PRIMARY KEY)",
    "INSERT INTO gone VALUES ('ж', 1)",
    "CREATE TABLE alike LIKE model",
    "INSERT INTO alike VALUES (1, 'ж')",
    # The charset of the database, and of the server.
    "CREATE TABLE made (id INT PRIMARY KEY, v VARCHAR(10), t TEXT)",
    "INSERT INTO made VALUES (1, 'é', '€')",
    "FLUSH BINARY LOGS",
    "ALTER DATABASE file_schema CHARACTER SET cp1251",
    "CREATE TABLE made_later (id INT PRIMARY KEY, v VARCHAR(10))",
    "INSERT INTO made_later VALUES (1, 'ж')",
    "SET SESSION collation_server = 'greek_general_ci'",
    "CREATE DATABASE file_schema_too",
    "CREATE TABLE file_schema_too.elsewhere (id INT PRIMARY KEY, v VARCHAR(10))",
    "INSERT INTO file_schema_too.elsewhere VALUES (1, 'λ')",
)


class Recorded(NamedTuple):
    """The log files of a history by metadata, the dump before it, and the rows after it."""

    logs: dict[str, Path]
    dump: str
    rows: dict[str, list[list[str | None]]]


@pytest.fixture(scope="module")
def recorded(
    mysql_family: AnyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recorded]:
    logs, dump, rows = {}, "", {}
    kind = mysql_family.kind
    try:
        for metadata in METADATA[kind]:
            with connect_mysql(mysql_family) as connection:
                _execute(connection, f"SET GLOBAL binlog_row_metadata = {metadata}")
            with connect_mysql(mysql_family) as connection:
                _execute(connection, *_drop(), f"CREATE DATABASE {DATABASE} CHARACTER SET latin1")
                shapes = SHAPES + (MYSQL_SHAPES if kind == "mysql" else MARIADB_SHAPES)
                _execute(connection, f"USE {DATABASE}", *shapes)
                dump = _dump(connection)
                folder = tmp_path_factory.mktemp(metadata)
                logs[metadata] = record(mysql_family, connection, CHANGES, folder)
                rows = _contents(connection)
        yield Recorded(logs, dump, rows)
    finally:
        with connect_mysql(mysql_family) as connection:
            _execute(connection, "SET GLOBAL binlog_row_metadata = FULL", *_drop())


def _drop() -> list[str]:
    return [f"DROP DATABASE IF EXISTS {name}" for name in (DATABASE, f"{DATABASE}_too")]


def _execute(connection: Connection, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _query(connection: Connection, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def _dump(connection: Connection) -> str:
    """The definitions as ``mysqldump --no-data --databases`` writes them."""
    parts = [_query(connection, f"SHOW CREATE DATABASE {DATABASE}")[0][1], f"USE `{DATABASE}`"]
    for (name,) in _query(connection, "SHOW TABLES"):
        parts.append(_query(connection, f"SHOW CREATE TABLE `{name}`")[0][1])
    return ";\n\n".join(parts) + ";\n"


def _contents(connection: Connection) -> dict[str, list[list[str | None]]]:
    """The rows of each table that has some, by name, with invisible columns."""
    found = {}
    tables = _query(
        connection,
        "SELECT TABLE_SCHEMA, TABLE_NAME, GROUP_CONCAT(COLUMN_NAME ORDER BY ORDINAL_POSITION)"
        f" FROM information_schema.COLUMNS WHERE TABLE_SCHEMA LIKE '{DATABASE}%'"
        " AND TABLE_NAME <> 'seen' GROUP BY TABLE_SCHEMA, TABLE_NAME",
    )
    for schema, name, columns in tables:
        rows = _query(connection, f"SELECT {columns} FROM `{schema}`.`{name}`")
        if rows:
            found[name] = _as_text(rows)
    return found


def _as_text(rows: Any) -> list[list[str | None]]:
    return sorted(([None if cell is None else str(cell) for cell in row] for row in rows), key=str)


def _source(
    log: Path,
    schema: Path | None,
    tables: tuple[str, ...] = (f"{DATABASE}*.*",),
    values: ReadPolicies = ReadPolicies(),  # noqa: B008
) -> BinlogFileSource:
    url = f"mysql-binlog:{log}"
    settings = BinlogFileSettings(
        url=url, tables=tables, schema=str(schema) if schema else "", values=values
    )
    return BinlogFileSource(settings)


def _read(source: BinlogFileSource) -> list[Change]:
    return [change for part in source.stream(None, ()) for change in part]


def _rows(changes: list[Change]) -> dict[str, list[list[str | None]]]:
    replica = Replica()
    replica.apply(changes)
    return {name: _as_text(rows) for name, rows in replica.rows.items() if rows}


def test_the_rows_equal_those_of_the_server(recorded: Recorded, tmp_path: Path) -> None:
    dump = tmp_path / "dump.sql"
    dump.write_text(recorded.dump)
    for metadata, log in recorded.logs.items():
        source = _source(log, dump)
        assert [finding.level for finding in source.check()] == ["ok", "ok"]
        assert _rows(_read(source)) == recorded.rows, metadata


def test_a_dump_of_another_time_is_noticed(recorded: Recorded, tmp_path: Path) -> None:
    log = next(iter(recorded.logs.values()))
    files = sorted(path.name for path in log.iterdir())
    dump = tmp_path / "dump.sql"
    for file, levels in ((files[0], ["ok"]), (files[-1], ["ok", "warning"])):
        place = f"-- CHANGE MASTER TO MASTER_LOG_FILE='{file}', MASTER_LOG_POS=4;\n"
        dump.write_text(place + recorded.dump)
        findings = [each for each in _source(log, dump).check() if each.subject == "schema"]
        assert [finding.level for finding in findings] == levels


def test_a_stream_resumes_at_every_commit(recorded: Recorded, tmp_path: Path) -> None:
    """The statements of the log before the position change the definitions of the dump. A source
    that was used before knows those of earlier files."""
    dump = tmp_path / "dump.sql"
    dump.write_text(recorded.dump)
    log = next(iter(recorded.logs.values()))
    assert len(list(log.iterdir())) == 3
    used = _source(log, dump)
    for source in (used, used, _source(log, dump)):
        _check_resumption(source)


def _check_resumption(source: BinlogFileSource) -> None:
    changes = _read(source)
    whole = _after(changes, 0)
    for number, change in enumerate(changes):
        if isinstance(change, Commit):
            replica = Replica()
            replica.apply(changes[: number + 1])
            stream = source.stream(str(change.position), list(replica.tables.values()))
            rest = _after([each for part in stream for each in part], 0)
            assert rest == whole[len(whole) - len(_after(changes, number + 1)) :]


def _after(changes: list[Change], start: int) -> list[object]:
    return [
        (change.table.id, change.table.names, change.op, change.before, change.after)
        if isinstance(change, Rows)
        else (type(change), getattr(change, "transaction", ""))
        for change in changes[start:]
    ]


def test_what_a_log_without_a_dump_lacks_is_named(recorded: Recorded, tmp_path: Path) -> None:
    metadata, log = next(iter(recorded.logs.items()))
    assert metadata != "FULL"
    with pytest.raises(SchemaError, match="names of the table's columns") as caught:
        _read(_source(log, None))
    assert caught.value.table == f"{DATABASE}.item"
    assert "schema" in caught.value.hint
    other = tmp_path / "other.sql"
    other.write_text(recorded.dump.replace("`price` decimal(8,2)", "`price` decimal(9,2)"))
    with pytest.raises(SchemaError, match=r"price .*decimal\(9,2\)") as caught:
        _read(_source(log, other))
    assert caught.value.table == f"{DATABASE}.item"
    assert "beginning" in caught.value.hint


def test_the_charset_of_a_database_can_be_given(recorded: Recorded, tmp_path: Path) -> None:
    """The log creates tables with the default charset of a database that it does not create."""
    dump = tmp_path / "dump.sql"
    dump.write_text(recorded.dump.partition("USE ")[2].join(("USE ", "")))
    logs = [log for metadata, log in recorded.logs.items() if metadata == "NO_LOG"]
    tables = (f"{DATABASE}.made",)
    for log in logs:
        with pytest.raises(SchemaError, match="charset of the column v is not known") as caught:
            _read(_source(log, dump, tables))
        assert caught.value.table == f"{DATABASE}.made"
        values = msgspec.convert({"charset": "latin1"}, ReadPolicies)
        given = _rows(_read(_source(log, dump, tables, values)))
        assert given == {"made": recorded.rows["made"]}
