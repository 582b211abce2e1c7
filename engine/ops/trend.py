"""
What the last minute of a pipeline says: its throughput, and when it will have caught up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import linear_regression
from typing import NamedTuple

from engine.ops.history import Work

__all__ = ["Sample", "Trend"]

#: How long a sample counts for an estimate, and for a rate.
ESTIMATE_SECONDS = 60.0
RATE_SECONDS = 15.0
#: An estimate needs samples over this time.
LEAST_SECONDS = 8.0
#: A lag that is not longer is that of the batch in progress.
LEVEL_SECONDS = 1.0


class Sample(NamedTuple):
    """The state of a pipeline at one moment of the clock ``time.monotonic``. ``stages`` are the
    seconds spent in each stage since the engine's start.
    """

    at: float
    work: Work
    lag_seconds: float | None
    lag_bytes: int | None
    stages: tuple[float, ...] = ()


class Trend:
    """The samples of the last minute."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Add a sample, and forget old ones."""
        self._samples.append(sample)
        while self._samples[0].at < sample.at - ESTIMATE_SECONDS:
            self._samples.popleft()

    def interval(self, seconds: float = RATE_SECONDS) -> tuple[Sample, Sample] | None:
        """The samples at the beginning and the end of the last ``seconds``; None if there are not
        two.
        """
        if len(self._samples) < 2:
            return None
        last = self._samples[-1]
        recent = (it for it in self._samples if it.at >= last.at - seconds)
        first = next(recent)
        # Samples may be farther apart than that.
        return (first if first is not last else self._samples[-2]), last

    def catch_up_seconds(self, lag_seconds: float | None, now: float) -> float | None:
        """How long until the target equals the source, if both go on as they did since the lag was
        greatest in the last minute: 0 if it does, None if that is unknown, or if the lag does not
        shrink. ``lag_seconds`` is the lag ``now``, on the clock of the samples.
        """
        if lag_seconds is None or not self._samples:
            return None
        if lag_seconds <= LEVEL_SECONDS:
            return 0.0
        last = self._samples[-1]
        # Bytes tell more than time: the source may have written much in a short time.
        lags = [it.lag_seconds if last.lag_bytes is None else it.lag_bytes for it in self._samples]
        known = [
            (it.at, lag) for it, lag in zip(self._samples, lags, strict=True) if lag is not None
        ]
        left = _until_zero(known)
        return None if left is None else max(LEVEL_SECONDS, left - (now - last.at))

    def backfill_left_seconds(self, rows_left: int) -> float | None:
        """How long until so many rows are backfilled; None if that is unknown."""
        if not rows_left:
            return 0.0
        found = self.interval(ESTIMATE_SECONDS)
        if found is None or found[1].at - found[0].at < LEAST_SECONDS:
            return None
        first, last = found
        done = last.work.backfilled_rows - first.work.backfilled_rows
        return rows_left / done * (last.at - first.at) if done > 0 else None


def _until_zero(values: Sequence[tuple[float, float]]) -> float | None:
    """How long until a value that falls is 0, from the last of pairs of time and value; None if it
    does not fall.

    Only what follows the greatest value counts. That one itself does not: the value may have grown
    further after it.
    """
    greatest = max((value for _, value in values), default=0.0)
    since = max((number for number, it in enumerate(values) if it[1] == greatest), default=0)
    falling = values[since + 1 :]
    if len(falling) < 2 or falling[-1][0] - falling[0][0] < LEAST_SECONDS:
        return None
    slope = linear_regression(*zip(*falling, strict=True)).slope
    return falling[-1][1] / -slope if slope < 0 else None
