"""
Columns of the type VECTOR, and columns that become or were VECTOR.

MySQL keeps the number of components of each value, up to that of the column, and fills a NOT NULL
column with empty values. MariaDB has values of the column's length alone, and fills with zeros.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.releases import Since, version_of
from tests.support.servers import AnyServer, connect_mysql

VECTORS = Since(mysql=(9, 0), mariadb=(11, 7))
#: The functions that read and print a value, by server.
FUNCTIONS = {
    "mysql": ("STRING_TO_VECTOR", "VECTOR_TO_STRING"),
    "mariadb": ("VEC_FromText", "VEC_ToText"),
}
#: Tables with the columns ``id`` and ``v``.
TABLES = {
    "keyed": "id INT PRIMARY KEY, v VECTOR(3) NOT NULL",
    "nullable": "id INT PRIMARY KEY, v VECTOR(3)",
    "keyless": "id INT, v VECTOR(3) NOT NULL",
    "thousands": "id INT PRIMARY KEY, v VECTOR(2000) NOT NULL",
}
VALUES = (
    (1.0, 2.0, 3.0),
    (-1.5, 1e6, 0.1),
    (0.0, -0.0, 1e18),  # MariaDB refuses a vector whose length is not a number
    (1.401298464324817e-45, 1.1754943508222875e-38, -1e18),
)
LONG = tuple(number / 8 for number in range(2000))
#: A server prints a component with this precision, or a higher one.
PRECISION = 1e-5
ONE_TO_THREE = "x'0000803F0000004000004040'"
LOOSE, STRICT = "''", "'STRICT_TRANS_TABLES'"


class Change(NamedTuple):
    """What becomes of a column ``v``; ``TO`` in ``value`` is the function that reads a vector."""

    before: str
    value: str
    change: str
    sql_mode: str = STRICT
    only: str = ""


CHANGES = (
    Change("VARBINARY(20)", ONE_TO_THREE, "MODIFY v VECTOR(3)"),
    Change("VARBINARY(20)", ONE_TO_THREE, "MODIFY v VECTOR(3) NOT NULL"),
    Change("VARBINARY(20)", "x'0000803F'", "MODIFY v VECTOR(3)", only="mysql"),
    Change("VARBINARY(20)", "x'0000803F'", "MODIFY v VECTOR(3)", LOOSE, "mariadb"),
    Change("BLOB", ONE_TO_THREE, "MODIFY v VECTOR(3) NOT NULL"),
    Change("BINARY(12)", ONE_TO_THREE, "MODIFY v VECTOR(3)"),
    Change("TEXT", "'[1,2,3]'", "MODIFY v VECTOR(3)", LOOSE, "mariadb"),
    Change("JSON", "'[1,2,3]'", "MODIFY v VECTOR(3)", LOOSE, "mariadb"),
    Change("INT", "1", "MODIFY v VECTOR(3)", LOOSE, "mariadb"),
    Change("VECTOR(3)", "NULL", "MODIFY v VECTOR(3) NOT NULL", LOOSE),
    Change("VECTOR(2)", "TO('[1,2]')", "MODIFY v VECTOR(3)"),
    Change("VECTOR(4)", "TO('[1,2,3,4]')", "MODIFY v VECTOR(3)", LOOSE),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v VARBINARY(20)"),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v VARBINARY(8)", LOOSE),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v BINARY(20)"),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v TINYBLOB"),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v VARCHAR(40)", LOOSE),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v VARCHAR(20) CHARACTER SET latin1"),
    Change("VECTOR(3)", "TO('[1,2,3]')", "MODIFY v INT", LOOSE),
    Change("INT", "1", "ADD w VECTOR(3) NOT NULL"),
    Change("INT", "1", "ADD w VECTOR(3)"),
    Change("INT", "1", "ADD w VECTOR(2) NOT NULL DEFAULT (TO('[1,2]'))"),
    Change("INT", "1", "ADD w VECTOR(2) DEFAULT x'0000803F00000040'", only="mariadb"),
    Change("VECTOR(3)", "TO('[1,2,3]')", "DROP v, ADD v VECTOR(3) NOT NULL"),
    Change("VECTOR(3) NOT NULL", "TO('[1,2,3]')", "CHANGE v w VECTOR(3) NOT NULL"),
    Change("VECTOR(3) NOT NULL", "TO('[1,2,3]')", "ADD VECTOR INDEX (v)", only="mariadb"),
)


@pytest.fixture
def server(mysql_family: AnyServer) -> AnyServer:
    if not VECTORS.includes(mysql_family.kind, version_of(mysql_family)):
        pytest.skip("the server has no VECTOR")
    return mysql_family


@pytest.fixture
def database(server: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]) -> str:
    return fresh_mysql_database(server)


def test_every_value_arrives_by_every_path(
    server: AnyServer, database: str, target_database: str
) -> None:
    """By a backfill and by the stream; the target has the components that the server prints."""
    _, printed = FUNCTIONS[server.kind]

    def run() -> None:
        catch_up(make_pipeline(server.url, target_database, [f"{database}.*"]))

    with (
        connect_mysql(server, database) as connection,
        connection.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        for name, columns in TABLES.items():
            cursor.execute(f"CREATE TABLE {name} ({columns})")
            fill(cursor, name, 0)
        run()
        for name in TABLES:
            fill(cursor, name, 10)
            cursor.execute(f"UPDATE {name} t JOIN {name} s ON s.id = t.id + 1 SET t.v = s.v")
            cursor.execute(f"DELETE FROM {name} WHERE id IN (2, 12)")
        for statement in implied(server):
            cursor.execute(statement)
        run()
        assert_equal(connection, target, database)
        for name in TABLES:
            some = "WHERE LENGTH(v) > 0 ORDER BY id, v"  # MySQL prints no empty value
            cursor.execute(f"SELECT id, {printed}(v) FROM {name} {some}")
            shown = [(id, json.loads(text)) for id, text in cursor.fetchall()]
            query = f'SELECT id, v FROM "{database}".{name} {some}'
            stored = target.execute(query).fetchall()  # type: ignore[call-overload]
            assert [id for id, _ in stored] == [id for id, _ in shown]
            for (id, value), (_, components) in zip(stored, shown, strict=True):
                found = struct.unpack(f"<{len(value) // 4}f", value)
                assert found == pytest.approx(components, PRECISION), id


def fill(cursor: Any, name: str, start: int) -> None:
    """Insert a row for each value."""
    for id, value in enumerate((LONG,) * 3 if name == "thousands" else VALUES, start):
        stored = struct.pack(f"<{len(value)}f", *value)
        cursor.execute(f"INSERT INTO {name} VALUES ({id}, x'{stored.hex()}')")
    if name == "nullable":
        cursor.execute(f"INSERT INTO {name} VALUES ({start + 8}, NULL)")


def implied(server: AnyServer) -> Iterator[str]:
    """Values that the server makes by itself, or that are shorter than the column."""
    yield f"SET sql_mode = {LOOSE}"
    yield "INSERT INTO keyed (id) VALUES (30)"
    yield "INSERT INTO keyless (id) VALUES (30), (30)"
    yield "UPDATE keyless SET id = 31 LIMIT 1"
    if server.kind == "mysql":
        yield "INSERT INTO nullable VALUES (31, STRING_TO_VECTOR('[7]'))"


def test_columns_become_vectors_and_other_types(
    server: AnyServer, database: str, target_database: str
) -> None:
    """Each change is on a table of its own, followed by changes of rows."""
    read, _ = FUNCTIONS[server.kind]
    changes = [change for change in CHANGES if change.only in ("", server.kind)]

    def run() -> None:
        catch_up(make_pipeline(server.url, target_database, [f"{database}.*"]))

    with (
        connect_mysql(server, database) as connection,
        connection.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        for number, change in enumerate(changes):
            value = change.value.replace("TO(", f"{read}(")
            cursor.execute(f"CREATE TABLE t{number} (id INT PRIMARY KEY, v {change.before})")
            cursor.execute(f"INSERT INTO t{number} VALUES (1, {value}), (2, {value})")
        run()
        for number, change in enumerate(changes):
            cursor.execute(f"SET sql_mode = {change.sql_mode}")
            cursor.execute(f"ALTER TABLE t{number} {change.change.replace('TO(', f'{read}(')}")
            cursor.execute(f"SET sql_mode = {LOOSE}")
            cursor.execute(f"INSERT INTO t{number} (id) VALUES (3)")
            cursor.execute(f"UPDATE t{number} SET id = 4 WHERE id = 1")
        run()
        assert_equal(connection, target, database)
