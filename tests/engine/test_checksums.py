"""
Comparisons by checksums on real servers: what is read, and what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from engine.databases.mysql import session_variables
from engine.databases.mysql.session_variables import Variable
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.checksums import LONGEST, Checksum, most_rows
from engine.verify.report import Difference
from tests.support.servers import AnyServer
from tests.support.sides import Sides


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


@contextmanager
def new_reader_with_packets_of(sides: Sides, size: int) -> Iterator[None]:
    """In the body, the source's reader has this max_allowed_packet, as soon as it has read."""
    with sides.source.cursor() as cursor:
        cursor.execute("SELECT @@global.max_allowed_packet")
        [(before,)] = cursor.fetchall()
        cursor.execute(f"SET GLOBAL max_allowed_packet = {size}")
        try:
            sides.source_reader.close()  # a session keeps the limit that it began with
            sides.source_reader = sides.new_source_reader()
            yield
        finally:
            cursor.execute(f"SET GLOBAL max_allowed_packet = {before}")


def test_wide_rows_are_compared_by_checksums_of_as_many_as_fit_into_a_packet(sides: Sides) -> None:
    """Also if these are fewer than are read at once."""
    table = sides.make("t", "id INT PRIMARY KEY, a TEXT, b TEXT")
    rows = ", ".join(f"({id}, repeat('a', 1000), repeat('b', 1024))" for id in range(200))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    with new_reader_with_packets_of(sides, 1 << 16):
        report = sides.compare(table, chunk_rows=150)
    assert (report.equal, report.method, report.read) == (True, "checksums", 0)
    sides.on_target("UPDATE t SET b = a WHERE id = 77")
    report = sides.compare(table, chunk_rows=150)
    assert (report.differing, report.read < 50) == (1, True)


@pytest.mark.parametrize("wrong", ["NULL", "repeat('x', 1020)"])
def test_a_row_that_is_too_long_for_a_checksum_is_read(sides: Sides, wrong: str) -> None:
    """GIVEN a row that is longer than max_allowed_packet
    THEN it has no text on the source, and looks like no row of the target, also not one of NULLs.
    """
    texts = "abcde"
    columns = ", ".join(f"{name} LONGTEXT" for name in texts)
    table = sides.make("t", f"id INT PRIMARY KEY, v INT, {columns}")
    values = ", ".join(f"repeat('{name}', 1000)" for name in texts)
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES (1, 1, {values})")
    with new_reader_with_packets_of(sides, 4096):
        sums = sides.sums(table)
    assert sums[0].rows == sums[1].rows == 1
    assert sums[0] != sums[1]
    report = sides.compare(table)
    assert (report.equal, report.read) == (True, 1)
    sides.on_target(f"UPDATE t SET a = {wrong}, b = NULL, c = NULL, d = NULL, e = NULL")
    assert sides.compare(table).differing == 1


def test_long_values_are_hashed_and_their_last_byte_counts(sides: Sides) -> None:
    columns = "a LONGTEXT, b LONGBLOB, c VARCHAR(2000) CHARSET latin1"
    table = sides.make("t", f"id INT PRIMARY KEY, v INT, {columns}")
    lengths = (LONGEST, LONGEST + 1, 2000, 300_000)
    wrong = []
    for n, length in enumerate(lengths):
        a, c = (f"concat(repeat('x', {many - 2}), 'é')" for many in (length, min(length, 2000)))
        for id, column in enumerate("abc", 3 * n):
            for run, cast in ((sides.on_source, ""), (sides.on_target, "::bytea")):
                run(f"INSERT INTO t VALUES ({id}, 1, {a}, repeat('y', {length}){cast}, {c})")
            last = (
                f"overlay({column} placing 'z'{'::bytea' * (column == 'b')} from length({column}))"
            )
            wrong.append(f"UPDATE t SET {column} = {last} WHERE id = {id}")
    report = sides.compare(table, chunk_rows=20)
    assert (report.equal, report.read) == (True, 0)
    sides.on_target(*wrong)
    assert {(it.key, it.columns) for it in sides.compare(table).differences} == {
        ((str(id),), ("abc"[id % 3],)) for id in range(3 * len(lengths))
    }


