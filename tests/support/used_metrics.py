"""Metrics in which each of the list has a sample, for tests."""

from __future__ import annotations

from engine.contract import Applied
from engine.errors import SourceLost
from engine.ops.metrics import Metrics, Work
from engine.ops.status import Status, TableStatus
from engine.proof import TableProof
from engine.schema import TableId

__all__ = ["ITEM", "STATUS", "used", "work"]

ITEM = TableId("shop", "item")


def work(rows: int, size: int = 0, transactions: int = 1) -> Work:
    """The work of one operation."""
    done = Work()
    done.rows, done.size, done.transactions = rows, size, transactions
    return done


def used() -> Metrics:
    """The metrics of the pipeline ``p``."""
    metrics = Metrics("p")
    metrics.continuous = True
    metrics.applied(
        {(ITEM, "insert"): work(5, 500, 3), (ITEM, "read"): work(7, 70)},
        Applied({ITEM: 2}, {(ITEM, "note", "nul_byte"): 3}),
    )
    metrics.applied({(ITEM, "insert"): work(1, 100)}, Applied())
    metrics.batch(6, 600, transactions=4)
    metrics.reconnected("sink")
    metrics.failed(SourceLost("x"))
    metrics.notifications["pager", "sent"] += 1
    metrics.committed([1.0], 100_001.0)
    with metrics.stage("commit"):
        pass
    return metrics


#: The status that their gauges show.
STATUS = Status(
    state="streaming",
    lag_seconds=1.5,
    lag_bytes=4096,
    lag_transactions=12,
    clock_ahead_seconds=0.5,
    catch_up_seconds=60.0,
    log_kept_seconds=3600.0,
    backfill_left_seconds=30.0,
    queued_bytes=99,
    checkpoint_age_seconds=0.5,
    dead_letters=2,
    tables=(
        TableStatus("shop.item", "backfilling", 10, 100),
        TableStatus("shop.part", "quarantined"),
        TableStatus("shop.new", "live"),
        TableStatus("shop.a", "live", proof=TableProof("equal", 90.0, 95.0, equal_at=90.0)),
        TableStatus(
            "shop.b",
            "live",
            proof=TableProof("different", 95.0, 96.0, differences=7, equal_at=50.0),
        ),
    ),
)
