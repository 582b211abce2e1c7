"""
The comparison on real servers. The tests write the target by hand, so no codec takes part.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import pytest

from engine.schema import Table
from engine.verify.report import ColumnValues, Difference, Key, Replaced
from tests.support.servers import AnyServer
from tests.support.sides import Mirror, Sides


class Example(NamedTuple):
    """A column: its type, one value as SQL of each database, and another one for the target."""

    type: str
    source: str
    target: str
    other: str


POINT = "0101000000000000000000f03f0000000000000040"
ZOO = {
    "tiny": Example("TINYINT", "-128", "-128", "127"),
    "bool": Example("TINYINT(1)", "2", "2", "1"),
    "filled": Example("INT(6) ZEROFILL", "42", "42", "43"),
    "big": Example("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615", "0"),
    "money": Example("DECIMAL(9,2)", "-12.5", "-12.50", "-12.51"),
    "long_decimal": Example(
        "DECIMAL(65,30)", "1e-30", "0.000000000000000000000000000001", "0"
    ),
    "single": Example("FLOAT", "16777217.3e-1", "'1.6777218e6'", "'1.677722e6'"),
    "tenth": Example("FLOAT", "0.1", "'0.1'", "'0.10000001'"),
    "wide": Example("DOUBLE", "0.1e0 + 0.2e0", "0.30000000000000004", "0.3"),
    "minus_zero": Example("DOUBLE", "-0e0", "'-0'", "0"),
    "minus_nothing": Example("FLOAT", "-0e0", "'-0'", "0"),
    "least": Example("FLOAT", "-1.1754943508222875e-38", "'-1.1754944e-38'", "'-1.1754942e-38'"),
    "bits": Example("BIT(64)", "0x8000000000000001", f"B'1{'0' * 62}1'", f"B'1{'0' * 63}'"),
    "year": Example("YEAR", "0", "0", "2000"),
    "day": Example("DATE", "'2024-02-29'", "'2024-02-29'", "'2024-03-01'"),
    "moment": Example("DATETIME", "'1000-01-01 00:00:00'", "'1000-01-01'", "'1000-01-01 0:0:1'"),
    "micro": Example("DATETIME(6)", "'2024-01-01 1:2:3.5'", "'2024-01-01 1:2:3.5'", "NULL"),
    "stamp": Example(
        "TIMESTAMP(3) NULL", "'2038-01-19 03:14:07.123'", "'2038-01-19 04:14:07.123+01'",
        "'2038-01-19 03:14:07.123+01'",
    ),
    "span": Example("TIME(1)", "'-838:59:58.9'", "'-838:59:58.9'", "'838:59:58.9'"),
    "short_span": Example("TIME", "'-00:00:01'", "'-00:00:01'", "'00:00:01'"),
    "fixed": Example("CHAR(5)", "'ab   '", "'ab'", "'ab '"),
    "words": Example("VARCHAR(20)", "'trailing  '", "'trailing  '", "'trailing '"),
    "empty": Example("VARCHAR(20)", "''", "''", "NULL"),
    "latin": Example("VARCHAR(9) CHARACTER SET latin1", "'€uro é'", "'€uro é'", "'Euro é'"),
    "smile": Example("TEXT", "'\U0001f600'", "'\U0001f600'", "'\U0001f601'"),
    "nul": Example("TEXT", "'a\\0b'", "'ab'", "'a b'"),
    "bytes": Example("VARBINARY(9)", "x'00ff27'", "'\\x00ff27'", "'\\x00ff'"),
    "padded": Example("BINARY(3)", "x'61'", "'\\x610000'", "'\\x61'"),
    "blob": Example("BLOB", "''", "''", "NULL"),
    "label": Example("ENUM('x','it''s')", "'it''s'", "'it''s'", "'x'"),
    "labels": Example("SET('a','b','c')", "'c,a'", "'a,c'", "'c,a'"),
    "doc": Example("JSON", """'{"b": [1, 2.50, "x"], "a": null}'""",
                   """'{"a":null,"b":[1,2.5,"x"]}'""", """'{"b":[1,2.51,"x"],"a":null}'"""),
    "place": Example("POINT", "ST_GeomFromText('POINT(1 2)')", f"'\\x{POINT}'", "NULL"),
    "placed": Example(
        "POINT", "ST_GeomFromText('POINT(1 2)', 3857)",
        f"'\\x0101000020110f0000{POINT[10:]}'", f"'\\x{POINT}'",
    ),
    "no_day": Example("DATE", "'0000-00-00'", "NULL", "'2000-01-01'"),
    "half_day": Example("DATETIME", "'2020-00-10 01:02:03'", "NULL", "'2020-01-10 01:02:03'"),
    "no_stamp": Example("TIMESTAMP NULL", "0", "NULL", "'1970-01-01'"),
}  # fmt: skip


def test_one_changed_value_of_each_type_is_found(sides: Sides) -> None:
    columns = ", ".join(f"`{name}` {example.type}" for name, example in ZOO.items())
    table = sides.make("zoo", f"id INT PRIMARY KEY, {columns}")
    nulls = ", ".join(["NULL"] * len(ZOO))
    in_source = ", ".join(example.source for example in ZOO.values())
    in_target = ", ".join(example.target for example in ZOO.values())
    sides.on_source(f"INSERT INTO zoo VALUES (1, {in_source}), (2, {nulls})")
    sides.on_target(f"INSERT INTO zoo VALUES (1, {in_target}), (2, {nulls})")
    report = sides.compare(table)
    assert report.differences == ()
    assert (report.rows, report.equal) == (2, True)
    for name, example in ZOO.items():
        sides.on_target(f'UPDATE zoo SET "{name}" = {example.other} WHERE id = 1')
        report = sides.compare(table)
        assert report.differences == (Difference("changed", ("1",), (name,)),), name
        assert (report.differing, report.missing, report.extra, report.equal) == (1, 0, 0, False)
        sides.on_target(f'UPDATE zoo SET "{name}" = {example.target} WHERE id = 1')


def test_missing_and_extra_rows_are_named_by_key(sides: Sides) -> None:
    table = sides.make("t", "a INT, b VARCHAR(9) COLLATE utf8mb4_bin, v INT, PRIMARY KEY (a, b)")
    keys = [(a, b) for a in range(4) for b in ("x", "Y", "'z")]
    rows = ", ".join("({}, '{}', 1)".format(a, b.replace("'", "''")) for a, b in keys)
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    assert sides.compare(table).equal
    sides.on_source("DELETE FROM t WHERE a = 2 AND b = 'Y'")
    sides.on_target("DELETE FROM t WHERE b = '''z'", "INSERT INTO t VALUES (9, 'x', 0)")
    report = sides.compare(table)
    assert (report.missing, report.extra, report.differing) == (4, 2, 0)
    assert set(report.differences) == {
        *(Difference("missing", (str(a), "'z")) for a in range(4)),
        Difference("extra", ("2", "Y")),
        Difference("extra", ("9", "x")),
    }


def test_a_result_in_detail_has_values_checksums_and_what_policies_changed(sides: Sides) -> None:
    keyed = sides.make("keyed", "id INT PRIMARY KEY, day DATE, word TEXT")
    keyless = sides.make("keyless", "id INT, day DATE, word TEXT")
    for name in ("keyed", "keyless"):
        sides.on_source(
            f"INSERT INTO {name} VALUES (1, '0000-00-00', 'a'), (2, '2024-01-01', 'b\\0'),"
            " (3, '2020-00-10', 'c'), (4, NULL, 'd')"
        )
        sides.on_target(
            f"INSERT INTO {name} VALUES (1, NULL, 'a'), (2, '2024-01-01', 'b'), (3, NULL, 'x'),"
            " (4, NULL, 'd'), (5, NULL, NULL)"
        )
    days, words = 'zero_date = "null"', 'nul_byte = "strip"'
    for by_rows in (False, True):
        report = sides.compare(keyed, by_rows=by_rows, in_detail=True)
        assert (report.rows, report.target_rows) == (4, 5)
        assert report.replaced == (
            Replaced("day", days, 2, "zero dates that became NULL"),
            Replaced("word", words, 1, "texts that lost U+0000"),
        )
        values = {row.key[0]: row.values for row in report.differences}
        assert values == {
            "3": (ColumnValues("word", "c", "x"),),
            "5": (
                ColumnValues("id", None, "5"),
                ColumnValues("day", None, None),
                ColumnValues("word", None, None),
            ),
        }
        assert bool(report.source_checksum) is not by_rows
        report = sides.compare(keyless, by_rows=by_rows, in_detail=True)
        assert (report.rows, report.target_rows, report.differences) == (4, 5, ())
        assert (report.missing, report.extra) == (1, 2)
    for name in ("keyed", "keyless"):
        sides.on_target(
            f"DELETE FROM {name} WHERE id = 5", f"UPDATE {name} SET word = 'c' WHERE id = 3"
        )
        sides.on_source(
            f"UPDATE {name} SET word = 'b' WHERE id = 2",
            f"UPDATE {name} SET day = NULL WHERE id = 3",
        )
    for table in (keyed, keyless):
        report = sides.compare(table)
        assert (report.rows, report.target_rows, report.equal) == (4, 4, True)
        assert report.method == "checksums"
        assert report.source_checksum == report.target_checksum
        assert len(report.source_checksum) == 32
        assert [it.values for it in report.replaced] == [1, 0]


@pytest.mark.parametrize(
    ("type", "source", "target"),
    [
        ("BIGINT UNSIGNED", ["0", "1", "18446744073709551615"], []),
        ("DECIMAL(9,3)", ["-1.5", "0", "1.25", "10"], []),
        ("VARCHAR(20)", ["''", "'a'", "'B'", "'c'", "'é'", "'ß'", "'\U0001f600'", "'\\\\'"], []),
        ("VARCHAR(9) CHARACTER SET latin1", ["'a'", "'€'", "'Ö'", "'z '"], []),
        (
            "VARBINARY(9)",
            ["''", "x'00'", "x'ff'", "x'27'"],
            ["''", "'\\x00'", "'\\xff'", "'\\x27'"],
        ),
        ("DATE", ["'1000-01-01'", "'2024-02-29'", "'9999-12-31'"], []),
        ("DATETIME(3)", ["'2024-01-01'", "'2024-01-01 00:00:00.001'", "'2024-01-02'"], []),
        ("TIMESTAMP(6)", ["'2024-01-01 00:00:00.5'", "'2024-01-01 00:00:00.25'"], []),
        ("TIME", ["'-10:00:00'", "'00:00:00'", "'100:00:00'", "'20:00:00'"], []),
        ("ENUM('b','a','c')", ["'a'", "'b'", "'c'"], []),
        ("SET('b','a')", ["''", "'a'", "'b'", "'b,a'"], []),
        ("BIT(9)", ["0", "1", "256"], ["B'000000000'", "B'000000001'", "B'100000000'"]),
        ("FLOAT", ["-0.1", "0", "0.1", "1e10"], []),
        ("DOUBLE", ["-1e300", "0.1", "1e-5"], []),
        ("YEAR", ["1999", "2024"], []),
    ],
)
def test_keys_of_each_type_page_through_both_sides(
    sides: Sides, type: str, source: list[str], target: list[str]
) -> None:
    table = sides.make("t", f"k {type} NOT NULL, n INT, PRIMARY KEY (k, n)")
    for run, values in ((sides.on_source, source), (sides.on_target, target or source)):
        for value in values:
            text = value.replace("\\\\", "\\") if run == sides.on_target and not target else value
            run(f"INSERT INTO t VALUES ({text}, 1), ({text}, 2)")
    report = sides.compare(table, chunk_rows=1)
    assert (report.equal, report.rows) == (True, 2 * len(source)), report


def test_a_key_equal_only_by_collation_is_another_row(sides: Sides) -> None:
    table = sides.make("t", "k VARCHAR(9) PRIMARY KEY, v INT")
    sides.on_source("INSERT INTO t VALUES ('a', 1), ('b ', 1)")
    sides.on_target("INSERT INTO t VALUES ('A', 1), ('b', 1)")
    report = sides.compare(table)
    assert {(one.kind, one.key) for one in report.differences} == {
        ("missing", ("a",)),
        ("missing", ("b ",)),
        ("extra", ("A",)),
        ("extra", ("b",)),
    }


def test_a_key_that_the_target_cannot_hold_is_compared_with_its_replacement(sides: Sides) -> None:
    table = sides.make("t", "k VARCHAR(9), d DATE, PRIMARY KEY (k, d)")
    sides.on_source(
        "INSERT INTO t VALUES ('a\\0', '2000-01-01'), ('b', '0000-00-00'), ('c', 20200101)"
    )
    sides.on_target("INSERT INTO t VALUES ('c', '2020-01-01')")
    report = sides.compare(table)
    assert [(one.kind, one.key) for one in report.differences] == [
        ("missing", ("a\U000f0000", "2000-01-01")),
        ("missing", ("b", "-infinity")),
    ]
    sides.on_target("INSERT INTO t VALUES ('a\U000f0000', '2000-01-01'), ('b', '-infinity')")
    assert sides.compare(table).equal
    assert sides.compare(table, chunk_rows=1).equal
    sides.on_source("DELETE FROM t WHERE k <> 'c'")
    report = sides.compare(table)
    assert [(one.kind, one.key) for one in report.differences] == [
        ("extra", ("a\U000f0000", "2000-01-01")),
        ("extra", ("b", "-infinity")),
    ]


def test_tables_are_compared_while_changes_flow(sides: Sides) -> None:
    keyed = sides.make("keyed", "id INT PRIMARY KEY, v INT")
    keyless = sides.make("keyless", "n INT, v INT")
    for run in (sides.on_source, sides.on_target):
        for name in ("keyed", "keyless"):
            run(f"INSERT INTO {name} VALUES {', '.join(f'({n}, 0)' for n in range(200))}")
    sides.on_target("UPDATE keyed SET v = -1 WHERE id = 77", "DELETE FROM keyless WHERE n = 77")
    with Mirror(sides, changes) as mirror:
        report = sides.compare_all([keyed, keyless], passed=mirror.passed, chunk_rows=20)
        assert mirror.done > 0
    assert report.tables[0].differences == (Difference("changed", ("77",), ("v",)),)
    assert (report.tables[1].missing, report.tables[1].extra) == (1, 0)
    assert [table.inconclusive for table in report.tables] == ["", ""]


def changes(number: int) -> str:
    """The statement with this number: it changes one row of one of the tables."""
    id = number * 7 % 50 + 100
    return [
        f"UPDATE keyed SET v = {number} WHERE id = {id}",
        f"DELETE FROM keyed WHERE id = {id + 50}",
        f"INSERT INTO keyed VALUES ({1000 + number}, 1)",
        f"INSERT INTO keyless VALUES ({1000 + number}, 1)",
        f"UPDATE keyless SET v = {number} WHERE n = {id}",
    ][number % 5]


COUNTERS = 5


def make_counters(sides: Sides, key: str = " PRIMARY KEY") -> Table:
    """Create a table with a row for each counter; ``w`` never changes."""
    table = sides.make("counters", f"id INT{key}, v INT, w INT")
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO counters VALUES {', '.join(f'({n}, 0, 0)' for n in range(COUNTERS))}")
    return table


def count_up(number: int) -> str:
    return f"UPDATE counters SET v = v + 1 WHERE id = {number % COUNTERS}"


@pytest.mark.parametrize("key", [" PRIMARY KEY", ""], ids=["key", "keyless"])
def test_rows_that_change_without_pause_are_no_differences(sides: Sides, key: str) -> None:
    table = make_counters(sides, key)
    with Mirror(sides, count_up) as mirror:
        for _ in range(4):
            report = sides.compare(table, passed=mirror.passed, deadline_seconds=0.5)
            assert (report.differing, report.missing, report.extra) == (0, 0, 0), report
            assert report.equal != bool(report.hot)
            assert report.equal != ("too fast" in report.inconclusive)
    assert sides.compare(table).equal


def test_a_wrong_row_that_never_stands_still_is_inconclusive(sides: Sides) -> None:
    """GIVEN a wrong value on the target WHEN its row never stands still
    THEN the row may only be late, so the table is neither equal nor different."""
    table = make_counters(sides)
    sides.on_target("UPDATE counters SET w = 1 WHERE id = 3")
    with Mirror(sides, count_up) as mirror:
        report = sides.compare(table, passed=mirror.passed, deadline_seconds=0.3)
    assert (report.equal, report.differing) == (False, 0)
    assert report.hot >= 1
    assert "too fast" in report.inconclusive


def test_a_wrong_value_of_a_hot_row_is_found_when_the_row_stands_still(sides: Sides) -> None:
    table = make_counters(sides)
    sides.on_target("UPDATE counters SET w = 1 WHERE id = 3")
    rechecks: list[str] = []

    def passed(position: str, deadline: float) -> Awaitable[bool]:
        rechecks.append(position)
        return mirror.passed(position, deadline)

    def count_up_with_a_pause(number: int) -> str:
        return count_up(number) if number % COUNTERS != 3 or len(rechecks) < 10 else ""

    with Mirror(sides, count_up_with_a_pause) as mirror:
        report = sides.compare(table, passed=passed, deadline_seconds=20)
    assert len(rechecks) >= 10
    assert report.differences == (Difference("changed", ("3",), ("w",)),)
    assert (report.differing, report.missing, report.extra) == (1, 0, 0)


def test_a_row_that_changes_to_and_fro_is_no_difference(sides: Sides) -> None:
    """GIVEN a row with the same value before and after most rechecks, and another in between
    THEN it is compared with the value in between, too."""
    table = make_counters(sides)

    def to_and_fro(number: int) -> str:
        return f"UPDATE counters SET v = {number % 2} WHERE id = {number % COUNTERS}"

    with Mirror(sides, to_and_fro) as mirror:
        for _ in range(5):
            report = sides.compare(table, passed=mirror.passed, deadline_seconds=5)
            assert (report.differing, report.missing, report.extra) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["PRIMARY KEY", ""], ids=["keyed", "keyless"])
def test_many_rows_that_change_to_and_fro_at_once_are_no_differences(
    sides: Sides, key: str
) -> None:
    """Three rechecks of all of them called about one comparison in 300 different."""
    table = sides.make("t", f"id INT {key}, v INT")
    rows = ", ".join(f"({id}, 0)" for id in range(40))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    end = time.monotonic() + 15.0
    with Mirror(sides, lambda number: "UPDATE t SET v = 1 - v") as mirror:
        while time.monotonic() < end:
            report = sides.compare(table, passed=mirror.passed, deadline_seconds=0.2)
            assert (report.differing, report.missing, report.extra) == (0, 0, 0)


def test_nothing_is_called_different_if_the_pipeline_stalls(sides: Sides) -> None:
    table = sides.make("t", "id INT PRIMARY KEY")
    sides.on_source("INSERT INTO t VALUES (1), (2), (3), (4), (5)")
    asked: list[str] = []

    async def never(position: str, deadline: float) -> bool:
        asked.append(position)
        return False

    report = sides.compare(table, passed=never, chunk_rows=2)
    assert (report.missing, report.hot, report.equal) == (0, 5, False)
    assert "did not reach the end of the log" in report.inconclusive
    assert asked[0] == "here"


def test_values_that_only_the_target_can_have_are_differences(sides: Sides) -> None:
    """And a keyless table of them leaves the connection as it was."""
    deep = "[" * 1500 + "]" * 1500
    for name, columns in (("t", "id INT PRIMARY KEY, "), ("keyless", "id INT, ")):
        table = sides.make(name, f"{columns}v TIME, w JSON")
        sides.on_source(f"INSERT INTO {name} VALUES (1, '10:00:00', '[1]'), (2, NULL, '[2]')")
        sides.on_source(f"INSERT INTO {name} VALUES (3, NULL, '[3]')")
        sides.on_target(f"INSERT INTO {name} VALUES (1, '1 day', '[1]')")
        sides.on_target(f"INSERT INTO {name} VALUES (2, NULL, '1e99999999999999999999')")
        sides.on_target(f"INSERT INTO {name} VALUES (3, NULL, '{deep}')")
        for by_rows in (False, True):
            report = sides.compare(table, by_rows=by_rows)
            found = report.differing, report.missing, report.extra
            assert found == ((3, 0, 0) if table.key else (0, 3, 3)), report.inconclusive


def test_a_table_missing_in_the_target_is_inconclusive(sides: Sides) -> None:
    sides.on_source("CREATE TABLE t (id INT PRIMARY KEY)")
    report = sides.compare(sides.table("t"))
    assert (report.equal, report.inconclusive) == (False, "the target has no such table")


def test_mariadb_types(mariadb_10: AnyServer, new_sides: Callable[..., Sides]) -> None:
    sides = new_sides(mariadb_10)
    table = sides.make("t", "u UUID PRIMARY KEY, i INET6, c TEXT COMPRESSED, f FLOAT, j JSON")
    row = "'6CCD780C-BABA-1026-9564-5B8C656024DB', '2001:db8::ff00', 'long text', 0.1, '[1]'"
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES ({row})")
    report = sides.compare(table)
    assert (report.rows, report.equal) == (1, True), report


def test_a_reader_connects_again_after_a_lost_connection(sides: Sides) -> None:
    table = sides.make("t", "id INT PRIMARY KEY")
    assert sides.compare(table).equal
    with sides.source.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist"
            " WHERE id <> CONNECTION_ID() AND db IS NULL AND command = 'Sleep'"
        )
        for (thread,) in cursor.fetchall():
            cursor.execute(f"KILL {thread}")
    with pytest.raises(Exception, match="source") as lost:
        sides.compare(table)
    assert getattr(lost.value, "retryable", False)
    assert sides.compare(table).equal


@pytest.mark.parametrize("key", ["INT", "VARCHAR(9)"])
def test_a_row_that_no_lookup_finds_is_not_equal(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """GIVEN a row of the target that is read, and that no lookup finds by its key
    THEN the table is inconclusive; it is equal as soon as the row is gone.
    """
    table = sides.make("t", f"id {key} PRIMARY KEY, v INT")
    sides.on_source("INSERT INTO t VALUES (1, 1)")
    sides.on_target("INSERT INTO t VALUES (1, 1), (2, 2)")
    lookup = sides.target_reader.by_keys

    def by_keys(table: Table, keys: Sequence[Key], *, keys_only: bool = False) -> list[Key]:
        return lookup(table, [each for each in keys if each != ("2",)], keys_only=keys_only)

    monkeypatch.setattr(sides.target_reader, "by_keys", by_keys)
    for by_rows in (False, True):
        report = sides.compare(table, by_rows=by_rows)
        assert (report.equal, report.extra, report.hot) == (False, 0, 0)
        assert report.method == ("rows" if by_rows else "checksums")
        assert report.inconclusive == "rows that are read, and not found by their keys: 1"
    sides.on_target("DELETE FROM t WHERE id = '2'")
    assert sides.compare(table).equal
