"""
The changes of state in the log: those of the pipeline, and those of its tables.

A table's change is logged when it is committed, so the log says what the target holds. Many tables
that come to one state in one commit share a line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from engine.checkpoint import Cause, TableProgress, TableState
from engine.ops.status import PipelineState
from engine.remedies import rendered
from engine.schema import TableId

__all__ = ["Events"]

log = logging.getLogger("tailrace.pipeline")

#: So many tables at most have a line of their own, if they come to a state in one commit.
MOST_LINES = 10

_IN_WORDS: Final[Mapping[TableState, str]] = {
    "pending": "the table waits for its backfill",
    "backfilling": "the table is backfilled",
    "catching_up": "the table is catching up",
    "live": "the table is live",
    "quarantined": "the table is quarantined, its changes are not applied any more",
    "excluded": "the table is not followed any more, and the target keeps it as it is",
}
_AGAIN: Final = "the table is backfilled again"
_MANY: Final = "many tables have a new state"


class Events:
    """Logs the changes of state of one pipeline. ``config`` is for the command lines in hints."""

    def __init__(self, pipeline: str, config: str = "") -> None:
        self._pipeline = pipeline
        self._config = config
        self._state: PipelineState | None = None
        #: The tables whose next state is logged already, with their error.
        self._told: dict[TableId, TableState] = {}

    def state(self, state: PipelineState, position: str | None = None) -> None:
        """The pipeline has this state now."""
        if state == self._state:
            return
        extra = {"pipeline": self._pipeline, "state": state}
        if self._state is not None:
            extra["before"] = self._state
        if position:
            extra["position"] = position
        self._state = state
        log.info(f"the pipeline is {state}", extra=extra)

    def left(self, id: TableId, state: TableState, cause: Cause, error_class: str) -> None:
        """A table leaves the stream after an error. The commit of it is not logged again."""
        self._told[id] = state
        self._log_left(id, state, cause, {"error_class": error_class})

    def tables(self, moved: Iterable[TableId], progress: Mapping[TableId, TableProgress]) -> None:
        """The states of these tables are committed."""
        by_state: dict[TableState, list[TableId]] = {}
        for id in moved:
            if (it := progress.get(id)) is None:
                continue
            if self._told.pop(id, None) == it.state:
                continue
            if it.cause is not None and it.state in ("pending", "quarantined", "excluded"):
                self._log_left(id, it.state, it.cause, {})
            else:
                by_state.setdefault(it.state, []).append(id)
        for state, ids in by_state.items():
            extra = {"pipeline": self._pipeline, "state": state}
            if len(ids) > MOST_LINES:
                log.info(_MANY, extra=extra | {"count": len(ids)})
            else:
                for id in ids:
                    log.info(_IN_WORDS[state], extra=extra | {"table": str(id)})

    def _log_left(
        self, id: TableId, state: TableState, cause: Cause, more: Mapping[str, str]
    ) -> None:
        extra = {
            "pipeline": self._pipeline,
            "table": str(id),
            "state": state,
            "position": cause.position,
            "statement": cause.statement,
            "reason": cause.reason,
            "hint": rendered(cause.hint, config=self._config, table=str(id)),
            **more,
        }
        extra = {name: value for name, value in extra.items() if value}
        log.warning(_AGAIN if state == "pending" else _IN_WORDS[state], extra=extra)
