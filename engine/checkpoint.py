"""
How far a pipeline has come: the position, the epoch, and each table's snapshot state.

A ``Checkpoint`` is written by the sink in the transaction that writes the rows, so the two cannot
disagree. It is immutable; the legal steps of a table's snapshot are the methods of
``TableProgress``, and there are no others:

    pending ──copied──▶ copying ──copied──▶ settling ──settled──▶ live
       └──────────────copied (last chunk)──────▲

A table that the log itself created is live from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.schema import TableId

__all__ = ["Checkpoint", "TableState", "TableProgress"]

TableState = Literal["pending", "backfilling", "catching_up", "live"]


class TableProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The snapshot of one table.

    ``cursor`` is the source's text of the last key copied, ``rows`` how many were copied,
    ``estimate`` how many the source expected at the start, ``high_watermark`` the position that the
    stream has to pass before the table is right at every commit.
    """

    state: TableState = "pending"
    cursor: str | None = None
    rows: int = 0
    estimate: int = 0
    high_watermark: str | None = None

    def copied(self, rows: int, cursor: str | None, high_watermark: str) -> TableProgress:
        """A chunk was applied; ``cursor`` is None after the last one."""
        if self.state not in ("pending", "backfilling"):
            raise ValueError(f"a table that is {self.state} takes no chunk")
        state: TableState = "backfilling" if cursor is not None else "catching_up"
        return TableProgress(state, cursor, self.rows + rows, self.estimate, high_watermark)

    def settled(self) -> TableProgress:
        """The stream has passed ``high_watermark``."""
        if self.state != "catching_up":
            raise ValueError(f"a table that is {self.state} cannot settle")
        return TableProgress("live", None, self.rows, self.estimate, None)


class Checkpoint(msgspec.Struct, frozen=True):
    """What one target transaction made durable.

    ``position`` is the source's durable text: everything up to it is applied, nothing after it.
    ``committed_at`` is the source's time up to which everything is applied (Unix seconds, 0.0 when
    nothing was): the commit time of the last transaction, or that of a heartbeat after it. Must
    never move backward: only a sink's ``commit`` stores one, and it refuses when ``epoch`` is not
    its own.
    """

    pipeline: str
    epoch: int
    position: str
    committed_at: float = 0.0
    snapshot: Mapping[TableId, TableProgress] = msgspec.field(default_factory=dict)
