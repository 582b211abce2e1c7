"""
Rechecks of multisets with scripted readings, and of keyless tables on real servers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from engine.verify.multisets import Deviation, Multiset, confirm_multiset, recheck_multiset
from tests.support.passing import never, waiter
from tests.support.sides import Sides


def reading(*readings: dict[bytes, int]) -> Callable[[], Awaitable[Multiset]]:
    """A function that reads these multisets in turn; the last one again and again."""
    left = list(readings)

    async def read() -> Multiset:
        return Counter(left.pop(0) if len(left) > 1 else left[0])

    return read


def multiset_result(
    source: list[dict[bytes, int]], target: list[dict[bytes, int]], seconds: float = 60.0
) -> tuple[int, int, int]:
    """How many rows are missing, extra and hot by scripted readings."""
    first, *later = source
    reads = reading(*later or source), reading(*target)
    found = asyncio.run(recheck_multiset(Counter(first), *reads, waiter(seconds=seconds)))
    return found.missing.total(), found.extra.total(), found.hot


def test_a_number_between_two_readings_proves_nothing() -> None:
    """GIVEN a number of equal rows that grows during a recheck, and the target's in between
    THEN the recheck in which it stands still decides."""
    growing: list[dict[bytes, int]] = [{b"a": 1}, {b"a": 3}]
    assert multiset_result(growing, [{b"a": 2}, {b"a": 3}]) == (0, 0, 0)
    assert multiset_result(growing, [{b"a": 2}]) == (1, 0, 0)
    assert multiset_result(growing, [{b"a": 3}, {b"a": 4}]) == (0, 1, 0)
    assert multiset_result([{b"a": 2}], [{b"a": 2}]) == (0, 0, 0)


def test_a_number_that_never_stands_still_is_hot() -> None:
    """A target that lacks a row shows a number that the source has shown before."""
    growing: list[dict[bytes, int]] = [{b"a": number} for number in range(1000, 2000)]
    for less in (0, 1, 2):
        # A recheck reads the source three times.
        targets: list[dict[bytes, int]] = [{b"a": 1001 + 2 * n - less} for n in range(400)]
        missing, extra, hot = multiset_result(growing, targets, seconds=0.0)
        assert (missing, extra) == (0, 0)
        assert hot


def test_a_number_that_goes_to_and_fro_has_to_be_right_in_twelve_rechecks() -> None:
    """GIVEN a number that goes to and fro, and a target that shows one less
    THEN it is not right because the target shows the source's lower number once."""
    readings: list[dict[bytes, int]] = [{b"a": n} for n in (5, 6, 6, 5, 5, 5, 5, 5, 5, 6)]
    targets: list[dict[bytes, int]] = [{b"a": n} for n in (5, 5, 5, 5)]
    assert multiset_result(readings, targets) == (1, 0, 0)


def test_rows_missing_or_extra_in_every_recheck_differ() -> None:
    assert multiset_result([{b"a": 3, b"b": 1}], [{b"a": 1, b"c": 1}]) == (3, 1, 0)


def test_rows_of_a_multiset_are_hot_while_the_pipeline_is_stalled() -> None:
    source: dict[bytes, int] = {b"a": 3, b"b": 1}
    reads = reading(source), reading({b"a": 1, b"c": 1})
    found = asyncio.run(recheck_multiset(Counter(source), *reads, waiter(never)))
    assert found == Deviation(Counter(), Counter(), 4)
    before = Deviation(Counter({b"a": 2}), Counter({b"c": 1}), 1)
    found = asyncio.run(confirm_multiset(before, *reads, waiter(never)))
    assert found == Deviation(Counter(), Counter(), 4)


def test_rows_of_a_multiset_that_change_to_and_fro_are_right() -> None:
    """Three rechecks may show one value on the source and the other on the target by chance."""
    zero: dict[bytes, int] = {b"0": 40}
    one: dict[bytes, int] = {b"1": 40}
    assert multiset_result([zero] * 5 + [one], [one]) == (0, 0, 0)


def test_rows_missing_in_some_rechecks_only_are_right() -> None:
    targets: list[dict[bytes, int]] = [{b"b": 1}, {b"a": 1}] * 10
    result = multiset_result([{b"a": 1, b"b": 1, b"c": 1}], targets, seconds=0.0)
    assert result == (1, 0, 1)


