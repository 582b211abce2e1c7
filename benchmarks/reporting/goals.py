"""
The performance goals, which were set before anything was measured.

Each goal reads its figure from the results of one run, so the report's verdict always belongs to
the figures in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["GOALS", "Goal"]

Results = Mapping[str, Mapping[str, Any]]


class Goal(NamedTuple):
    """A figure with the least and the desired value; ``smaller`` says that less is better.

    ``find`` reads the figure from the results by name, and returns None if it was not measured.
    """

    what: str
    unit: str
    least: float | None
    aim: float | None
    find: Callable[[Results], float | None]
    smaller: bool = False

    def reached(self, found: float) -> str:
        """The verdict in words."""
        if self.least is not None and not self._holds(found, self.least):
            return "**not reached**"
        if self.aim is None:
            return "reached"
        if self._holds(found, self.aim):
            return "aim reached"
        return "aim not reached" if self.least is None else "reached"

    def _holds(self, found: float, wanted: float) -> bool:
        return found <= wanted if self.smaller else found >= wanted


def _field(name: str, *path: str) -> Callable[[Results], float | None]:
    """A function that reads a field, or a field of a field, of one result."""

    def find(results: Results) -> float | None:
        found: Any = results.get(name)
        for word in path:
            found = None if found is None else found.get(word)
        return None if found is None else float(found)

    return find


def _cpu(results: Results) -> float | None:
    stream = results.get("stream-insert")
    return None if stream is None else stream["engine_cpu_seconds"] * 1e6 / stream["rows"]


def _memory(results: Results) -> float | None:
    found = [it.get("peak_memory_mb_max") for name, it in results.items() if _is_engine(name)]
    return max((megabytes for megabytes in found if megabytes), default=None)


def _is_engine(name: str) -> bool:
    return name.startswith(("decode-", "stream-", "snapshot", "latency"))


def _against(name: str, peer: str) -> Callable[[Results], float | None]:
    """A function that computes how many times faster the engine is than a peer.

    ``peer`` is the beginning of the peer's name in lower case.
    """

    def find(results: Results) -> float | None:
        peers: Sequence[Mapping[str, Any]] = results.get(name, {}).get("peers") or ()
        rates = list(_rates(peers, peer))
        ours = results[name]["rows_per_second"] if rates else None
        return ours / max(rates) if ours else None

    return find


def _rates(peers: Sequence[Mapping[str, Any]], name: str) -> Iterator[float]:
    for peer in peers:
        if peer["name"].lower().startswith(name) and peer["rows_per_second"]:
            yield peer["rows_per_second"]


RATE = "rows_per_second"
RATIO = "ratio_to_limit"
GOALS = (
    Goal("decode events of many rows", "rows/s", 1e6, 2e6, _field("decode-bulk", RATE)),
    Goal("decode single-row transactions", "/s", 80e3, 200e3, _field("decode-single", RATE)),
    Goal("decode `orders`", "rows/s", 100e3, 250e3, _field("decode-orders", RATE)),
    Goal("stream inserts", "of COPY", 0.75, 0.95, _field("stream-insert", RATIO)),
    Goal("stream updates", "of the limit", 0.6, 0.9, _field("stream-update", RATIO)),
    Goal(
        "stream updates",
        "times PostgreSQL's own replication",
        1.0,
        None,
        _against("stream-update", "postgresql"),
    ),
    Goal("stream single-row inserts", "/s", 60e3, 150e3, _field("stream-single", RATE)),
    Goal("stream deletes", "of the limit", 0.6, 0.9, _field("stream-delete", RATIO)),
    Goal("stream `orders`", "rows/s", 60e3, None, _field("stream-orders", RATE)),
    Goal("stream `orders`", "of COPY", None, 0.8, _field("stream-orders", RATIO)),
    Goal("snapshot", "of mysql piped into COPY", 0.75, 1.0, _field("snapshot", RATIO)),
    Goal("commit to visible, p50", "ms", 5, 2, _field("latency", "percentiles_ms", "p50"), True),
    Goal("commit to visible, p99", "ms", 50, 10, _field("latency", "percentiles_ms", "p99"), True),
    Goal("the engine's CPU time per million rows", "s", 2.5, 1.2, _cpu, True),
    Goal("peak memory, largest of all runs", "MB", 200, 120, _memory, True),
    Goal(
        "first row beside 2,000 idle tables",
        "s",
        5,
        None,
        _field("first-row-2000", "seconds"),
        True,
    ),
    Goal("stream inserts", "times Debezium", 5, 10, _against("stream-insert", "debezium")),
)
