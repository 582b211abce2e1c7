"""
Every value of every column type, from a log with the least metadata and a schema dump: the rows
equal those that the server returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from tests.support.changes import Replica
from tests.support.log_files import record
from tests.support.mysql_log import live_table, selected_rows
from tests.support.releases import version_of
from tests.support.servers import AnyServer, connect_mysql
from tests.support.type_matrix import FAMILIES, TABLES, Form, Kind, family

DATABASE = "file_types"
#: MariaDB logs the changes of a table with the transactions of its history as statements.
LOGGED_AS_STATEMENTS = ("row_transactions",)
SESSION = "SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'"


@pytest.fixture
def least_metadata(mysql_family: AnyServer) -> Iterator[AnyServer]:
    least = "MINIMAL" if mysql_family.kind == "mysql" else "NO_LOG"
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET GLOBAL binlog_row_metadata = {least}")
        cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
        yield mysql_family
        cursor.execute("SET GLOBAL binlog_row_metadata = FULL")
        cursor.execute(f"DROP DATABASE {DATABASE}")


def statements(name: str, kinds: list[Kind]) -> Iterator[str]:
    """An insert for each value of each column, then an update of all rows."""
    written = [(n, kind.values) for n, kind in enumerate(kinds) if kind.values]
    names = "".join(f", c{n}" for n, _ in written)
    for row in range(max((len(values) for _, values in written), default=0)):
        values = "".join(f", {values[row % len(values)]}" for _, values in written)
        yield f"INSERT INTO {name} (id{names}) VALUES ({row + 1}{values})"
    yield f"INSERT INTO {name} (id) VALUES (0)"
    if written:
        sets = ", ".join(f"t.c{n} = r.c{n}" for n, _ in written)
        yield f"UPDATE {name} t JOIN {name} r ON r.id = (t.id + 1) % 3 SET {sets} WHERE t.id > 2"


def create(cursor: Any, tables: dict[str, list[Kind]], forms: list[Form]) -> str:
    """Create the tables. Returns their definitions as a dump has them."""
    cursor.execute(f"USE {DATABASE}")
    for name, kinds in tables.items():
        columns = ", ".join(f"c{n} {kind.definition}" for n, kind in enumerate(kinds))
        cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, {columns})")
    for form in forms:
        if form.session:
            cursor.execute(f"SET SESSION {form.session}")
        cursor.execute(form.create.format(form.name))
    dump = [f"USE {DATABASE}"]
    for name in (*tables, *(form.name for form in forms)):
        cursor.execute(f"SHOW CREATE TABLE {name}")
        dump.append(cursor.fetchall()[0][1])
    return ";\n".join(dump) + ";\n"


def test_every_value_of_every_type(least_metadata: AnyServer, tmp_path: Path) -> None:
    server = least_metadata
    version = version_of(server)
    tables = {name: family(name, server.kind, version) for name in FAMILIES}
    tables = {name: kinds for name, kinds in tables.items() if kinds}
    forms = [
        form
        for form in TABLES
        if form.since.includes(server.kind, version) and form.name not in LOGGED_AS_STATEMENTS
    ]
    with connect_mysql(server) as connection, connection.cursor() as cursor:
        cursor.execute(SESSION)
        (tmp_path / "schema.sql").write_text(create(cursor, tables, forms))
        changes = [each for name, kinds in tables.items() for each in statements(name, kinds)]
        for form in forms:
            changes += [each.format(form.name) for each in (*form.fill, *form.change)]
        log = record(server, connection, changes, tmp_path / "log")
        names = (*tables, *(form.name for form in forms))
        live = {name: live_table(connection, DATABASE, name) for name in names}
    settings = BinlogFileSettings(
        url=f"mysql-binlog:{log}",
        tables=(f"{DATABASE}.*",),
        schema=str(tmp_path / "schema.sql"),
    )
    replica = Replica()
    for part in BinlogFileSource(settings).stream(None, ()):
        replica.apply(part)
    for name, table in live.items():
        expected = sorted(map(repr, selected_rows(server, table)))
        found = sorted(map(repr, replica.rows[name]))
        assert expected, name
        differing = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
        assert not differing, f"{name}: {str(differing[0])[:2000]}"


@pytest.mark.parametrize("metadata", ["FULL", "NO_LOG"])
def test_tables_with_a_history_that_the_log_creates(
    metadata: str, mariadb_11: AnyServer, tmp_path: Path
) -> None:
    """Only current rows are followed, as those of a server are."""
    forms = [
        form
        for form in TABLES
        if "SYSTEM VERSIONING" in form.create and form.name not in LOGGED_AS_STATEMENTS
    ]
    with connect_mysql(mariadb_11) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(f"SET GLOBAL binlog_row_metadata = {metadata}")
            changes = [f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4", f"USE {DATABASE}"]
            for form in forms:
                made = (form.create, *form.fill, *form.change)
                changes += [each.format(form.name) for each in made]
            log = record(mariadb_11, connection, changes, tmp_path / "log")
            live = {form.name: live_table(connection, DATABASE, form.name) for form in forms}
            expected = {
                name: sorted(map(repr, selected_rows(mariadb_11, table)))
                for name, table in live.items()
            }
        finally:
            cursor.execute("SET GLOBAL binlog_row_metadata = FULL")
            cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    replica = Replica()
    settings = BinlogFileSettings(url=f"mysql-binlog:{log}", tables=(f"{DATABASE}.*",))
    for part in BinlogFileSource(settings).stream(None, ()):
        replica.apply(part)
    assert {name: sorted(map(repr, replica.rows[name])) for name in live} == expected
