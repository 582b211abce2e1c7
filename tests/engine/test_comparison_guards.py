"""
A read of the source that is wrong itself: the comparison says so, and does not call a table equal
or go on for ever. A reader with a defect stands for such a read.
"""

from __future__ import annotations

import time
from functools import reduce
from itertools import count

import pytest

from engine.databases.mysql.row_reader import MySQLRowReader
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.schema import Table
from engine.toolkit.checksums import Checksum, KeyRange
from tests.support.sides import Sides

ROWS = 12


def make(sides: Sides, key: str) -> Table:
    """A table of which the target lacks one row."""
    table = sides.make("t", f"{key}, v INT")
    rows = ", ".join(f"({number}, 1)" for number in range(ROWS))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    sides.on_target("DELETE FROM t WHERE id = '7'")
    return table


def put_all_rows_into_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sum_parts = MySQLRowReader.sum_parts

    def one_part(*arguments: object) -> dict[str, Checksum]:
        sums = sum_parts(*arguments)  # type: ignore[arg-type]
        return {min(sums): reduce(Checksum.plus, sums.values())}

    monkeypatch.setattr(MySQLRowReader, "sum_parts", one_part)


def test_parts_that_do_not_have_all_rows_are_read_instead(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN checksums of parts that lack a row which the target lacks WHEN no row differs in them
    THEN the numbers of rows show it, and all rows are read.
    """
    table = make(sides, "id VARCHAR(9) PRIMARY KEY")
    put_all_rows_into_one_part(monkeypatch)
    report = sides.compare(table)
    assert (report.missing, report.equal, report.method) == (1, False, "rows")
    assert report.reason == f"no row differs, but the source has {ROWS} rows and the target 11"


def test_a_comparison_begins_when_its_position_is_known(sides: Sides) -> None:
    """A log file that is begun later than the comparison is then not that of its position."""
    asked: list[float] = []

    def position() -> str:
        asked.append(time.time())
        return "0"

    report = sides.compare(make(sides, "id INT PRIMARY KEY"), source_position=position)
    assert report.started_at >= asked[0]


@pytest.mark.parametrize("log_grows", [False, True])
def test_a_table_with_other_numbers_of_rows_is_not_equal(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, *, log_grows: bool
) -> None:
    """GIVEN lookups that find a row which the target lacks THEN the table is inconclusive, unless
    the log grows while the rows are counted: then one of them may be on its way.
    """
    table = make(sides, "id INT PRIMARY KEY")
    by_keys = PostgresRowReader.by_keys

    def with_another(*arguments: object, **options: bool) -> list[tuple[str | None, ...]]:
        return [*by_keys(*arguments, **options), ("7", "1")]  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresRowReader, "by_keys", with_another)
    positions = count()
    report = sides.compare(
        table, by_rows=True, source_position=lambda: str(next(positions) * log_grows)
    )
    assert report.equal is log_grows
    assert report.inconclusive == (
        "" if log_grows else f"no row differs, but the source has {ROWS} rows and the target 11"
    )


def test_a_read_that_comes_back_to_its_own_key_is_an_error(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a condition that does not leave out the keys that were read THEN the comparison ends,
    by rows and by ranges.
    """
    table = make(sides, "id INT PRIMARY KEY")

    def anew(self: MySQLRowReader, table: Table, range: KeyRange) -> list[str]:
        return ["TRUE"]

    monkeypatch.setattr(MySQLRowReader, "_in_range", anew)
    for by_rows in (True, False):
        report = sides.compare(table, by_rows=by_rows)
        assert "read again after its own key" in report.inconclusive
