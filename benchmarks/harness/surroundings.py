"""
What is around the engine in a measurement that compares it with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.far import ROUND_TRIP_SECONDS

__all__ = ["FAR", "TRACED", "WATCHED", "Comparison", "Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """With ``round_trip_seconds``, proxies stand before both servers. ``watched``: the API is on,
    its metrics are scraped every second, and a dashboard is open. ``traced``: traces and metrics
    are sent to a receiver of OpenTelemetry.
    """

    round_trip_seconds: float | None = None
    watched: bool = False
    traced: bool = False


@dataclass(frozen=True)
class Comparison:
    """The engine in some surroundings, and its limit: the engine ``without`` them. ``name`` is that
    of the limit. ``steady`` rates leave the start out.
    """

    name: str
    surroundings: Surroundings
    without: Surroundings = Surroundings()
    steady: bool = False


#: Servers that are far away. Forwarding costs processor time, so the limit has proxies, too.
FAR = Comparison(
    "without delay",
    Surroundings(round_trip_seconds=ROUND_TRIP_SECONDS),
    Surroundings(round_trip_seconds=0.0),
    steady=True,
)
WATCHED = Comparison("without the API", Surroundings(watched=True))
TRACED = Comparison("without OpenTelemetry", Surroundings(traced=True))
