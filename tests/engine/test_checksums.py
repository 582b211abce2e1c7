"""
Comparisons by checksums on real servers: what is read, and what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from engine.databases.mysql.row_reader import MySQLRowReader
from engine.toolkit.checksums import EVERYTHING, Checksum
from engine.verify.report import Difference
from sources.mysql.settings import MySQLSettings
from tests.support.servers import AnyServer
from tests.support.sides import Sides


@pytest.fixture
def sides(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> Iterator[Sides]:
    made = Sides(mysql, fresh_mysql_database(mysql), fresh_postgres_database(postgres))
    yield made
    made.close()


def test_sums_of_signed_and_unsigned_hashes_are_equal() -> None:
    assert Checksum.of("2", "18446744073709551615", "-1") == Checksum.of(2, -1, (1 << 64) - 1)
    assert Checksum.of(0, None, None) == Checksum()


def fill(sides: Sides, name: str, rows: int) -> None:
    numbers = f"WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    sides.on_source(
        "SET SESSION cte_max_recursion_depth = 1000000",
        f"INSERT INTO {name} (id, v) {numbers} SELECT i, 7 FROM n",
    )
    sides.on_target(f"INSERT INTO {name} (id, v) SELECT i, 7 FROM generate_series(1, {rows}) AS i")


@pytest.mark.parametrize("key", ["INT PRIMARY KEY", "VARCHAR(9) PRIMARY KEY", "INT"])
def test_few_rows_are_read_to_find_a_fault(sides: Sides, key: str) -> None:
    table = sides.make("t", f"id {key}, v INT")
    fill(sides, "t", 4000)
    report = sides.compare(table, chunk_rows=20)
    assert (report.equal, report.rows, report.read) == (True, 4000, 0)
    assert (report.method, report.reason) == ("checksums", "")
    if not table.key:
        return
    sides.on_target("UPDATE t SET v = 8 WHERE id = '1234'", "DELETE FROM t WHERE id = '4000'")
    sides.on_target("INSERT INTO t VALUES (4001, 1)")
    report = sides.compare(table, chunk_rows=20)
    assert set(report.differences) == {
        Difference("changed", ("1234",), ("v",)),
        Difference("missing", ("4000",)),
        Difference("extra", ("4001",)),
    }
    assert (report.method, report.rows) == ("checksums", 4000)
    assert 0 < report.read < 200
    report = sides.compare(table, chunk_rows=500, by_rows=True)
    assert (report.method, report.reason, report.read) == ("rows", "", 4000)


def test_equal_rows_of_a_keyless_table_do_not_cancel_each_other(sides: Sides) -> None:
    table = sides.make("t", "id INT, v INT")
    sides.on_source("INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)")
    sides.on_target("INSERT INTO t VALUES (1, 1), (2, 2), (2, 2)")
    report = sides.compare(table)
    assert (report.missing, report.extra) == (1, 1)
    sides.on_source("DELETE FROM t WHERE id = 1")
    sides.on_target("DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (2, 2)")
    assert sides.compare(table).extra == 1


def test_a_table_of_many_rows_on_one_side_alone(sides: Sides) -> None:
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    sides.on_target("INSERT INTO t SELECT i, 1 FROM generate_series(1, 300) AS i")
    report = sides.compare(table, chunk_rows=50)
    assert (report.extra, report.missing, report.differing) == (300, 0, 0)
    sides.on_target("TRUNCATE t")
    fill(sides, "t", 300)
    sides.on_target("TRUNCATE t")
    report = sides.compare(table, chunk_rows=50)
    assert (report.extra, report.missing, report.differing) == (0, 300, 0)


def test_a_row_with_more_columns_than_a_function_has_arguments(sides: Sides) -> None:
    columns = ", ".join(f"c{n} VARCHAR(3)" for n in range(120))
    table = sides.make("t", f"id INT PRIMARY KEY, v INT, {columns}")
    fill(sides, "t", 3)
    assert sides.compare(table).read == 0
    sides.on_target("UPDATE t SET c119 = '' WHERE id = 3")
    assert sides.compare(table).differences == (Difference("changed", ("3",), ("c119",)),)


@pytest.mark.parametrize("wrong", ["NULL", "repeat('x', 1500000)"])
def test_a_row_that_is_too_long_for_a_checksum_is_read(
    mysql: AnyServer, sides: Sides, wrong: str
) -> None:
    """GIVEN a row that is longer than max_allowed_packet
    THEN it has no text on the source, and looks like no row of the target, also not one of NULLs.
    """
    table = sides.make("t", "id INT PRIMARY KEY, v INT, a LONGTEXT, b LONGTEXT")
    for run in (sides.on_source, sides.on_target):
        run("INSERT INTO t VALUES (1, 1, repeat('x', 1000000), repeat('y', 1000000))")
    with sides.source.cursor() as cursor:
        cursor.execute("SELECT @@global.max_allowed_packet")
        [(before,)] = cursor.fetchall()
        cursor.execute("SET GLOBAL max_allowed_packet = 1048576")
        try:
            sides.source_reader.close()  # a session keeps the limit that it began with
            sides.source_reader = MySQLRowReader(MySQLSettings(url=mysql.url))
            sums = [
                it.sum_range(table, EVERYTHING) for it in (sides.source_reader, sides.target_reader)
            ]
        finally:
            cursor.execute(f"SET GLOBAL max_allowed_packet = {before}")
    assert sums[0].rows == sums[1].rows == 1
    assert sums[0] != sums[1]
    report = sides.compare(table)
    assert (report.equal, report.read) == (True, 1)
    sides.on_target(f"UPDATE t SET a = {wrong}, b = NULL")
    assert sides.compare(table).differing == 1
