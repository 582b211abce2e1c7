"""
Every number that Tailrace shows to Prometheus, each name once.

The idea: nothing is counted per row. The pipeline reports once per batch, commit or reconnection,
and the gauges are set from the pipeline's progress now and then; those of tables, which may be
many, when somebody reads them.

==========================================  =========  ==========================================
metric (all have the label ``pipeline``)    type       meaning
==========================================  =========  ==========================================
tailrace_build_info                         info       the version that runs
tailrace_up                                 gauge      1 while both sides are connected
tailrace_lag_seconds                        gauge      age of the target's state; 0 when current
tailrace_lag_bytes                          gauge      log that is not applied yet, in bytes
tailrace_last_commit_timestamp_seconds      gauge      Unix time of the last commit in the target
tailrace_rows_total {table, operation}      counter    row changes applied; ``read`` was copied
tailrace_transactions_total                 counter    transactions of the source applied
tailrace_batch_rows                         histogram  row changes in one batch of the stream
tailrace_batch_bytes                        histogram  bytes of one batch in memory
tailrace_stage_seconds {stage}              histogram  time of: apply, commit, copy
tailrace_reconnects_total {side}            counter    lost connections: source, sink
tailrace_drift_total {table}                counter    changes that met another row than expected
tailrace_replaced_values_total {table,      counter    values that the target cannot hold, replaced
column, reason}                                        by a policy
tailrace_snapshot_rows {table}              gauge      rows copied
tailrace_snapshot_estimate_rows {table}     gauge      rows expected when the copy began
tailrace_snapshot_state {table, state}      gauge      1 for the state that the table is in
==========================================  =========  ==========================================
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from engine.checkpoint import TableProgress, TableState
from engine.contract import Applied
from engine.schema import TableId

__all__ = ["Metrics", "Observed", "Side", "Stage"]

Stage = Literal["apply", "commit", "copy"]
Side = Literal["source", "sink"]

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ROWS_BUCKETS = (1, 10, 100, 1_000, 10_000, 50_000, 100_000)
BYTES_BUCKETS = (1e3, 1e4, 1e5, 1e6, 4e6, 16e6, 64e6)


class Observed(Protocol):
    """What the gauges are set from: ``engine.pipeline.loop.Progress``."""

    @property
    def state(self) -> str: ...
    @property
    def lag_seconds(self) -> float | None: ...
    @property
    def tables(self) -> Mapping[TableId, TableProgress]: ...


class Metrics:
    """The numbers of one pipeline, in a registry of its own. Not for several threads."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self, pipeline: str) -> None:
        self.registry = registry = CollectorRegistry()
        self._pipeline = pipeline

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"tailrace_{name}", text, ("pipeline", *labels), registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tailrace_{name}", text, ("pipeline", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            names = ("pipeline", *labels)
            return Histogram(f"tailrace_{name}", text, names, registry=registry, buckets=buckets)

        build = Info("tailrace_build", "The version that runs", ("pipeline",), registry=registry)
        build.labels(pipeline).info({"version": version("tailrace")})
        self._up = gauge("up", "1 while both sides are connected")
        self._lag_seconds = gauge("lag_seconds", "Age of the target's state")
        self._lag_bytes = gauge("lag_bytes", "Log that is not applied yet")
        self._last_commit = gauge("last_commit_timestamp_seconds", "Last commit in the target")
        self._rows = counter("rows", "Row changes applied", "table", "operation")
        self._transactions = counter("transactions", "Transactions of the source applied")
        self._batch_rows = histogram("batch_rows", "Row changes in one batch", ROWS_BUCKETS)
        self._batch_bytes = histogram("batch_bytes", "Bytes of one batch", BYTES_BUCKETS)
        self._stage = histogram("stage_seconds", "Time by stage", SECONDS_BUCKETS, "stage")
        self._reconnects = counter("reconnects", "Lost connections", "side")
        self._drift = counter("drift", "Changes that met another row than expected", "table")
        self._replaced = counter(
            "replaced_values", "Values replaced by a policy", "table", "column", "reason"
        )
        self._copied = gauge("snapshot_rows", "Rows copied", "table")
        self._estimate = gauge("snapshot_estimate_rows", "Rows expected", "table")
        self._state = gauge("snapshot_state", "1 for the state of the table", "table", "state")
        #: Each table's progress now, and as the gauges have it: they follow when they are read.
        self._tables: Mapping[TableId, TableProgress] = {}
        self._shown: Mapping[TableId, TableProgress] = {}
        self._start()

    def _start(self) -> None:
        """What can be known from the start is there from the start, so that rates are right."""
        self._up.labels(self._pipeline).set(0)
        self._transactions.labels(self._pipeline)
        for side in get_args(Side):
            self._reconnects.labels(self._pipeline, side)
        for stage in get_args(Stage):
            self._stage.labels(self._pipeline, stage)

    @contextmanager
    def stage(self, stage: Stage) -> Generator[None, None, None]:
        """Measure the time spent inside. A commit that succeeds is noted as the last one."""
        started = time.perf_counter()
        yield
        self._stage.labels(self._pipeline, stage).observe(time.perf_counter() - started)
        if stage == "commit":
            self._last_commit.labels(self._pipeline).set_to_current_time()

    def applied(self, applied: Applied) -> None:
        """One ``Sink.apply`` has ended."""
        for (table, operation), count in applied.rows.items():
            self._rows.labels(self._pipeline, str(table), operation).inc(count)
        for table, count in applied.drift.items():
            self._drift.labels(self._pipeline, str(table)).inc(count)
        for (table, column, reason), count in applied.replaced.items():
            self._replaced.labels(self._pipeline, str(table), column, reason).inc(count)

    def batch(self, rows: int, size: int, transactions: int = 0) -> None:
        """One batch of the stream: row changes, bytes, and transactions that end in it."""
        self._batch_rows.labels(self._pipeline).observe(rows)
        self._batch_bytes.labels(self._pipeline).observe(size)
        self._transactions.labels(self._pipeline).inc(transactions)

    def reconnected(self, side: Side) -> None:
        """A connection was lost and is made again."""
        self._reconnects.labels(self._pipeline, side).inc()
        self._up.labels(self._pipeline).set(0)

    def progress(self, observed: Observed, lag_bytes: int | None) -> None:
        """Set the gauges; what is None keeps its last value. Tables that are gone disappear, at the
        next ``render``.
        """
        self._up.labels(self._pipeline).set(observed.state != "connecting")
        if observed.lag_seconds is not None:
            self._lag_seconds.labels(self._pipeline).set(observed.lag_seconds)
        if lag_bytes is not None:
            self._lag_bytes.labels(self._pipeline).set(lag_bytes)
        self._tables = observed.tables or self._tables

    def _show_tables(self) -> None:
        """Set what has changed of the tables since the last time."""
        tables, shown = self._tables, self._shown
        if tables is shown:
            return
        self._shown = tables
        for id in shown.keys() - tables.keys():
            for gauge in (self._copied, self._estimate):
                gauge.remove(self._pipeline, str(id))
            for state in get_args(TableState):
                self._state.remove(self._pipeline, str(id), state)
        for id, progress in tables.items():
            before = shown.get(id)
            if progress is before:
                continue
            table = str(id)
            self._copied.labels(self._pipeline, table).set(progress.rows)
            self._estimate.labels(self._pipeline, table).set(progress.estimate)
            if before is None or before.state != progress.state:
                for state in get_args(TableState):
                    now = progress.state == state
                    self._state.labels(self._pipeline, table, state).set(now)

    def render(self) -> bytes:
        """All of it in the OpenMetrics text format (``CONTENT_TYPE``)."""
        self._show_tables()
        text: bytes = generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text
