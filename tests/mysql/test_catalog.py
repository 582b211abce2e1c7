"""The catalog: columns, keys and indexes of the servers' tables."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from engine.schema import Index, TableId, Type
from sources.mysql.catalog import read_catalog, read_table
from sources.mysql.statistics import row_estimates, row_statistics
from tests.support.mysql_log import live_table
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]


def test_columns(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE `odd ``name``` (`Id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,"
            " `déjà vu` VARCHAR(20) CHARACTER SET latin1 DEFAULT 'it''s \\\\ 1',"
            " n INT NOT NULL DEFAULT -5, t TEXT CHARACTER SET utf8mb3,"
            " c TIMESTAMP(3) NULL DEFAULT CURRENT_TIMESTAMP(3), e ENUM('a','b') DEFAULT 'b',"
            " g INT AS (n + 1) VIRTUAL, s INT AS (n + 2) STORED, h INT INVISIBLE)"
        )
        cursor.execute("CREATE VIEW v AS SELECT 1")
        [table] = read_catalog(connection, lambda id: id.schema == database)
        assert read_table(connection, TableId(database, "v")) is None
        assert read_table(connection, TableId(database, "nothing")) is None
    assert table.id == TableId(database, "odd `name`")
    assert table.names == ("Id", "déjà vu", "n", "t", "c", "e", "g", "s", "h")
    assert table.key == (0,)
    by_name = dict(zip(table.names, table.columns, strict=True))
    assert [column.nullable for column in table.columns[:4]] == [False, True, False, True]
    assert by_name["Id"].type == Type("uint64")
    assert by_name["déjà vu"].source_type.startswith(
        "varchar(20) character set latin1 collate latin1_"
    )
    assert by_name["déjà vu"].default == "'it''s \\\\ 1'"
    assert by_name["t"].source_type.startswith("text character set utf8mb3 collate utf8")
    assert by_name["t"].default is None
    assert by_name["n"].default == "-5"
    assert by_name["e"].default == "'b'"
    assert (by_name["c"].default or "").upper() == "CURRENT_TIMESTAMP(3)"
    assert [by_name[name].generated for name in ("n", "g", "s", "h")] == [False, True, True, False]


def test_keys(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    columns = "a INT NOT NULL, b INT NOT NULL, c INT, t VARCHAR(100) NOT NULL"
    with connection, connection.cursor() as cursor:
        for name, keys in {
            "composite": "PRIMARY KEY (b, a), KEY k (c)",
            "shortest": "UNIQUE two (b, c), UNIQUE three (a, b, t), UNIQUE pair (t, a)",
            "nullable": "UNIQUE u (c)",
            "prefix": "UNIQUE u (t(10)), FULLTEXT f (t)",
            "none": "KEY k (a)",
        }.items():
            cursor.execute(f"CREATE TABLE {name} ({columns}, {keys})")
        tables = {
            name: live_table(connection, database, name)
            for name in ("composite", "shortest", "nullable", "prefix", "none")
        }
    assert {name: table.key for name, table in tables.items()} == {
        "composite": (1, 0),
        "shortest": (3, 0),
        "nullable": (),
        "prefix": (),
        "none": (),
    }
    assert tables["composite"].indexes == (Index("k", (2,)),)
    assert tables["prefix"].indexes == (Index("u", (3,), unique=True, prefix=True),)
    assert {index.name for index in tables["shortest"].uniques} == {"two", "three", "pair"}


def test_functional_indexes_are_left_out(mysql: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT NOT NULL, UNIQUE f ((a + 1)), KEY k (a))")
        table = live_table(connection, database, "t")
    assert table.indexes == (Index("k", (0,)),)
    assert table.key == ()


def test_the_number_of_queries_does_not_depend_on_the_tables(
    mysql: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        for number in range(60):
            cursor.execute(f"CREATE TABLE t{number} (id INT PRIMARY KEY, v VARCHAR(9))")
        cursor.execute("SHOW SESSION STATUS LIKE 'Questions'")
        before = int(cursor.fetchone()[1])
        started = time.monotonic()
        tables = read_catalog(connection, lambda id: id.schema == database)
        assert time.monotonic() - started < 5
        cursor.execute("SHOW SESSION STATUS LIKE 'Questions'")
        assert int(cursor.fetchone()[1]) - before <= 7
    assert len(tables) == 60
    assert [table.id for table in tables] == sorted(table.id for table in tables)
    assert all(table.key == (0,) for table in tables)


def test_estimates_come_from_statistics(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v CHAR(100))")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 100) for n in range(1000)])
        cursor.execute("ANALYZE TABLE t")
        cursor.fetchall()
        table = live_table(connection, database, "t")
        other = msgspec.structs.replace(table, id=TableId(database, "nothing"))
        rows, length = row_statistics(connection, table)
        assert 500 < rows < 2000
        assert 50 < length < 1000
        assert row_estimates(connection, [table]) == {table.id: rows}
        assert row_estimates(connection, [other, table]) == {table.id: rows}
        assert row_estimates(connection, []) == {}
        # Of rows that fulfil a condition, the optimizer knows as many as an index tells it.
        cursor.execute("CREATE INDEX by_v ON t (v)")
        cursor.execute("UPDATE t SET v = 'other' WHERE id < 20")
        cursor.execute("ANALYZE TABLE t")
        cursor.fetchall()
        found = row_estimates(connection, [table], {table: "v = 'other'"})[table.id]
        assert 1 <= found <= 100
        assert row_estimates(connection, [table], {table: "no_function(v)"})[table.id] > 500


def test_names_that_differ_in_case_are_told_apart(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    """The collation of MariaDB's information_schema takes these names for equal."""
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    names = ("T", "t", "ť")
    with connection, connection.cursor() as cursor:
        for number, name in enumerate(names):
            cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, c{number} INT)")
        tables = read_catalog(connection, lambda id: id.schema == database)
        expected = [(name, ("id", f"c{number}")) for number, name in enumerate(names)]
        assert [(table.id.name, table.names) for table in tables] == expected
        assert set(row_estimates(connection, tables)) == {table.id for table in tables}
