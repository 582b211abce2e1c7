"""
The stored state of a pipeline, which most commands need, and the tables that it follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Sink, State
from engine.errors import ConfigError
from engine.schema import TableId

__all__ = ["refuse_unknown", "stored_state"]


async def stored_state(sink: Sink) -> tuple[State, Checkpoint]:
    """The state of the pipeline, and its checkpoint. Raises ConfigError if there is none."""
    state = await sink.state()
    if state is None or state.checkpoint is None:
        raise ConfigError(
            "the target holds no checkpoint of this pipeline yet",
            hint="`tailrace run CONFIG` starts the pipeline, and makes the first one",
        )
    return state, state.checkpoint


def refuse_unknown(names: Sequence[str], progress: Mapping[TableId, TableProgress]) -> None:
    """Raise ConfigError about names of which the pipeline follows no table; none are fine."""
    if not names:
        return
    excluded = _excluded(names, progress)
    if excluded:
        shown = ", ".join(f'"{name}"' for name in excluded)
        raise ConfigError(
            f"the configuration does not select {', '.join(excluded)}",
            hint=f"add {shown} to tables in [source], or remove what matches from exclude; then"
            " `tailrace run CONFIG` reads again what it selects again",
        )
    raise ConfigError(
        f"the pipeline follows no table {', '.join(names)}",
        hint="`tailrace tables CONFIG` lists the tables that it follows",
    )


def _excluded(names: Collection[str], progress: Mapping[TableId, TableProgress]) -> list[str]:
    known = {str(id) for id, it in progress.items() if it.state == "excluded"}
    return [name for name in names if name in known]
