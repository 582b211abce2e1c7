"""
The status of a pipeline: one struct for ``/status``, ``tailrace status --json``, the terminal view
and the metrics.

``docs/status.md`` describes each field. ``STATUS_VERSION`` grows when a field changes its meaning
or goes; a new field alone does not change it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from engine.checkpoint import TableProgress, TableState
from engine.ops.metric_list import Stage
from engine.ops.recent_errors import ErrorStatus
from engine.ops.table_counters import TableCounters
from engine.proof import TableProof
from engine.remedies import REPAIR, rendered
from engine.schema import TableId

__all__ = [
    "STATUS_VERSION",
    "PipelineState",
    "StageStatus",
    "Status",
    "TableStatus",
    "TableStatuses",
    "Throughput",
    "table_status",
]

STATUS_VERSION = 1

PipelineState = Literal["connecting", "backfilling", "streaming", "paused", "draining", "stopped"]

#: The states in which a table has no rows left to backfill.
FINISHED = frozenset(("catching_up", "live", "quarantined", "excluded"))

#: The reason that a table with open dead letters has.
LETTERS_WAIT = "changes that the target refused wait as dead letters"
#: The fields of a table's status that metrics count.
_COUNTED = {
    "tailrace_rows_total": "applied",
    "tailrace_drift_total": "drift",
    "tailrace_replaced_values_total": "replaced",
}
#: No table has any.
NO_LETTERS: Mapping[TableId, int] = {}


class StageStatus(msgspec.Struct, frozen=True):
    """The time spent in one stage since the engine's start, and the share of the last seconds."""

    stage: Stage
    seconds: float
    share: float | None = None


class Throughput(msgspec.Struct, frozen=True):
    """What was done per second in the last seconds."""

    rows: float
    bytes: float
    transactions: float
    backfilled_rows: float


