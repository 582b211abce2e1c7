"""
The metrics of a pipeline, for Prometheus.

``engine.ops.metric_list`` names them. Nothing is counted per row: the writer reports once per batch
and table, and the reader thread once per read. The gauges are derived from ``Status`` when the
metrics are read. All values are kept here, in plain dictionaries; the library prometheus-client
only writes them down, and adds the metrics of the process (``process_…``, ``python_gc_…``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from engine import errors
from engine.contract import Applied
from engine.errors import TailraceError
from engine.ops.gauges import Sample, gauges
from engine.ops.histogram import Histogram
from engine.ops.metric_list import METRICS, OTHER, Metric, Stage
from engine.ops.status import Status
from engine.ops.table_counters import TableCounters
from engine.schema import TableId

__all__ = ["Metrics", "Sampled", "Side", "Stage", "Work"]

Side = Literal["source", "sink"]
#: The values of a metric's labels without ``pipeline``, and its value.
Sampled = tuple[tuple[str, ...], float | Histogram]

#: The classes of errors below the base class.
_ERRORS = tuple(name for name in errors.__all__ if name != "TailraceError")


class Work:
    """What was done for one table by one operation: rows, their bytes, source transactions.

    ``transaction`` tells the last transaction that was counted from the others.
    """

    __slots__ = ("rows", "size", "transaction", "transactions")

    def __init__(self, transaction: int = -1) -> None:
        self.rows = self.size = self.transactions = 0
        self.transaction = transaction


class Metrics(Collector):
    """The metrics of one pipeline, in a registry of their own.

    Not thread-safe, except that one other thread may observe the stages ``read``, ``decode`` and
    ``queue``.
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self.tables = TableCounters()
        self.transactions = 0
        #: The bytes of the row changes of the stream.
        self.size = 0
        self.reconnects: Counter[Side] = Counter(dict.fromkeys(get_args(Side), 0))
        #: By class. A counter that is there from the start shows its first increase.
        self.errors: Counter[str] = Counter(dict.fromkeys(_ERRORS, 0))
        #: By receiver and outcome.
        self.notifications: Counter[tuple[str, str]] = Counter()
        bounds = {metric.name: metric.bounds for metric in METRICS}
        self.stages = {
            stage: Histogram(bounds["tailrace_stage_seconds"]) for stage in get_args(Stage)
        }
        self._latency = Histogram(bounds["tailrace_latency_seconds"])
        self._batch_rows = Histogram(bounds["tailrace_batch_rows"])
        self._batch_bytes = Histogram(bounds["tailrace_batch_bytes"])
        self._status = Status()
        #: Whether the engine compares tables by itself.
        self.continuous = False
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._of_process = (
            ProcessCollector(registry=self.registry),
            GCCollector(registry=self.registry),
        )

    # -- counting ----------------------------------------------------------------------------------

    @contextmanager
    def stage(self, stage: Stage) -> Generator[None, None, None]:
        """Measure the time spent inside. A stage that fails is not measured."""
        started = time.perf_counter()
        yield
        self.stages[stage].observe(time.perf_counter() - started)

    def committed(self, times: Sequence[float], now: float) -> None:
        """The target has committed transactions, which the source had committed at ``times``. They
        and ``now`` are times on the source's clock.
        """
        if times:
            self._latency.observe_ages(times, now)

    def applied(self, work: Mapping[tuple[TableId, str], Work], applied: Applied) -> None:
        """One ``Sink.apply`` has ended: the work by table and operation, and what it found."""
        add = self.tables.add
        for (table, operation), it in work.items():
            add(table, ("tailrace_rows_total", operation), it.rows)
            add(table, ("tailrace_row_bytes_total", operation), it.size)
            if operation != "read":
                self.size += it.size
                name = "tailrace_table_transactions_total"
                add(table, (name, operation), it.transactions)
        for table, count in applied.drift.items():
            add(table, ("tailrace_drift_total",), count)
        for (table, column, reason), count in applied.replaced.items():
            name = "tailrace_replaced_values_total"
            add(table, (name, column, reason), count, summed=(name, OTHER, reason))

    def batch(self, rows: int, size: int, transactions: int = 0) -> None:
        """One batch of the stream: its row changes, its bytes, the transactions that end in it."""
        self._batch_rows.observe(rows)
        self._batch_bytes.observe(size)
        self.transactions += transactions

    def failed(self, error: TailraceError) -> None:
        """An error has ended an attempt of the pipeline."""
        self.errors[type(error).__name__] += 1

    def reconnected(self, side: Side) -> None:
        """A connection was lost."""
        self.reconnects[side] += 1

    # -- reading -----------------------------------------------------------------------------------

    def render(self, accept: str, status: Status | None = None) -> tuple[bytes, str]:
        """All metrics, and their content type: the format that the header Accept prefers, which is
        Prometheus's text format unless it asks for OpenMetrics. The gauges show ``status``.
        """
        self._status = status or Status()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def describe(self) -> Iterator[Family]:
        """The metrics without samples."""
        return (_family(metric) for metric in METRICS)

    def collect(self) -> Iterator[Family]:
        """The metrics with all their samples, in the order of the list."""
        for metric, samples in self.samples(self._status):
            family = _family(metric)
            for labels, value in samples:
                values = [self._pipeline, *labels]
                if isinstance(family, InfoMetricFamily):
                    family.add_metric(values[:1], dict(zip(metric.labels, labels, strict=True)))
                elif isinstance(value, Histogram):
                    assert isinstance(family, HistogramMetricFamily)
                    family.add_metric(values, value.buckets(), value.total)
                else:
                    assert not isinstance(family, HistogramMetricFamily)
                    family.add_metric(values, value)
            yield family

    def samples(self, status: Status) -> Iterator[tuple[Metric, Sequence[Sampled]]]:
        """Each metric of the list with its samples; the gauges show ``status``."""
        found: dict[str, Sequence[Sampled]] = {
            "tailrace_build_info": [((version("tailrace"),), 1)],
            **self._counters(),
            **self._histograms(),
            **gauges(status, continuous=self.continuous),
        }
        return ((metric, found[metric.name]) for metric in METRICS)

    def of_process(self) -> Iterator[tuple[Metric, Sequence[Sampled]]]:
        """The metrics of the process with their samples, which the library takes."""
        for collector in self._of_process:
            for family in collector.collect():
                found = [it for it in family.samples if not it.name.endswith("_created")]
                if not found:  # the system does not tell
                    continue
                name, labels = found[0].name, tuple(found[0].labels)
                kind: Literal["counter", "gauge"] = (
                    "counter" if family.type == "counter" else "gauge"
                )
                metric = Metric(name, kind, _unit_of(family.name), family.documentation, labels)
                yield metric, [(tuple(it.labels.values()), it.value) for it in found]

    def _counters(self) -> dict[str, list[Sample]]:
        found: dict[str, list[Sample]] = {
            metric.name: [] for metric in METRICS if metric.kind == "counter"
        }
        found["tailrace_transactions_total"] = [((), self.transactions)]
        found["tailrace_reconnects_total"] = [
            ((side,), count) for side, count in self.reconnects.items()
        ]
        found["tailrace_errors_total"] = [((name,), count) for name, count in self.errors.items()]
        found["tailrace_notifications_total"] = list(self.notifications.items())
        for name, labels, count in self.tables.samples():
            found[name].append((labels, count))
        return found

    def _histograms(self) -> dict[str, list[Sampled]]:
        return {
            "tailrace_latency_seconds": [((), self._latency)],
            "tailrace_batch_rows": [((), self._batch_rows)],
            "tailrace_batch_bytes": [((), self._batch_bytes)],
            "tailrace_stage_seconds": [((stage,), it) for stage, it in self.stages.items()],
        }


_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily


def _unit_of(name: str) -> str:
    """The unit that the name of a metric ends with."""
    end = name.rpartition("_")[2]
    return end if end in ("seconds", "bytes") else "1"


def _family(metric: Metric) -> _Family:
    """An empty family of the library. It adds the suffixes of counters and infos itself."""
    labels = ["pipeline", *metric.labels]
    match metric.kind:
        case "counter":
            return CounterMetricFamily(metric.name, metric.meaning, labels=labels)
        case "gauge":
            return GaugeMetricFamily(metric.name, metric.meaning, labels=labels)
        case "histogram":
            return HistogramMetricFamily(metric.name, metric.meaning, labels=labels)
        case "info":
            name = metric.name.removesuffix("_info")
            return InfoMetricFamily(name, metric.meaning, labels=["pipeline"])
