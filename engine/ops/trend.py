"""
What the last minute of a pipeline says: its throughput, and when it will have caught up.
"""

from __future__ import annotations

from collections import deque
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

    def catch_up_seconds(self) -> float | None:
        """How long until the target equals the source, if both go on as in the last minute: 0 if it
        does, None if that is unknown, or if the lag does not shrink.
        """
        found = self.interval(ESTIMATE_SECONDS)
        if found is None:
            return None
        first, last = found
        if last.lag_seconds is None:
            return None
        if last.lag_seconds <= LEVEL_SECONDS:
            return 0.0
        elapsed = last.at - first.at
        # Bytes tell more than time: the source may have written much in a short time.
        before, now = first.lag_bytes, last.lag_bytes
        if before is None or now is None:
            return _until_zero(first.lag_seconds, last.lag_seconds, elapsed)
        return _until_zero(before, now, elapsed)

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


def _until_zero(before: float | None, now: float, elapsed: float) -> float | None:
    """When a value that falls steadily is 0; None if it does not fall."""
    if before is None or now >= before or elapsed < LEAST_SECONDS:
        return None
    return now / (before - now) * elapsed