@pytest.mark.parametrize(
    ("definition", "then"),
    [
        ("id INT PRIMARY KEY, v INT, KEY (v)", ""),  # the second index has all columns
        ("id INT, v INT, PRIMARY KEY (id DESC)", ""),
        ("id INT NOT NULL UNIQUE, v INT, KEY (v)", ""),
        ("id INT PRIMARY KEY, v INT", "ENGINE = MyISAM"),
        ("id INT PRIMARY KEY, v INT", "PARTITION BY HASH (id) PARTITIONS 3"),
    ],
)
def test_rows_are_joined_in_the_order_of_the_key(sides: Sides, definition: str, then: str) -> None:
    """GIVEN a table that a server would read in another order
    THEN its rows are joined in the order of the key, so the checksums are equal."""
    table = sides.make("t", definition)
    if then:
        sides.on_source(f"ALTER TABLE t {then}")
    for run in (sides.on_source, sides.on_target):
        run("INSERT INTO t VALUES (5, 2), (4, 9), (1, 7), (3, 1), (2, 8), (6, 3)")
    one, other = sides.sums(table)
    assert one == other


def test_columns_that_cannot_be_null_are_joined_as_they_are(
    mysql_family: AnyServer, new_sides: Callable[..., Sides]
) -> None:
    many = "".join(f", n{n} INT NOT NULL DEFAULT 1" for n in range(250))
    definition = "id BIGINT UNSIGNED PRIMARY KEY, v VARCHAR(99) NOT NULL, c CHAR(9) NOT NULL"
    rows = "(1, '', ''), (2, ' a ', 'b'), (3, 'a,b:1,', '😀'), (18446744073709551615, 'é', ',')"
    sides = new_sides(mysql_family)
    for name, columns in (("few", ""), ("mixed", ", n DOUBLE, t TEXT"), ("many", many)):
        table = sides.make(name, definition + columns)
        for run in (sides.on_source, sides.on_target):
            run(f"INSERT INTO {name} (id, v, c) VALUES {rows}")
        one, other = sides.sums(table)
        assert one == other
        sides.on_target(f"UPDATE {name} SET v = ' a' WHERE id = 2")
        one, other = sides.sums(table)
        assert one != other
        assert one.rows == other.rows


def test_a_joined_text_that_is_cut_off_hides_nothing(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a source that cuts the joined text of a range off behind the fourth of its six rows
    WHEN the target has these four alone THEN the checksums differ.
    """
    short = (Variable("group_concat_max_len", "16"),)
    monkeypatch.setattr(session_variables, "VARIABLES", (*session_variables.VARIABLES, *short))
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    fill(sides, "t", 4)
    one, other = sides.sums(table)
    assert one == other
    sides.on_source("INSERT INTO t VALUES (5, 7), (6, 7)")
    one, other = sides.sums(table)
    assert one[1:] == other[1:]
    assert one != other
    assert sides.compare(table, chunk_rows=20).missing == 2
    sides.on_target("INSERT INTO t VALUES (5, 7), (6, 7)")
    report = sides.compare(table, chunk_rows=3)
    assert (report.equal, report.read) == (True, 0)
    assert report.source_checksum == report.target_checksum


def test_a_range_has_no_more_rows_than_its_text_may_have() -> None:
    short = Column("id", Type("int64"), "bigint")
    table = Table(TableId("s", "t"), (short,), (0,))
    assert most_rows(table) > 1_000_000
    wide = tuple(Column(f"c{n}", Type("binary"), "longblob") for n in range(1000))
    table = msgspec.structs.replace(table, columns=(short, *wide))
    assert 50 < most_rows(table) < 100
