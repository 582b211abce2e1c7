"""
Every value of every column type reaches PostgreSQL as the server itself prints it: by a backfill,
by inserts of the stream, and by updates of the stream, whose before images must find their rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import pytest

from engine.schema import TableId
from sources.mysql.catalog import read_table
from tests.support import compare
from tests.support.mirror import catch_up, make_pipeline
from tests.support.releases import version_of
from tests.support.row_texts import unequal_texts
from tests.support.servers import AnyServer, connect_mysql
from tests.support.type_matrix import FAMILIES, TABLES, Form, Kind, family

#: Warnings that the values of the matrix cause: a float or label that the server rounds or refuses.
EXPECTED_WARNINGS = {1264, 1265}

Fresh = Callable[[AnyServer], str]


def create(cursor: Any, name: str, kinds: list[Kind]) -> None:
    """Make ``name_read`` with a row for each value and one of NULLs, ``name_insert``, which is
    empty, and ``name_update``, which has no key and the same rows."""
    columns = ", ".join(f"c{n} {kind.definition}" for n, kind in enumerate(kinds))
    for path in ("read", "insert", "update"):
        key = "id INT" if path == "update" else "id INT PRIMARY KEY"
        cursor.execute(f"CREATE TABLE {name}_{path} ({key}, {columns})")
    for path in ("read", "update"):
        cursor.execute(f"INSERT INTO {name}_{path} (id) VALUES (0)")
        for row in range(max(len(kind.values) for kind in kinds)):
            given = {n: kind.values[row % len(kind.values)] for n, kind in _written(kinds)}
            names = "".join(f", c{n}" for n in given)
            values = "".join(f", {value}" for value in given.values())
            cursor.execute(f"INSERT INTO {name}_{path} (id{names}) VALUES ({row + 1}{values})")
            cursor.execute("SHOW WARNINGS")
            warnings = [warning for warning in cursor.fetchall() if warning[0] == "Warning"]
            assert {code for _, code, _ in warnings} <= EXPECTED_WARNINGS, warnings


def change(cursor: Any, name: str, kinds: list[Kind]) -> None:
    """Insert all rows into ``name_insert``, and give each row of ``name_update`` the values of the
    next one."""
    names = "".join(f", c{n}" for n, _ in _written(kinds))
    cursor.execute(f"INSERT INTO {name}_insert (id{names}) SELECT id{names} FROM {name}_read")
    cursor.execute(f"SELECT COUNT(*) FROM {name}_read")
    [(rows,)] = cursor.fetchall()
    assignments = ", ".join(f"t.c{n} = r.c{n}" for n, _ in _written(kinds))
    cursor.execute(
        f"UPDATE {name}_update AS t JOIN {name}_read AS r ON r.id = (t.id + 1) % {rows}"
        f" SET {assignments}"
    )


def create_documents(cursor: Any, families: dict[str, list[Kind]]) -> None:
    """Make ``documents_of_columns_read`` and ``_update`` with the values of each ``name_read``, as
    parts of JSON documents, and ``_insert``, which is empty."""
    table = "documents_of_columns"
    for path in ("read", "insert", "update"):
        key = "id INT AUTO_INCREMENT PRIMARY KEY"
        cursor.execute(f"CREATE TABLE {table}_{path} ({key}, d JSON)")
    for name, kinds in families.items():
        for n, kind in enumerate(kinds):
            if kind.type.startswith("VECTOR"):
                continue  # the server refuses it
            # MySQL 9.7 keeps the bytes of these texts, so those of other characters are not UTF-8.
            wide = re.search("ucs2|utf16|utf32", kind.type)
            some = f"WHERE HEX(c{n}) REGEXP '^(00[0-7].)*$'" if wide else ""
            values = f"SELECT JSON_OBJECT('v', c{n}, 'list', JSON_ARRAY(c{n}, id)) FROM {name}_read"
            cursor.execute(f"INSERT INTO {table}_read (d) {values} {some}")
    cursor.execute(f"INSERT INTO {table}_update SELECT * FROM {table}_read")


def change_documents(cursor: Any) -> None:
    """Insert all documents, and give each document the value of the next one."""
    table = "documents_of_columns"
    cursor.execute(f"INSERT INTO {table}_insert SELECT * FROM {table}_read")
    cursor.execute(
        f"UPDATE {table}_update AS t JOIN {table}_read AS r ON r.id = t.id + 1 SET t.d = r.d"
    )


def _written(kinds: list[Kind]) -> Iterable[tuple[int, Kind]]:
    return [(n, kind) for n, kind in enumerate(kinds) if kind.values]


@pytest.fixture
def families(mysql_family: AnyServer) -> dict[str, list[Kind]]:
    found = {name: family(name, mysql_family.kind, version_of(mysql_family)) for name in FAMILIES}
    return {name: kinds for name, kinds in found.items() if kinds}


def test_every_value_arrives_by_every_path(
    mysql_family: AnyServer,
    families: dict[str, list[Kind]],
    fresh_mysql_database: Fresh,
    target_database: str,
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    if mysql_family.kind == "mariadb":
        families["old_temporals"] = families["temporals"]
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        for name, kinds in families.items():
            old = name == "old_temporals"
            if old:
                cursor.execute("SET GLOBAL mysql56_temporal_format = OFF")
            try:
                create(cursor, name, kinds)
            finally:
                if old:
                    cursor.execute("SET GLOBAL mysql56_temporal_format = ON")

        def run() -> None:
            catch_up(make_pipeline(mysql_family.url, target_database, [f"{database}.*"]))

        run()
        with psycopg.connect(target_database, autocommit=True) as target:
            compare.assert_equal(connection, target, database)
            check_row_texts(mysql_family, connection, target_database, families)
            for name, kinds in families.items():
                change(cursor, name, kinds)
            run()
            compare.assert_equal(connection, target, database)


def check_row_texts(
    server: AnyServer, connection: Any, target_database: str, families: Iterable[str]
) -> None:
    """Both databases compute the same text for a value, except for texts with U+0000 and dates that
    are not in the calendar, which the target has not."""
    found = []
    for name in families:
        table = read_table(connection, TableId(connection.db.decode(), f"{name}_read"))
        assert table is not None
        found += unequal_texts(server.url, target_database, table)
    dates = {"date", "datetime"}
    texts = {"char(30)", "varchar(30)", "tinytext", "text", "mediumtext", "longtext"}
    kinds = {(re.split(r"[ (]" if value is None else " ", type)[0], value) for type, value in found}
    assert kinds <= {
        *((type, None) for type in dates),
        *((type, value) for type in texts for value in ("", "ab")),
    }


def test_documents_made_of_values_of_every_type(
    mysql: AnyServer, fresh_mysql_database: Fresh, target_database: str
) -> None:
    """JSON has its own storage for some types, such as DECIMAL and DATETIME, and keeps the bytes of
    others with the number of their type."""
    families = {name: family(name, mysql.kind, version_of(mysql)) for name in FAMILIES}
    check_documents(mysql, fresh_mysql_database(mysql), families, target_database)


def check_documents(
    server: AnyServer, database: str, families: dict[str, list[Kind]], target_database: str
) -> None:
    connection = connect_mysql(server, database)

    def run() -> None:
        catch_up(make_pipeline(server.url, target_database, [f"{database}.documents*"]))

    with (
        connection,
        connection.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        for name, kinds in families.items():
            create(cursor, name, kinds)
        create_documents(cursor, families)
        run()
        change_documents(cursor)
        run()
        found = compare.differences(connection, target, database)
        assert {name: text for name, text in found.items() if name.startswith("documents_of")} == {}


def test_documents_that_are_not_utf8(
    mysql: AnyServer, fresh_mysql_database: Fresh, target_database: str
) -> None:
    """MySQL 9.7 can make them. They quarantine their table, by backfill and stream."""
    database = fresh_mysql_database(mysql)

    def run() -> dict[str, str]:
        pipeline = make_pipeline(mysql.url, target_database, [f"{database}.*"])
        catch_up(pipeline)
        return {table.table.split(".")[1]: table.reason for table in pipeline.status().tables}

    with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
        for table in ("read", "streamed"):
            cursor.execute(f"CREATE TABLE `{table}` (id INT PRIMARY KEY, d JSON)")
        document = "(1, JSON_ARRAY(CONVERT('é' USING ucs2)))"
        cursor.execute(f"INSERT INTO `read` VALUES {document}")
        reason = "the column d holds a document that is not UTF-8"
        assert run() == {"read": reason, "streamed": ""}
        cursor.execute(f"INSERT INTO streamed VALUES {document}")
        assert run() == {"read": reason, "streamed": reason}


def test_tables_with_hidden_and_special_columns(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, target_database: str
) -> None:
    check_forms(mysql_family, fresh_mysql_database(mysql_family), target_database)


def check_forms(server: AnyServer, database: str, target_database: str) -> None:
    connection = connect_mysql(server, database)
    forms = [form for form in TABLES if form.since.includes(server.kind, version_of(server))]
    with connection, connection.cursor() as cursor:

        def execute(form: Form, path: str, statements: tuple[str, ...]) -> None:
            for statement in statements:
                cursor.execute(statement.replace("{}", f"{form.name}_{path}"))

        for form in forms:
            if form.session:
                cursor.execute(f"SET {form.session}")
            for path in ("read", "insert"):
                execute(form, path, (form.create,))
            execute(form, "read", form.fill)

        def run() -> None:
            catch_up(make_pipeline(server.url, target_database, [f"{database}.*"]))

        run()
        for form in forms:
            execute(form, "insert", form.fill)
            execute(form, "insert", form.change)
            execute(form, "read", form.change)
            if form.session:
                cursor.execute(f"SET {form.session}")
            execute(form, "created", (form.create, *form.fill, *form.change))
        run()
        with psycopg.connect(target_database, autocommit=True) as target:
            compare.assert_equal(connection, target, database)
