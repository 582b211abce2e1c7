"""
The gauges of ``/metrics``, derived from ``Status``. A value that is unknown has no sample.

The number of samples does not grow with the number of tables: of each kind at most ``MOST_TABLES``
are named.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from typing import get_args

from engine.checkpoint import TableState
from engine.ops.metric_list import OTHER
from engine.ops.status import PipelineState, Status, TableStatus
from engine.ops.table_counters import MOST_TABLES
from engine.proof import ProofOutcome

__all__ = ["Sample", "gauges"]

#: The values of a metric's labels without ``pipeline``, and its value.
Sample = tuple[tuple[str, ...], float]

#: The states of tables in backfill, those with progress first.
_IN_BACKFILL: Sequence[TableState] = ("backfilling", "catching_up", "pending")


def gauges(status: Status, *, continuous: bool = False) -> dict[str, list[Sample]]:
    """The samples of each gauge, by name. ``continuous``: the engine compares tables by itself."""
    connected = status.state not in (None, "connecting", "stopped")
    return {
        "tailrace_up": _one(connected),
        "tailrace_pipeline_state": [
            ((state,), float(status.state == state)) for state in get_args(PipelineState)
        ],
        "tailrace_lag_seconds": _one(status.lag_seconds),
        "tailrace_lag_bytes": _one(status.lag_bytes),
        "tailrace_lag_transactions": _one(status.lag_transactions),
        "tailrace_source_clock_ahead_seconds": _one(status.clock_ahead_seconds),
        "tailrace_catch_up_seconds": _one(status.catch_up_seconds),
        "tailrace_log_kept_seconds": _one(status.log_kept_seconds),
        "tailrace_backfill_left_seconds": _one(status.backfill_left_seconds),
        "tailrace_queued_bytes": _one(status.queued_bytes),
        "tailrace_checkpoint_age_seconds": _one(status.checkpoint_age_seconds),
        "tailrace_backfill_ratio": _one(status.fraction if status.tables else None),
        "tailrace_dead_letters": _one(status.dead_letters),
        **_tables(status.tables, continuous=continuous),
    }


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), float(value))]


def _tables(tables: Sequence[TableStatus], *, continuous: bool) -> dict[str, list[Sample]]:
    states = Counter(table.state for table in tables)
    unfinished = [
        table for state in _IN_BACKFILL if states[state] for table in tables if table.state == state
    ]
    quarantined = [table for table in tables if table.state == "quarantined"]
    now = time.time()
    live = [table.proof for table in tables if table.state == "live"]
    # Tables that were not found equal are the first, then the oldest ones.
    compared = (
        (it.proof.outcome == "equal", it.proof.started_at, it.table, it.proof.outcome)
        for it in tables
        if it.state == "live" and it.proof is not None
    )
    outcomes: Counter[str] = Counter("none" if it is None else it.outcome for it in live)
    since = [it.equal_at or it.first_at or it.started_at for it in live if it is not None]
    return {
        "tailrace_tables": [((state,), float(states[state])) for state in get_args(TableState)],
        "tailrace_backfill_rows": _named((it.table, it.rows) for it in unfinished),
        "tailrace_backfill_expected_rows": _named((it.table, it.estimate) for it in unfinished),
        "tailrace_table_quarantined": _named((it.table, 1) for it in quarantined),
        "tailrace_compared_tables": [
            ((outcome,), float(outcomes[outcome])) for outcome in (*get_args(ProofOutcome), "none")
        ],
        "tailrace_uncompared_tables": _one(outcomes["none"] if continuous else None),
        "tailrace_different_rows": _named(
            (it.table, it.proof.differences) for it in tables if it.proof and it.proof.differences
        ),
        "tailrace_proof_age_seconds": _one(max(0.0, now - min(since)) if since else None),
        "tailrace_comparison_age_seconds": [
            ((table, outcome), max(0.0, now - at))
            for _, at, table, outcome in nsmallest(MOST_TABLES, compared)
        ],
    }


def _named(values: Iterable[tuple[str, int]]) -> list[Sample]:
    """A sample for each of the first tables, and one for the sum of the others."""
    samples: list[Sample] = []
    others = 0
    for table, value in values:
        if len(samples) < MOST_TABLES:
            samples.append(((table,), float(value)))
        else:
            others += value
    return [*samples, ((OTHER,), float(others))] if others else samples
