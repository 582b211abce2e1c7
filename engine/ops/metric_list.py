"""
The list of metrics: the name, type, unit, labels and meaning of each. ``METRICS`` is the only place
that names them.

``engine.ops.metrics`` counts, and ``engine.ops.gauges`` derives the gauges from ``Status``. Both
return samples by name, and a name that is not in the list is an error. docs/metrics.md has the same
list, which a test compares with a running engine's answer.

https://prometheus.io/docs/practices/naming/ has the rules for names: base units (seconds, bytes) at
the end, ``_total`` after counters.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["METRICS", "OTHER", "Metric", "Stage"]

#: The parts of the way of a change, and of a backfill's chunk. docs/metrics.md describes each.
Stage = Literal["read", "decode", "queue", "map", "apply", "commit", "chunk", "backfill"]

#: The value of the labels ``table`` and ``column`` in the series that sums all other tables.
OTHER: Final = "(other)"

_FINE_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_LATENCY_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0),
)
_ROWS: Final = (1, 10, 100, 1_000, 10_000, 50_000, 100_000)
_BYTES: Final = (1e3, 1e4, 1e5, 1e6, 4e6, 16e6, 64e6)


class Metric(NamedTuple):
    """One metric. ``labels`` are those beside ``pipeline``, which every metric has; ``bounds`` are
    the upper bounds of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


