"""
A histogram that costs little: an observation is a search in a short list and two additions.

It has no lock. One thread observes, and the event loop reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.utils import floatToGoString

__all__ = ["Histogram"]


class Histogram:
    """Counts values by the buckets that ``bounds``, their upper bounds, make."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        #: The number of values in each bucket. The last one has no bound.
        self.counts = [0] * (len(bounds) + 1)
        #: The sum of all values.
        self.total = 0.0

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_ages(self, times: Sequence[float], now: float) -> None:
        """Count the ages of ``times`` at the time ``now``. A time in the future has the age 0.

        The cost grows with the number of buckets, and hardly with the number of times.
        """
        ordered = sorted(times)
        before = 0
        for index, bound in enumerate(self.bounds):
            within = len(ordered) - bisect_left(ordered, now - bound)
            self.counts[index] += within - before
            before = within
        self.counts[-1] += len(ordered) - before
        self.total += max(0.0, now * len(ordered) - sum(ordered))

    def buckets(self) -> list[tuple[str, float]]:
        """Each upper bound as text, with the number of values up to it."""
        names = (*map(floatToGoString, self.bounds), "+Inf")
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))
