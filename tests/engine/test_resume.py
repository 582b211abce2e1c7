"""
A comparison by ranges goes on where another one has got to.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from engine.proof import Unfinished
from engine.schema import Table
from engine.verify.pace import Pace
from engine.verify.report import Difference
from tests.support.sides import Sides


class Killed(Exception):
    """The process ends."""


class Kept:
    """Keeps what is saved, and ends the process after so many times."""

    def __init__(self, saves: int) -> None:
        self.saves = saves
        self.last: Unfinished | None = None

    def unfinished(self, table: Table) -> Unfinished | None:
        return self.last

    def is_time(self) -> bool:
        return True

    async def save(self, table: Table, unfinished: Unfinished) -> None:
        self.last = unfinished
        self.saves -= 1
        if not self.saves:
            raise Killed


def test_the_position_is_what_the_target_had_reached(sides: Sides) -> None:
    """GIVEN a pipeline that lags THEN the position is before all that it applies meanwhile."""
    table = sides.make("t", "a INT PRIMARY KEY")
    for known, position in (("there", "there"), (None, "here")):

        async def held(known: str | None = known) -> str | None:
            return known

        assert sides.compare(table, held=held).position == position
    assert sides.compare(table).position == "here"


def test_a_comparison_that_waits_begins_afterwards(sides: Sides) -> None:
    """A wait before the first read does not make the proof older."""
    idle_at: list[float] = []

    async def until_idle() -> None:
        idle_at.append(time.time())

    table = sides.make("t", "a INT PRIMARY KEY")
    report = sides.compare(table, pace=Pace(until_idle=until_idle))
    assert report.started_at >= idle_at[0]


def test_no_row_is_left_out_or_counted_twice(sides: Sides) -> None:
    """The comparison ends after each of its ranges in turn."""
    table = sides.make("t", "a INT, b DATETIME(3), v INT, PRIMARY KEY (a, b)")
    rows = [f"({id // 3}, '2024-01-01 00:00:00.{id % 3:03}', 1)" for id in range(100)]
    for run, shown in ((sides.on_source, rows[:-1]), (sides.on_target, rows[1:])):
        run(f"INSERT INTO t VALUES {', '.join(shown)}")
    sides.on_target("UPDATE t SET v = 2 WHERE a % 8 = 5")
    whole = sides.compare(table, chunk_rows=2)
    assert (whole.missing, whole.extra, whole.differing) == (1, 1, 12)
    kept = Kept(1)
    runs = 1
    while True:
        kept.saves, before = 1, kept.last
        try:
            report = sides.compare(table, chunk_rows=2, resumes=kept)
        except Killed:
            runs += 1
            assert kept.last is not None
            assert before is None or kept.last.rows > before.rows
            continue
        break
    assert runs > 4
    assert (report.missing, report.extra, report.differing) == (1, 1, 12)
    assert (report.rows, report.target_rows) == (whole.rows, whole.target_rows) == (99, 99)
    assert before is not None
    assert (report.started_at, report.position) == (before.started_at, before.position)


def test_rows_behind_the_place_are_compared_and_those_before_it_are_not(sides: Sides) -> None:
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {', '.join(f'({id}, 1)' for id in range(100))}")
    kept = Kept(2)
    with pytest.raises(Killed):
        sides.compare(table, chunk_rows=5, resumes=kept)
    assert kept.last is not None
    (after,) = kept.last.after
    place = int(after or 0)
    assert kept.last.rows == place + 1
    sides.on_target(f"UPDATE t SET v = 2 WHERE id IN (0, {place}, {place + 1}, 99)")
    report = sides.compare(table, chunk_rows=5, resumes=kept)
    wrong = {Difference("changed", (str(id),), ("v",)) for id in (place + 1, 99)}
    assert set(report.differences) == wrong
    assert report.rows == 100
    assert sides.compare(table, chunk_rows=5).differing == 4


def test_rows_of_another_run_are_not_paid_again(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that goes on rests for the rows that it compares, not for those before."""
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {', '.join(f'({id}, 1)' for id in range(100))}")
    kept = Kept(2)
    with pytest.raises(Killed):
        sides.compare(table, chunk_rows=5, resumes=kept)
    assert kept.last is not None
    before = kept.last.rows
    counted: list[int] = []
    monkeypatch.setattr(Pace, "count", lambda _, rows: counted.append(rows))
    assert sides.compare(table, chunk_rows=5, resumes=kept).rows == 100
    assert 0 < before < 100
    assert sum(counted) == 100 - before


def make_hot_rows(sides: Sides) -> tuple[Table, Callable[[str, float], Awaitable[bool]]]:
    """A table whose first two rows are wrong, and a pipeline during whose waits they change."""
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {', '.join(f'({id}, 1)' for id in range(100))}")
    sides.on_target("UPDATE t SET v = 0 WHERE id < 2")

    async def passed(position: str, deadline: float) -> bool:
        sides.on_source("UPDATE t SET v = v + 1 WHERE id < 2")
        return True

    return table, passed


def test_hot_rows_are_decided_by_the_run_that_goes_on(sides: Sides) -> None:
    table, passed = make_hot_rows(sides)
    kept = Kept(2)
    with pytest.raises(Killed):
        sides.compare(table, chunk_rows=5, resumes=kept, passed=passed)
    assert kept.last is not None
    assert kept.last.hot == (("0",), ("1",))
    for run in (sides.on_source, sides.on_target):
        run("UPDATE t SET v = 50 WHERE id = 1")
    report = sides.compare(table, chunk_rows=5, resumes=kept)
    assert report.differences == (Difference("changed", ("0",), ("v",)),)
    assert (report.rows, report.hot, report.inconclusive) == (100, 0, "")


def test_nothing_is_kept_with_more_hot_rows_than_are_kept(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.verify.keyed.KEPT_HOT", 1)
    table, passed = make_hot_rows(sides)
    kept = Kept(1)
    report = sides.compare(table, chunk_rows=5, resumes=kept, passed=passed, deadline_seconds=0.0)
    assert (kept.last, report.hot) == (None, 2)
