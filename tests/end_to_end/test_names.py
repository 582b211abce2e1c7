"""
Names of databases, tables, columns and indexes that are odd, or equal but for their case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from engine.databases.postgres.identifiers import Naming, fitted
from engine.sandbox import Server, start_mariadb, start_mysql
from engine.schema import TableId
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import Writer
from tests.support.servers import AnyServer, connect_mysql, drop_mysql_database, obtain

LONG = "n" * 63
# Names of tables and columns alike. The collation of MariaDB's catalog takes t, T and Ť for equal.
NAMES = ["t", "T", "Ť", "select", "two words", "\"'`;--", "雪だるま☃", "%s", LONG + "a", LONG + "b"]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@pytest.fixture
def two_databases(mysql_family: AnyServer) -> Iterator[list[str]]:
    """Two databases on one server, whose names differ in case only."""
    names = ["names_Of_a_test", "NAMES_of_a_test"]
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield names
    for name in names:
        drop_mysql_database(mysql_family, name)


def test_names_arrive_as_they_are(
    mysql_family: AnyServer,
    postgres: AnyServer,
    two_databases: list[str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """Names differ by case, have quotes, or are longer than PostgreSQL's: all rows arrive, those of
    the backfill, of the stream, and of tables that are created later."""
    target = fresh_postgres_database(postgres)
    expected = {}
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        for schema in two_databases:
            for name in NAMES:
                where = f"{_quoted(schema)}.{_quoted(name)}"
                expected[TableId(schema, name)] = [(1, where), (2, where)]
                # A column's name is not case-sensitive in one table.
                column = _quoted(name.replace("T", "t"))
                cursor.execute(
                    f"CREATE TABLE {where} (id INT PRIMARY KEY, {column} VARCHAR(200), n INT,"
                    f" KEY {column} ({column}), KEY {_quoted(LONG + 'c')} (n))"
                )
                cursor.execute(f"INSERT INTO {where} SELECT 1, {connection.escape(where)}, 1")
        patterns = [f"{schema}.*" for schema in two_databases]
        catch_up(make_pipeline(mysql_family.url, target, patterns))
        _assert_rows(target, {id: rows[:1] for id, rows in expected.items()})
        for id in expected:
            where = f"{_quoted(id.schema)}.{_quoted(id.name)}"
            cursor.execute(f"INSERT INTO {where} SELECT 2, {connection.escape(where)}, 1")
        for schema in two_databases:
            for name in ("x", "X"):
                cursor.execute(f"CREATE TABLE {schema}.{name} (id INT PRIMARY KEY, v TEXT, n INT)")
                rows = [(1, f"{schema}.{name}"), (2, "")]
                cursor.executemany(f"INSERT INTO {schema}.{name} VALUES (%s, %s, 1)", rows)
                expected[TableId(schema, name)] = rows
        catch_up(make_pipeline(mysql_family.url, target, patterns))
    _assert_rows(target, expected)


def _assert_rows(target: str, expected: dict[TableId, list[Any]]) -> None:
    with psycopg.connect(target) as there:
        found = {
            id: [row[:2] for row in there.execute(f"SELECT * FROM {Naming().sql(id)} ORDER BY 1")]  # type: ignore[call-overload]
            for id in expected
        }
        columns = {
            name
            for (name,) in there.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = %s",
                (next(iter(expected)).schema,),
            )
        }
    assert found == expected
    assert {fitted(name) for name in NAMES if name != "T"} <= columns


@pytest.fixture(params=["mariadb", pytest.param("mysql", marks=pytest.mark.slow)])
def folding_server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    """A server that stores names in lower case, as on Windows."""
    options = ["--lower-case-table-names=1"]

    def start() -> Server:
        if request.param == "mysql":
            return start_mysql("9.7", options=options)
        return start_mariadb("10.11", options=options)

    with obtain(start) as server:
        yield server


def test_names_are_stored_in_lower_case(
    folding_server: AnyServer,
    postgres: AnyServer,
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """Statements may name a table as they like, and patterns too."""
    target = fresh_postgres_database(postgres)
    with connect_mysql(folding_server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE Names")
    writer = Writer(folding_server, "NAMES")
    writer(
        "CREATE TABLE MyTable (Id INT PRIMARY KEY, V TEXT)", "INSERT INTO mytable VALUES (1,'a')"
    )
    pipeline = [folding_server.url, target, ["nAmes.*"]]
    catch_up(make_pipeline(*pipeline))
    writer(
        "INSERT INTO MYTABLE VALUES (2, 'b')",
        "ALTER TABLE Names.MYtable ADD N INT",
        "UPDATE mytable SET n = 3",
        "CREATE TABLE `Other` LIKE MyTable",
        "RENAME TABLE `OTHER` TO `Others`",
        "INSERT INTO others VALUES (7, 'c', 8)",
    )
    catch_up(make_pipeline(*pipeline))
    writer.connection.close()
    with psycopg.connect(target) as there:
        mine = there.execute("SELECT * FROM names.mytable ORDER BY 1").fetchall()
        assert mine == [(1, "a", 3), (2, "b", 3)]
        assert there.execute("SELECT * FROM names.others").fetchall() == [(7, "c", 8)]
