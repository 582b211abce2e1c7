"""
The metrics of ``engine.ops.metric_list``, sent by OTLP over HTTP.

They are sent as they are counted, with the names, labels and buckets of ``/metrics``, so that a
value is the same whichever way it takes. The instruments of the SDK are not used: they would count
a second time, and there is none for a histogram that is counted elsewhere.

The event loop takes the values, because it counts them; a thread sends them. A value that could not
be sent is part of the next one, since all sums are those since the engine's start.

https://opentelemetry.io/docs/specs/otel/metrics/data-model/
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from engine.ops.histogram import Histogram
from engine.ops.metric_list import Metric
from engine.ops.metric_sender import MetricSender, Snapshot
from engine.ops.metrics import Sampled
from engine.ops.otel import CLOSE_SECONDS, make_resource

__all__ = ["OtelMetrics"]

log = logging.getLogger("tailrace.metrics")

#: How often metrics are sent, unless OTEL_METRIC_EXPORT_INTERVAL has milliseconds.
INTERVAL_SECONDS = 60.0
_METRICS_PATH = "/v1/metrics"
_CUMULATIVE = AggregationTemporality.CUMULATIVE
#: The units of https://ucum.org that differ from those of the list.
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "1": ""}


class OtelMetrics(MetricSender):
    """Sends the metrics of ``pipeline`` to the receiver at ``endpoint``."""

    def __init__(self, endpoint: str, pipeline: str) -> None:
        self._pipeline = pipeline
        self._resource = make_resource(pipeline)
        self._scope = InstrumentationScope("tailrace", version("tailrace"))
        self._exporter = OTLPMetricExporter(endpoint=endpoint.rstrip("/") + _METRICS_PATH)
        self._started = time.time_ns()
        self._latest: MetricsData | None = None
        self._closed = False
        self._changed = threading.Condition()
        # The end of the process does not wait for the receiver.
        self._thread = threading.Thread(target=self._send, name="tailrace-otel", daemon=True)
        self._thread.start()

    async def run(self, refresh: Callable[[], Awaitable[None]], snapshot: Snapshot) -> None:
        """Send a snapshot now and then, and when this is cancelled. Never returns."""
        try:
            while True:
                await asyncio.sleep(_interval_seconds())
                await refresh()
                self._put(snapshot)
        finally:
            self._put(snapshot)

    def close(self) -> None:
        """Send what waits, for a short time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _put(self, snapshot: Snapshot) -> None:
        """Let the thread send the values now, in the place of those that wait."""
        data = self._data(snapshot())
        with self._changed:
            self._latest = data
            self._changed.notify()

    def _send(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest is not None or self._closed)
                data, self._latest = self._latest, None
            if data is None:
                return
            try:
                self._exporter.export(data)
            except OSError as error:  # older exporters raise it if there is no receiver
                log.warning("metrics are not sent", extra={"error": type(error).__name__})

    def _data(self, samples: Iterable[tuple[Metric, Sequence[Sampled]]]) -> MetricsData:
        now = time.time_ns()
        metrics = [
            MetricData(metric.name, metric.meaning, _unit(metric), self._points(metric, found, now))
            for metric, found in samples
            if found
        ]
        scope = ScopeMetrics(self._scope, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _points(
        self, metric: Metric, found: Sequence[Sampled], now: int
    ) -> Gauge | Sum | HistogramData:
        numbers: list[NumberDataPoint] = []
        histograms: list[HistogramDataPoint] = []
        for labels, value in found:
            attributes = dict(zip(metric.labels, labels, strict=True), pipeline=self._pipeline)
            at: Any = (attributes, self._started, now)
            if isinstance(value, Histogram):
                counts = tuple(value.counts)
                histograms.append(
                    HistogramDataPoint(
                        *(*at, sum(counts), value.total, counts, value.bounds), min=None, max=None
                    )
                )
            else:
                numbers.append(NumberDataPoint(*at, value))
        match metric.kind:
            case "histogram":
                return HistogramData(histograms, _CUMULATIVE)
            case "counter":
                return Sum(numbers, _CUMULATIVE, is_monotonic=True)
            case _:
                return Gauge(numbers)


def _unit(metric: Metric) -> str:
    """The unit as UCUM writes it; a thing that is counted is a note in braces."""
    return _UNITS.get(metric.unit, f"{{{metric.unit}}}")


def _interval_seconds() -> float:
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    return int(text) / 1000 if text.isdecimal() and int(text) else INTERVAL_SECONDS
