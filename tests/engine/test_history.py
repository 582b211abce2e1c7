"""The history of a pipeline, and what its last minute says: estimates of the time that is left."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from engine.ops.history import RESOLUTIONS, HistoryRecorder, Work
from engine.ops.trend import Sample, Trend

START = 1_700_000_040  # a whole minute


def test_a_slot_has_the_greatest_lag_and_the_work_per_second() -> None:
    recorder = HistoryRecorder()
    work = Work()
    for second in range(121):
        work = Work(work.rows + 10, work.bytes + 500, work.transactions + 1, second)
        recorder.add(START + second, 3.0 if second == 62 else 0.5, work)
    fine, coarse = recorder.history().series
    assert (fine.step_seconds, fine.start, coarse.step_seconds, coarse.start) == (
        *(5, START),
        *(60, START),
    )
    # The slot of the present moment is not complete.
    assert fine.rows_per_second == [10.0] * 24
    assert fine.lag_seconds == [0.5] * 12 + [3.0] + [0.5] * 11
    assert coarse.rows_per_second == [10.0, 10.0]
    assert coarse.bytes_per_second == [500.0, 500.0]
    assert coarse.transactions_per_second == [1.0, 1.0]
    assert coarse.backfilled_rows_per_second == [pytest.approx(1, abs=0.02)] * 2
    assert coarse.lag_seconds == [0.5, 3.0]


def test_a_day_is_kept_and_no_more() -> None:
    recorder = HistoryRecorder()
    for tick in range(2 * 24 * 720):
        recorder.add(START + 5 * tick, float(tick), Work(5 * tick))
    end = START + 5 * tick
    for series, (step, slots) in zip(recorder.history().series, RESOLUTIONS, strict=True):
        assert len(series.lag_seconds) == len(series.rows_per_second) == slots - 1
        assert series.start + step * (slots - 1) == end // step * step
        assert set(series.rows_per_second) == {1.0}
        assert series.lag_seconds == sorted(series.lag_seconds)  # type: ignore[type-var]


@pytest.mark.parametrize("away", [60, 7_200, 500_000])
def test_slots_in_which_nothing_was_recorded_have_no_values(away: int) -> None:
    recorder = HistoryRecorder()
    for second in range(0, 30, 5):
        recorder.add(START + second, 1.0, Work())
    for second in range(away, away + 30, 5):
        recorder.add(START + second, None, Work(100))
    fine = recorder.history().series[0]
    assert fine.lag_seconds[-5:] == [None] * 5
    assert fine.rows_per_second[-5:] == [20.0, 0.0, 0.0, 0.0, 0.0]
    if away == 60:
        assert fine.rows_per_second[:6] == [0.0] * 6
        assert fine.rows_per_second[6:12] == [None] * 6
    else:
        assert len(fine.rows_per_second) == 5


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    recorder = HistoryRecorder()
    for at, rows in ((0, 0), (3, 10), (-600, 25), (5, 30)):
        recorder.add(START + at, 1.0, Work(rows))
    assert recorder.history().series[0].rows_per_second == [5.0]


def test_the_history_is_encoded_with_nulls() -> None:
    recorder = HistoryRecorder()
    recorder.add(START, None, Work())
    recorder.add(START + 5, 1.0, Work())
    shown = msgspec.json.decode(msgspec.json.encode(recorder.history()))
    assert shown["version"] == 1
    assert shown["series"][0]["lag_seconds"] == [None]


# -- estimates -------------------------------------------------------------------------------------


def watched(
    seconds: int,
    lag: Callable[[float], float],
    size: Callable[[float], int] | None = None,
    rows: Callable[[float], int] = int,
) -> Trend:
    """A pipeline with this lag, in seconds and bytes, that was watched for so long."""
    trend = Trend()
    for at in range(0, seconds + 1, 5):
        work = Work(backfilled_rows=rows(at))
        trend.add(Sample(1000.0 + at, work, lag(at), None if size is None else size(at)))
    return trend


def estimate(trend: Trend, at: float, lag: float = 300.0) -> float | None:
    """The estimate so many seconds after the start."""
    return trend.catch_up_seconds(lag, 1000.0 + at)


@pytest.mark.parametrize("seconds", [15, 60, 300])
def test_the_estimate_is_when_a_lag_that_shrinks_steadily_is_gone(seconds: int) -> None:
    """The truth is 900 seconds after the start. The time does not shrink steadily: the source has
    written most of the backlog in a short time.
    """
    truth = pytest.approx(900 - seconds, rel=0.1)
    assert estimate(watched(seconds, lambda at: 1800 - 2 * at), seconds) == truth
    by_bytes = watched(seconds, lambda at: 1800 - at / 900, lambda at: 9_000_000 - 10_000 * int(at))
    assert estimate(by_bytes, seconds) == truth


@pytest.mark.parametrize("turn", [31, 33, 35])
def test_the_estimate_after_a_pause_counts_from_its_end(turn: int) -> None:
    """GIVEN a target that was away, so that its backlog has grown WHEN it catches up THEN the
    estimate is right as soon as there is one, although the backlog is larger than a minute before.
    """

    def backlog(at: float) -> int:
        return int(1e6 * at if at < turn else 1e6 * turn - 0.5e6 * (at - turn))

    level = turn + 2 * turn
    known = 0
    for seconds in range(turn, level - 5):
        left = estimate(watched(seconds, lambda at: 5.0, backlog), seconds)
        if left is not None:
            known += 1
            assert left == pytest.approx(level - seconds, rel=0.1)
    assert known > level - turn - 25


def test_the_estimate_goes_on_between_two_samples() -> None:
    trend = watched(60, lambda at: 300.0 - 4 * at)
    assert estimate(trend, 60.0) == pytest.approx(15.0)
    assert estimate(trend, 64.0) == pytest.approx(11.0)
    # Only the lag of this moment says that the target equals the source.
    assert estimate(trend, 90.0) == 1.0
    assert estimate(trend, 64.0, lag=0.2) == 0.0


def test_one_jump_of_a_lag_does_not_hide_that_it_shrinks() -> None:
    """The source writes in bursts, the target catches up all the same."""
    jagged = watched(60, lambda at: 600 - 6 * at + (15 if at % 15 == 0 else 0))
    assert estimate(jagged, 60.0) == pytest.approx(42, rel=0.15)


def test_there_is_an_estimate_only_while_the_lag_shrinks() -> None:
    assert estimate(Trend(), 0.0) is None
    assert estimate(watched(60, lambda at: 0.2), 60.0, lag=0.2) == 0.0
    assert watched(60, lambda at: 0.2).catch_up_seconds(None, 1060.0) is None
    assert estimate(watched(60, lambda at: 30 + at), 60.0) is None
    assert estimate(watched(60, lambda at: 30.0), 60.0) is None
    assert estimate(watched(60, lambda at: 300 - at, lambda at: 5000), 60.0) is None
    assert estimate(watched(10, lambda at: 300 - at), 10.0) is None


def test_the_time_that_a_backfill_needs() -> None:
    trend = watched(60, lambda at: 0.0, rows=lambda at: 250 * int(at))
    assert trend.backfill_left_seconds(75_000) == pytest.approx(300)
    assert trend.backfill_left_seconds(0) == 0.0
    assert watched(60, lambda at: 0.0, rows=lambda at: 7).backfill_left_seconds(100) is None
    assert Trend().backfill_left_seconds(100) is None


def test_the_interval_of_a_rate() -> None:
    trend = watched(60, lambda at: 0.0)
    found = trend.interval()
    assert found is not None
    assert (found[0].at, found[1].at) == (1045.0, 1060.0)
    trend.add(Sample(1100.0, Work(), 0.0, None))
    found = trend.interval()
    assert found is not None
    assert (found[0].at, found[1].at) == (1060.0, 1100.0)