class TableStatus(msgspec.Struct, frozen=True):
    """The backfill of one table. ``estimate`` is what the source expected at its start.
    ``applied``, ``drift`` and ``replaced`` count since the engine's start. ``changed_at`` is when
    the source committed the last change of rows that the stream has applied, None if none is known.

    ``proof`` is the outcome of the last comparison, None if none is known.

    The others say why the table is backfilled again or quarantined, as ``Cause`` does; ``remedy``
    says what to type. A live table with open dead letters, or with rows that differ, has a reason
    and a remedy, too.
    """

    table: str
    state: TableState = "pending"
    rows: int = 0
    estimate: int = 0
    reason: str = ""
    remedy: str = ""
    position: str = ""
    statement: str = ""
    since: float | None = None
    dead_letters: int = 0
    applied: int = 0
    drift: int = 0
    replaced: int = 0
    changed_at: float | None = None
    proof: TableProof | None = None

    @property
    def differs(self) -> bool:
        """Whether the last comparison has found rows that differ."""
        return self.proof is not None and self.proof.outcome == "different"

    @property
    def total(self) -> int:
        """The number of rows at the end of the backfill, as far as it is known now."""
        if self.state in FINISHED:
            return self.rows
        return max(self.rows, self.estimate)


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pipeline is.

    ``rows``, ``backfilled_rows`` and ``reconnects`` count since the engine's start. What only a
    running engine knows is None where the status was read from the checkpoint, without asking the
    engine. Only there are ``running``, which says whether an engine is connected to the target, and
    ``problem``, the reason why the stream cannot resume, with its ``remedy``.
    """

    version: int = STATUS_VERSION
    pipeline: str = ""
    state: PipelineState | None = None
    epoch: int | None = None
    position: str | None = None
    place: str = ""
    committed_position: str | None = None
    rows: int | None = None
    backfilled_rows: int | None = None
    reconnects: int | None = None
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    lag_transactions: int | None = None
    clock_ahead_seconds: float | None = None
    catch_up_seconds: float | None = None
    log_kept_seconds: float | None = None
    queued_bytes: int | None = None
    checkpoint_age_seconds: float | None = None
    backfill_left_seconds: float | None = None
    throughput: Throughput | None = None
    stages: tuple[StageStatus, ...] = ()
    running: bool | None = None
    problem: str = ""
    remedy: str = ""
    dead_letters: int | None = None
    errors: tuple[ErrorStatus, ...] = ()
    tables: tuple[TableStatus, ...] = ()

    @property
    def backfilled(self) -> int:
        """The number of backfilled rows, over all tables and all runs of the engine."""
        return sum(table.rows for table in self.tables)

    @property
    def total(self) -> int:
        """The number of rows that all backfills will have, as far as it is known now."""
        return sum(table.total for table in self.tables)

    @property
    def fraction(self) -> float:
        """The finished part of all backfills, 0 to 1; 1 only when all are finished."""
        if all(table.state in FINISHED for table in self.tables):
            return 1.0 if self.tables else 0.0
        return min(0.99, self.backfilled / self.total) if self.total else 0.0


class TableStatuses:
    """Makes ``Status.tables`` from the progress of all tables. The same progress gives the same
    tuple, so a status of many idle tables costs nothing. ``config`` is for command lines in
    remedies.
    """

    def __init__(self, config: str = "") -> None:
        self._config = config
        self._progress: Mapping[TableId, TableProgress] | None = None
        self._letters: Mapping[TableId, int] = {}
        self._places: dict[TableId, int] = {}
        self._statuses: tuple[TableStatus, ...] = ()

    def of(
        self,
        progress: Mapping[TableId, TableProgress] | None,
        letters: Mapping[TableId, int] = NO_LETTERS,
        counters: TableCounters | None = None,
    ) -> tuple[TableStatus, ...]:
        """The status of each table that is not excluded, ordered by name. ``letters`` has the
        number of open dead letters of each table that has some; ``counters`` has what was noted of
        tables.
        """
        changed: Collection[TableId] = () if counters is None else counters.take_changed()
        if progress is not None and (progress is not self._progress or letters != self._letters):
            self._progress, self._letters = progress, dict(letters)
            changed = sorted(id for id, it in progress.items() if it.state != "excluded")
            self._places = {id: place for place, id in enumerate(changed)}
            self._statuses = tuple(self._status(id, counters) for id in changed)
        elif known := [id for id in changed if id in self._places]:
            statuses = list(self._statuses)
            for id in known:
                statuses[self._places[id]] = self._status(id, counters)
            self._statuses = tuple(statuses)
        return self._statuses

    def _status(self, id: TableId, counters: TableCounters | None) -> TableStatus:
        assert self._progress is not None
        proof = None if counters is None else counters.proof(id)
        letters = self._letters.get(id, 0)
        status = table_status(str(id), self._progress[id], self._config, letters, proof)
        if counters is None or not (totals := counters.totals(id)):
            return status
        changed_at = counters.changed_at(id) or status.changed_at
        return msgspec.structs.replace(status, changed_at=changed_at, **_counts(totals))


def _counts(totals: Mapping[tuple[str, ...], int]) -> dict[str, int]:
    """The counts of a table's status, from those of its metrics."""
    counts = dict.fromkeys(_COUNTED.values(), 0)
    for (name, *labels), count in totals.items():
        if name in _COUNTED and labels[:1] != ["read"]:
            counts[_COUNTED[name]] += count
    return counts


def table_status(
    table: str,
    progress: TableProgress,
    config: str,
    letters: int = 0,
    proof: TableProof | None = None,
) -> TableStatus:
    """The status of one table with this number of open dead letters and this last comparison;
    ``config`` is for the command lines in its remedy.
    """
    status = TableStatus(
        *(table, progress.state, progress.rows, progress.estimate),
        dead_letters=letters,
        changed_at=progress.changed_at or None,
        proof=proof,
    )
    if progress.state != "live" and (cause := progress.cause) is not None:
        return msgspec.structs.replace(
            status,
            reason=cause.reason,
            remedy=rendered(cause.hint, config=config, table=table),
            position=cause.position,
            statement=cause.statement,
            since=cause.at or None,
        )
    if letters:
        remedy = rendered("`tailrace dead-letters CONFIG list`", config=config)
        return msgspec.structs.replace(status, reason=LETTERS_WAIT, remedy=remedy)
    if proof is not None and status.differs:
        rows = "1 row" if proof.differences == 1 else f"{proof.differences:,} rows"
        return msgspec.structs.replace(
            status,
            reason=f"the last comparison found {rows} different from the source",
            remedy=rendered(REPAIR, config=config, table=table),
        )
    return status
