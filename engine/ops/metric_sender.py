"""
What sends the metrics of a pipeline to a receiver, beside those who read ``/metrics``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from engine.ops.metric_list import Metric
from engine.ops.metrics import Sampled

__all__ = ["MetricSender", "Snapshot"]

#: Takes the values of all metrics now: ``Monitor.samples``.
Snapshot = Callable[[], Iterable[tuple[Metric, Sequence[Sampled]]]]


class MetricSender:
    """Sends the metrics of one pipeline. This class sends nothing."""

    async def run(self, refresh: Callable[[], Awaitable[None]], snapshot: Snapshot) -> None:
        """Send a snapshot now and then, each after ``refresh``, and one when this is cancelled."""

    def close(self) -> None:
        """Send what waits, for a short time."""
