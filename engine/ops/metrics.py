"""
The metrics of a pipeline, for Prometheus. Each name stands here once.

Nothing is counted per row. The writer reports once per batch and commit. The gauges are set from
the pipeline's ``Status`` every few seconds; those of tables, of which there may be many, follow
when the metrics are read.

==========================================  =========  ==========================================
metric (all have the label ``pipeline``)    type       meaning
==========================================  =========  ==========================================
tailrace_build_info                         info       the version that runs
tailrace_up                                 gauge      1 while source and sink are connected
tailrace_lag_seconds                        gauge      age of the target's state, 0 when current
tailrace_lag_bytes                          gauge      bytes of log that are not applied yet
tailrace_last_commit_timestamp_seconds      gauge      Unix time of the last commit in the target
tailrace_rows_total {table, operation}      counter    row changes applied; ``read``: backfilled
tailrace_transactions_total                 counter    source transactions applied
tailrace_batch_rows                         histogram  row changes in a batch of the stream
tailrace_batch_bytes                        histogram  memory of a batch of the stream, in bytes
tailrace_stage_seconds {stage}              histogram  time of: apply, commit, backfill; the
                                                       commit of few changes is part of apply
tailrace_reconnects_total {side}            counter    lost connections of: source, sink
tailrace_drift_total {table}                counter    changes that hit no row, or an existing one
tailrace_replaced_values_total {table,      counter    values that a policy changed; ``reason`` is
column, reason}                                        the policy
tailrace_backfill_rows {table}              gauge      rows backfilled
tailrace_backfill_estimate_rows {table}     gauge      rows expected at the start of the backfill
tailrace_table_state {table, state}         gauge      1 for the state of the table, else 0
tailrace_quarantined_tables                 gauge      tables whose changes are not applied
tailrace_dead_letters                       gauge      rows that the target refused
==========================================  =========  ==========================================
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder

from engine.checkpoint import TableState
from engine.contract import Applied
from engine.ops.status import Status, TableStatus
from engine.schema import TableId

__all__ = ["Metrics", "Side", "Stage"]

Stage = Literal["apply", "commit", "backfill"]
Side = Literal["source", "sink"]

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ROWS_BUCKETS = (1, 10, 100, 1_000, 10_000, 50_000, 100_000)
BYTES_BUCKETS = (1e3, 1e4, 1e5, 1e6, 4e6, 16e6, 64e6)


class Metrics:
    """The metrics of one pipeline, in a registry of their own. Not thread-safe."""

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
        self._up = gauge("up", "1 while source and sink are connected")
        self._lag_seconds = gauge("lag_seconds", "Age of the target's state, 0 when current")
        self._lag_bytes = gauge("lag_bytes", "Bytes of log that are not applied yet")
        self._last_commit = gauge("last_commit_timestamp_seconds", "Last commit in the target")
        self._rows = counter("rows", "Row changes applied", "table", "operation")
        self._transactions = counter("transactions", "Source transactions applied")
        self._batch_rows = histogram("batch_rows", "Row changes in a batch", ROWS_BUCKETS)
        self._batch_bytes = histogram("batch_bytes", "Memory of a batch", BYTES_BUCKETS)
        self._stage = histogram("stage_seconds", "Time by stage", SECONDS_BUCKETS, "stage")
        self._reconnects = counter("reconnects", "Lost connections", "side")
        self._drift = counter("drift", "Changes that hit no row, or an existing one", "table")
        self._replaced = counter(
            "replaced_values", "Values replaced by a policy", "table", "column", "reason"
        )
        self._backfilled = gauge("backfill_rows", "Rows backfilled", "table")
        self._estimate = gauge("backfill_estimate_rows", "Rows expected", "table")
        self._dead_letters = gauge("dead_letters", "Rows that the target refused, and those behind")
        self._quarantined = gauge("quarantined_tables", "Tables whose changes are not applied")
        self._state = gauge("table_state", "1 for the state of the table", "table", "state")
        #: Whether the backlog was known at the last status.
        self._has_backlog = False
        #: The tables of the last status, and those that the gauges show: they follow when read.
        self._tables: Sequence[TableStatus] = ()
        self._shown: Mapping[str, TableStatus] = {}
        self._shown_from: Sequence[TableStatus] = ()
        self._start()

    def _start(self) -> None:
        """Create the series whose labels are known, so that rates are right from the start."""
        self._up.labels(self._pipeline).set(0)
        self._transactions.labels(self._pipeline)
        for side in get_args(Side):
            self._reconnects.labels(self._pipeline, side)
        for stage in get_args(Stage):
            self._stage.labels(self._pipeline, stage)

    @contextmanager
    def stage(self, stage: Stage) -> Generator[None, None, None]:
        """Measure the time spent inside. A commit that succeeds sets the time of the last one."""
        started = time.perf_counter()
        yield
        self._stage.labels(self._pipeline, stage).observe(time.perf_counter() - started)
        if stage == "commit":
            self.committed()

    def committed(self) -> None:
        """The target has committed; the stage ``commit`` calls it."""
        self._last_commit.labels(self._pipeline).set_to_current_time()

    def applied(self, rows: Mapping[tuple[TableId, str], int], applied: Applied) -> None:
        """One ``Sink.apply`` has ended: row changes by table and operation, and what it found."""
        for (table, operation), count in rows.items():
            self._rows.labels(self._pipeline, str(table), operation).inc(count)
        for table, count in applied.drift.items():
            self._drift.labels(self._pipeline, str(table)).inc(count)
        for (table, column, reason), count in applied.replaced.items():
            self._replaced.labels(self._pipeline, str(table), column, reason).inc(count)

    def batch(self, rows: int, size: int, transactions: int = 0) -> None:
        """One batch of the stream: its row changes, its bytes, the transactions that end in it."""
        self._batch_rows.labels(self._pipeline).observe(rows)
        self._batch_bytes.labels(self._pipeline).observe(size)
        self._transactions.labels(self._pipeline).inc(transactions)

    def reconnected(self, side: Side) -> None:
        """A connection was lost."""
        self._reconnects.labels(self._pipeline, side).inc()
        self._up.labels(self._pipeline).set(0)

    def observe(self, status: Status) -> None:
        """Set the gauges. A backlog that is unknown has no series."""
        self._up.labels(self._pipeline).set(status.state not in ("connecting", "stopped"))
        if status.lag_seconds is not None:
            self._lag_seconds.labels(self._pipeline).set(status.lag_seconds)
        if status.lag_bytes is not None:
            self._lag_bytes.labels(self._pipeline).set(status.lag_bytes)
        elif self._has_backlog:
            self._lag_bytes.remove(self._pipeline)
        self._has_backlog = status.lag_bytes is not None
        self._dead_letters.labels(self._pipeline).set(status.dead_letters or 0)
        self._tables = status.tables or self._tables

    def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type: the format that the header Accept prefers, which is
        Prometheus's text format unless it asks for OpenMetrics.
        """
        self._show_tables()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _show_tables(self) -> None:
        """Set the gauges of tables that have changed, and remove those of tables that are gone."""
        if self._tables is self._shown_from:
            return
        self._shown_from = self._tables
        quarantined = sum(table.state == "quarantined" for table in self._tables)
        self._quarantined.labels(self._pipeline).set(quarantined)
        shown, tables = self._shown, {table.table: table for table in self._tables}
        for name in shown.keys() - tables.keys():
            for gauge in (self._backfilled, self._estimate):
                gauge.remove(self._pipeline, name)
            for state in get_args(TableState):
                self._state.remove(self._pipeline, name, state)
        for name, table in tables.items():
            before = shown.get(name)
            if table == before:
                continue
            self._backfilled.labels(self._pipeline, name).set(table.rows)
            self._estimate.labels(self._pipeline, name).set(table.estimate)
            if before is None or before.state != table.state:
                for state in get_args(TableState):
                    self._state.labels(self._pipeline, name, state).set(table.state == state)
        self._shown = tables