METRICS: Final = (
    Metric("tailrace_build_info", "info", "1", "The version that runs.", ("version",)),
    Metric(
        "tailrace_up",
        "gauge",
        "1",
        "1 while source and target are connected or the pipeline is paused, else 0.",
    ),
    Metric(
        "tailrace_pipeline_state",
        "gauge",
        "1",
        "1 for the state of the pipeline, 0 for the others.",
        ("state",),
    ),
    Metric(
        "tailrace_lag_seconds",
        "gauge",
        "seconds",
        "Age of the target's state: 0 when the source is idle and everything is applied, growing"
        " while either side is away.",
    ),
    Metric(
        "tailrace_lag_bytes",
        "gauge",
        "bytes",
        "Bytes of the source's log that are not applied yet.",
    ),
    Metric(
        "tailrace_lag_transactions",
        "gauge",
        "transactions",
        "Transactions of the source's log that are not applied yet, as its GTIDs tell.",
    ),
    Metric(
        "tailrace_source_clock_ahead_seconds",
        "gauge",
        "seconds",
        "By how much the source's clock is ahead of that of the engine's machine, which the lag and"
        " the latency take into account; not there until it is compared.",
    ),
    Metric(
        "tailrace_catch_up_seconds",
        "gauge",
        "seconds",
        "Estimated time until the target equals the source; not there while the lag does not"
        " shrink.",
    ),
    Metric(
        "tailrace_log_kept_seconds",
        "gauge",
        "seconds",
        "Least time until the source may delete its log at the position, also while the source is"
        " away; not there if it never does, or has not been asked yet.",
    ),
    Metric(
        "tailrace_latency_seconds",
        "histogram",
        "seconds",
        "Time from the commit on the source to the commit on the target, of each transaction.",
        bounds=_LATENCY_SECONDS,
    ),
    Metric(
        "tailrace_checkpoint_age_seconds",
        "gauge",
        "seconds",
        "Time since the last commit of a checkpoint in the target.",
    ),
    Metric(
        "tailrace_rows_total",
        "counter",
        "rows",
        "Row changes applied; the operation read is a backfill.",
        ("table", "operation"),
    ),
    Metric(
        "tailrace_row_bytes_total",
        "counter",
        "bytes",
        "Bytes of the row changes applied, as the log has them.",
        ("table", "operation"),
    ),
    Metric(
        "tailrace_table_transactions_total",
        "counter",
        "transactions",
        "Source transactions applied with such changes of the table.",
        ("table", "operation"),
    ),
    Metric(
        "tailrace_transactions_total",
        "counter",
        "transactions",
        "Source transactions applied.",
    ),
    Metric(
        "tailrace_batch_rows",
        "histogram",
        "rows",
        "Row changes in a batch of the stream.",
        bounds=_ROWS,
    ),
    Metric(
        "tailrace_batch_bytes",
        "histogram",
        "bytes",
        "Memory of a batch of the stream.",
        bounds=_BYTES,
    ),
    Metric(
        "tailrace_stage_seconds",
        "histogram",
        "seconds",
        "Time of a stage for one batch, one read or one chunk.",
        ("stage",),
        bounds=_FINE_SECONDS,
    ),
    Metric(
        "tailrace_queued_bytes",
        "gauge",
        "bytes",
        "Memory of the changes that are read and not applied yet.",
    ),
    Metric(
        "tailrace_backfill_rows",
        "gauge",
        "rows",
        "Rows backfilled, of a table that is not live yet.",
        ("table",),
    ),
    Metric(
        "tailrace_backfill_expected_rows",
        "gauge",
        "rows",
        "Rows that the source expected at the start of the backfill, of a table that is not live"
        " yet.",
        ("table",),
    ),
    Metric(
        "tailrace_backfill_ratio",
        "gauge",
        "ratio",
        "Finished part of all backfills, 0 to 1; 1 only when all are finished.",
    ),
    Metric(
        "tailrace_backfill_left_seconds",
        "gauge",
        "seconds",
        "Estimated time until all backfills are finished; not there until it is known.",
    ),
    Metric(
        "tailrace_tables",
        "gauge",
        "tables",
        "Tables in each state.",
        ("state",),
    ),
    Metric(
        "tailrace_table_quarantined",
        "gauge",
        "tables",
        "1 for a table whose changes are not applied.",
        ("table",),
    ),
    Metric(
        "tailrace_compared_tables",
        "gauge",
        "tables",
        "Live tables by the outcome of their last comparison by `tailrace verify`; `none` without"
        " one.",
        ("outcome",),
    ),
    Metric(
        "tailrace_uncompared_tables",
        "gauge",
        "tables",
        "Live tables that were not compared yet, if the engine compares tables by itself"
        " (`[verify] continuous`); else there is no sample.",
    ),
    Metric(
        "tailrace_different_rows",
        "gauge",
        "rows",
        "Rows that differ from the source, as the last comparison of a table has found.",
        ("table",),
    ),
    Metric(
        "tailrace_proof_age_seconds",
        "gauge",
        "seconds",
        "The time since the beginning of the last comparison that found a table equal, of the live"
        " table for which it is longest. One that was never found equal counts from its first"
        " comparison; tables without any do not count.",
    ),
    Metric(
        "tailrace_comparison_age_seconds",
        "gauge",
        "seconds",
        "The time since the beginning of the last comparison of a live table, with its outcome. At"
        " most 100 tables are named: those that were not found equal, then the oldest.",
        ("table", "outcome"),
    ),
    Metric(
        "tailrace_dead_letters",
        "gauge",
        "rows",
        "Rows that the target refused, and the changes that wait behind them.",
    ),
    Metric(
        "tailrace_reconnects_total",
        "counter",
        "connections",
        "Lost connections of the source or the sink.",
        ("side",),
    ),
    Metric(
        "tailrace_errors_total",
        "counter",
        "errors",
        "Errors that ended an attempt of the pipeline, by class; each class is there from the"
        " start.",
        ("class",),
    ),
    Metric(
        "tailrace_drift_total",
        "counter",
        "rows",
        "Changes that hit no row, or an existing one, outside a backfill.",
        ("table",),
    ),
    Metric(
        "tailrace_replaced_values_total",
        "counter",
        "values",
        "Values that a policy changed; the reason is the policy.",
        ("table", "column", "reason"),
    ),
    Metric(
        "tailrace_notifications_total",
        "counter",
        "notifications",
        "Attempts to send a notification, by receiver; the outcome is sent, failed (it is tried"
        " again) or lost.",
        ("receiver", "outcome"),
    ),
)
