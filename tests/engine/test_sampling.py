"""
Random samples: what they prove, and that they draw each row with the same probability.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from engine.cli.verify import VERIFY
from engine.toolkit.sampling import CONFIDENCE, MOST_DRAWN, SampleSize, highest_share, percent
from engine.verify.report import Difference, Sample
from tests.support.servers import AnyServer
from tests.support.sides import Mirror, Sides

Runs = list[tuple[Difference, ...]]


def at_most(found: int, rows: int, share: float) -> float:
    """The exact probability, by the formula of the binomial distribution."""
    return sum(math.comb(rows, n) * share**n * (1 - share) ** (rows - n) for n in range(found + 1))


@pytest.mark.parametrize(("found", "rows"), [(0, 1), (0, 300), (1, 50), (3, 100), (40, 900)])
def test_the_limit_is_that_of_clopper_and_pearson(found: int, rows: int) -> None:
    share = highest_share(found, rows)
    assert at_most(found, rows, share) == pytest.approx(1 - CONFIDENCE)


def test_the_limit_for_no_difference_is_close_to_the_rule_of_three() -> None:
    for rows in (1_000, 1_000_000, 10_000_000_000):
        assert highest_share(0, rows) == pytest.approx(3 / rows, rel=0.01)
    assert highest_share(5, 5) == highest_share(0, 0) == 1.0
    assert highest_share(9_000, 10_000) > 0.9


def test_a_share_that_is_larger_than_stated_is_found_out_as_often_as_stated() -> None:
    """Samples of a table in which as many rows differ as the limit for no difference says."""
    dice = random.Random(7)
    rows, drawn = 20_000, 1_000
    wrong = math.ceil(highest_share(0, drawn) * rows)
    found = sum(any(it < wrong for it in dice.sample(range(rows), drawn)) for _ in range(2_000))
    # Drawing without replacement finds more: (1 - 0.05) and a bit.
    assert CONFIDENCE - 0.012 < found / 2_000 < CONFIDENCE + 0.02


def test_shares_are_rounded_up_to_two_digits() -> None:
    shown = {0.000299: "0.030 %", 0.0000291: "0.0030 %", 0.5: "50 %", 1.0: "100 %", 0.0231: "2.4 %"}
    assert {share: percent(share) for share in shown} == shown


def test_the_size_is_a_number_of_rows_or_a_share() -> None:
    assert SampleSize(rows=100).share_of(1_000) == 0.1
    assert SampleSize(rows=100).share_of(100) == SampleSize(rows=100).share_of(0) == 1.0
    assert SampleSize(share=0.25).share_of(10) == 0.25
    assert SampleSize(share=1.0).share_of(10**9) == 1.0


@pytest.mark.parametrize("size", [SampleSize(share=0.5), SampleSize(rows=3 * MOST_DRAWN)])
def test_no_more_rows_are_drawn_than_fit_into_memory(size: SampleSize) -> None:
    rows = 1_000_000_000
    assert size.share_of(rows) * rows == pytest.approx(MOST_DRAWN)
    assert size.share_of(2 * MOST_DRAWN) >= 0.5


@pytest.mark.parametrize("text", ["0", "-1", "x", "101%", "0%", "%", "1.5"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    import argparse

    parser = argparse.ArgumentParser(exit_on_error=False)
    VERIFY.add_options(parser)
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parser.parse_args(["--sample", text])
    assert parser.parse_args(["--sample", "0.5%"]).sample == SampleSize(share=0.005)
    assert parser.parse_args(["--sample", "500"]).sample == SampleSize(500)


@pytest.fixture
def sides(mysql_family: AnyServer, new_sides: Callable[..., Sides]) -> Sides:
    return new_sides(mysql_family)


def fill(sides: Sides, name: str, rows: int) -> None:
    values = ", ".join(f"({id}, 1)" for id in range(rows))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO {name} VALUES {values}")


def test_each_row_is_drawn_with_the_same_probability_on_both_sides(sides: Sides) -> None:
    """Neither the first rows nor those beside each other are drawn more often."""
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    fill(sides, "t", 2_000)
    for reader in (sides.source_reader, sides.target_reader):
        tenths, neighbours, drawn = Counter[int](), 0, 0
        for _ in range(20):
            keys = sorted(int(key[0] or 0) for key in reader.sample(table, 0.05))
            drawn += len(keys)
            tenths.update(key // 200 for key in keys)
            neighbours += sum(one + 1 == more for one, more in pairwise(keys))
        # Means of 2,000, 200 in each tenth, and 100, within five standard deviations.
        assert abs(drawn - 2_000) < 5 * 44
        assert all(abs(tenths[it] - 200) < 5 * 14 for it in range(10)), tenths
        assert abs(neighbours - 100) < 5 * 11


def test_a_sample_finds_differences_as_often_as_the_formula_says(sides: Sides) -> None:
    """A tenth of the rows is drawn 30 times; 7 rows differ: one is found in 1 - 0.9^7 = 52 %."""
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    fill(sides, "t", 1_000)
    wrong = {Difference("changed", (str(id),), ("v",)) for id in (0, 1, 2, 500, 998, 999)}
    wrong.add(Difference("missing", ("300",)))
    sides.on_target("UPDATE t SET v = 2 WHERE id IN (0, 1, 2, 500, 998, 999)")
    sides.on_target("DELETE FROM t WHERE id = 300", "INSERT INTO t VALUES (5000, 1)")
    extra = Difference("extra", ("5000",))
    found: Runs = []
    for _ in range(30):
        report = sides.compare(table, chunk_rows=500, sample=SampleSize(share=0.1))
        assert set(report.differences) <= {*wrong, extra}
        assert report.equal is not bool(report.differences)
        assert report.sample is not None
        compared = report.sample.rows, report.sample.target_rows
        assert (report.rows, report.target_rows) == compared
        assert 50 < report.rows < 160
        found.append(report.differences)
    # Means of 15.6, 21 and 3 within five standard deviations.
    assert abs(sum(bool(wrong & set(it)) for it in found) - 15.6) < 5 * 2.8
    assert abs(sum(len(wrong & set(it)) for it in found) - 21) < 5 * 4.4
    assert sum(extra in it for it in found) <= 12


def test_small_and_keyless_tables_are_compared_whole(sides: Sides) -> None:
    tables = [
        sides.make("small", "id INT PRIMARY KEY, v INT"),
        sides.make("keyless", "id INT, v INT"),
    ]
    for table in tables:
        fill(sides, table.id.name, 100)
        sides.on_target(f"DELETE FROM {table.id.name} WHERE id = 7")
    for report in sides.compare_all(tables, sample=SampleSize(100)).tables:
        assert (report.missing, report.rows, report.sample) == (1, 100, None)


def test_a_sample_of_rows_that_change_shows_no_differences(sides: Sides) -> None:
    table = sides.make("t", "id INT PRIMARY KEY, v INT")
    fill(sides, "t", 1_000)

    def change(number: int) -> str:
        id = number * 7 % 900
        if number % 3:
            return f"UPDATE t SET v = {number} WHERE id = {id}"
        return f"DELETE FROM t WHERE id = {999 - number % 90}"

    with Mirror(sides, change) as mirror:
        options: dict[str, Any] = {"passed": mirror.passed, "chunk_rows": 100}
        for _ in range(3):
            report = sides.compare(table, sample=SampleSize(400), **options)
            assert (report.differing, report.missing, report.extra) == (0, 0, 0)


def test_what_a_sample_tells_is_said() -> None:
    sample = Sample.of(10_000, 9_900, {}, 0)
    assert sample.text == (
        "a sample of 10,000 rows of the source and 9,900 of the target: with 95% confidence less"
        " than 0.030 % of the source's rows differ or are missing, and less than 0.031 % of the"
        " target's are extra"
    )
    found = Sample.of(100, 100, {"changed": 2, "missing": 1, "extra": 1}, 1)
    assert found.differ_below == highest_share(4, 100)
    assert found.extra_below == highest_share(2, 100)
