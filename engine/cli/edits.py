"""
What ``tailrace check`` says about an edited configuration: which tables a run would read again.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from collections.abc import Sequence
from typing import Final, Literal

from engine.contract import Finding, ReadsByPolicy, SnapshotSource, Source, State
from engine.errors import ConfigError
from engine.mapping.changes import Mapping
from engine.pipeline.twins import Twins
from engine.remedies import BACKFILL
from engine.schema import Table, TableId
from engine.settings.loader import Settings

__all__ = ["mapped_tables", "outdated_tables"]

_AGAIN: Final = (
    "readers see the old rows until the new ones are complete; undo the edit to keep them"
)
_OTHERWISE: Final[Map[str, tuple[Literal["warning", "error"], str, str]]] = {
    "quarantine": ("warning", "a run quarantines the table", f"undo the edit, or {BACKFILL}"),
    "stop": ("error", "a run stops", 'undo the edit, or set unlogged_change = "backfill"'),
}


def mapped_tables(
    mapping: Mapping, tables: Sequence[Table], state: State | None
) -> tuple[list[Table], list[Finding]]:
    """The tables of the target for ``tables``, and findings about those that a run quarantines
    because the mapping does not fit them.

    Raises ConfigError if a run would: at the first start for each table, later for those that are
    followed.
    """
    try:
        return mapping.check(tables), []
    except ConfigError:
        if state is None or state.checkpoint is None:
            raise
    progress = state.checkpoint.progress
    mapping.restore(state)
    mapping.check_edited([it for it in tables if it.id in progress and progress[it.id].followed])
    misfits = mapping.misfits((), tables)
    findings: list[Finding] = []
    for id, error in misfits.items():
        problem = f"a run quarantines the table: {error.message}"
        findings.append(Finding("warning", str(id), problem, error.hint, "CK006"))
    return mapping.check(it for it in tables if it.id not in misfits), findings


def outdated_tables(
    source: Source, mapping: Mapping, state: State | None, settings: Settings
) -> list[Finding]:
    """Findings about the followed tables whose rows the configuration would make otherwise now."""
    if state is None or state.checkpoint is None:
        return []
    state = mapping.restore(state)
    progress = state.checkpoint.progress if state.checkpoint is not None else {}
    twins = Twins(state.tables, progress)
    outdated = twins.outdated(state.outdated)
    if isinstance(source, ReadsByPolicy):
        outdated.update(source.outdated(twins.followed))
    tables = [it for it in twins.followed if it.id in outdated and progress[it.id].followed]
    counts: Map[TableId, int] = {}
    if isinstance(source, SnapshotSource) and tables:
        counts = source.estimates(tables)
    return [_outdated(it.id, outdated[it.id], counts.get(it.id, 0), settings) for it in tables]


def _outdated(id: TableId, reason: str, rows: int, settings: Settings) -> Finding:
    policy = settings.backfill.unlogged_change
    if settings.backfill.mode == "never":
        policy = "stop" if settings.errors.policy(id) == "stop" else "quarantine"
    if policy == "backfill":
        what = f"a run reads the table again, about {rows:,} rows"
        return Finding("warning", str(id), f"{reason}: {what}", _AGAIN, "CK007")
    level, what, action = _OTHERWISE[policy]
    return Finding(level, str(id), f"{reason}: {what}", action, code="CK007")