def test_rows_that_come_while_others_are_rechecked_do_not_prolong_that() -> None:
    """One recheck that finds only what is a difference proves all other rows."""
    targets: list[dict[bytes, int]] = [{b"a": 1}, {b"a": 1, b"b": 1}]
    assert multiset_result([{}], targets) == (0, 1, 0)


def test_a_multiset_that_changes_all_the_time_is_hot_at_the_deadline() -> None:
    """Each recheck has other rows on the target than any reading of the source has shown. Nothing
    can be a difference any more, so the rechecks end at the deadline."""
    targets: list[dict[bytes, int]] = [{b"%d" % n: 1 + n % 3} for n in range(50)]
    readings = len(targets)
    read = reading(*targets)

    async def read_target() -> Multiset:
        nonlocal readings
        readings -= 1
        return await read()

    pipeline = waiter(seconds=0.0)
    found = asyncio.run(recheck_multiset(Counter(), reading({}), read_target, pipeline))
    assert found == Deviation(Counter(), Counter(), 1)
    assert readings == len(targets) - 2


def test_what_a_last_recheck_among_more_rows_does_not_find_is_no_difference() -> None:
    found = Deviation(Counter({b"a": 1, b"b": 2}), Counter({b"c": 1}), 3)
    source: dict[bytes, int] = {b"a": 1, b"b": 2, b"d": 1}
    target: dict[bytes, int] = {b"a": 1, b"b": 1, b"c": 1, b"e": 1}
    now = asyncio.run(confirm_multiset(found, reading(source), reading(target), waiter()))
    assert now == Deviation(Counter({b"b": 1}), Counter({b"c": 1}), 3)


def test_rows_of_a_keyless_table_are_counted(sides: Sides) -> None:
    table = sides.make("t", "a INT, b VARCHAR(9), j JSON")
    one, nothing = "(1, 'x', '[1.0]')", "(NULL, '', NULL)"
    sides.on_source(f"INSERT INTO t VALUES {one}, {one}, {nothing}")
    sides.on_target(f"INSERT INTO t VALUES (1, 'x', '[1]'), {nothing}, {one}")
    assert sides.compare(table).equal
    sides.on_target(f"INSERT INTO t VALUES {one}, (NULL, NULL, NULL)")
    sides.on_target("DELETE FROM t WHERE b = ''")
    report = sides.compare(table)
    assert (report.rows, report.missing, report.extra, report.equal) == (3, 1, 2, False)


def test_a_large_multiset_is_compared_in_parts(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.verify.multisets.MULTISET_ROWS", 10)
    table = sides.make("t", "a INT")
    values = ", ".join(f"({number})" for number in range(100))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {values}")
    assert sides.compare(table).equal
    sides.on_target("DELETE FROM t WHERE a % 10 = 3", "INSERT INTO t VALUES (7)")
    report = sides.compare(table)
    assert (report.rows, report.missing, report.extra) == (100, 10, 1)
    assert (sides.source_reader.count(table), sides.target_reader.count(table)) == (100, 91)


def test_a_row_that_is_written_meanwhile_into_two_parts_is_no_difference(sides: Sides) -> None:
    """A date that is not in the calendar has other texts on both sides, so its row belongs to one
    part on the source and to another one on the target."""
    table = sides.make("t", "a INT, day DATE")
    rows = [f"({number}, NULL)" for number in range(3000)]
    sides.on_source(f"INSERT INTO t VALUES {', '.join(rows[450:])}")
    sides.on_target(f"INSERT INTO t VALUES {', '.join(rows)}")
    waits = 0

    async def passed(position: str, deadline: float) -> bool:
        nonlocal waits
        waits += 1
        if waits == 1:
            for run, day in ((sides.on_source, "'2020-00-10'"), (sides.on_target, "NULL")):
                rows = ", ".join(f"({number}, {day})" for number in range(3000, 3100))
                run(f"INSERT INTO t VALUES {rows}")
        return True

    report = sides.compare(table, passed=passed)
    assert (report.missing, report.extra, report.hot) == (0, 450, 0)
    assert report.method == "checksums"
