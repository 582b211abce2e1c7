"""
Keyless tables on real servers, compared while equal rows come and go.
"""

from __future__ import annotations

import time

import pytest

from engine.schema import Table
from tests.support.sides import Mirror, Sides

FAULTS = {
    "missing": ("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)", (1, 0)),
    "extra": ("INSERT INTO t VALUES (1, 1)", (0, 1)),
}


def make(sides: Sides) -> Table:
    """Create a table of equal rows, and others that stand still."""
    table = sides.make("t", "a INT, b INT")
    rows = ", ".join(["(1, 1)"] * 1000 + [f"({n}, 0)" for n in range(3000)])
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    return table


def insert(number: int) -> str:
    return "INSERT INTO t VALUES (1, 1)"


def check_faults(sides: Sides, fault: str, by_rows: bool, seconds: float) -> None:
    table = make(sides)
    statement, found = FAULTS[fault]
    sides.on_target(statement)
    end = time.monotonic() + seconds
    with Mirror(sides, insert) as mirror:
        while True:
            report = sides.compare(
                table, passed=mirror.passed, by_rows=by_rows, deadline_seconds=0.2
            )
            assert not report.equal
            # Rows that are still on their way are no differences.
            assert report.missing <= found[0]
            assert report.extra <= found[1]
            assert report.hot or report.differing + report.missing + report.extra
            if time.monotonic() > end:
                break
    report = sides.compare(table, by_rows=by_rows)
    assert (report.missing, report.extra, report.hot) == (*found, 0)


def test_a_wrong_number_of_equal_rows_is_not_hidden_by_new_ones(sides: Sides) -> None:
    check_faults(sides, "missing", by_rows=False, seconds=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_no_comparison_under_load_misses_a_wrong_number(
    sides: Sides, fault: str, by_rows: bool
) -> None:
    check_faults(sides, fault, by_rows, seconds=8.0)


@pytest.mark.slow
@pytest.mark.parametrize("by_rows", [False, True])
def test_a_log_that_grows_is_equal_or_differs_by_what_it_lacks(sides: Sides, by_rows: bool) -> None:
    """Rows that are like no other stand still as soon as they are there."""
    table = make(sides)
    with Mirror(sides, lambda number: f"INSERT INTO t VALUES ({number}, 2)") as mirror:
        for _ in range(5):
            report = sides.compare(
                table,
                passed=mirror.passed,
                by_rows=by_rows,
                source_position=lambda: str(mirror.done),
            )
            assert report.equal, report
        sides.on_target("DELETE FROM t WHERE a IN (7, 8) AND b = 0", FAULTS["missing"][0])
        report = sides.compare(table, passed=mirror.passed, by_rows=by_rows)
        assert (report.missing, report.extra, report.hot) == (3, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("by_rows", [False, True])
def test_rows_inserted_and_deleted_to_and_fro_are_no_differences(
    sides: Sides, by_rows: bool
) -> None:
    table = make(sides)
    sides.on_target("INSERT INTO t VALUES (-1, 3)")

    def to_and_fro(number: int) -> str:
        row = number // 2 % 3
        insert = f"INSERT INTO t VALUES ({row}, 4), ({row}, 4)"
        return insert if number % 2 else f"DELETE FROM t WHERE a = {row} AND b = 4"

    end = time.monotonic() + 10.0
    with Mirror(sides, to_and_fro) as mirror:
        while time.monotonic() < end:
            report = sides.compare(
                table, passed=mirror.passed, by_rows=by_rows, deadline_seconds=0.3
            )
            assert (report.missing, report.extra) == (0, 1), report
