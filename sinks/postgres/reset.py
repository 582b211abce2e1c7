"""
The removal of a pipeline's state from the target, and of its tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.change import TWIN_PREFIX, SchemaChange
from engine.errors import SinkError, UnloggedChange
from engine.schema import Table
from sinks.postgres.commands import CommandTable
from sinks.postgres.cutovers import CutoverTable
from sinks.postgres.dead_letters import CLOSE
from sinks.postgres.layout import SCHEMA
from sinks.postgres.schema import SchemaFollower
from sinks.postgres.session import Session

__all__ = ["reset"]

#: The number of tables that one transaction drops. Each table takes locks.
DROPPED_TABLES = 250

#: What becomes of open dead letters and of commands that wait.
_OUTCOME = "the state of the pipeline was reset"

_REMOVE_KEYS = (
    f"DELETE FROM {SCHEMA}.repair_key"
    f" WHERE command IN (SELECT id FROM {SCHEMA}.command WHERE pipeline = $1)"
)

_STATE = ("checkpoint", "table_progress", "table_version", "proof", "comparison")


async def reset(
    session: Session,
    follower: SchemaFollower,
    pipeline: str,
    tables: Sequence[Table],
    *,
    drop: bool,
) -> int:
    """Remove the state of a pipeline, and drop unfinished twins of ``tables``, with ``drop`` all of
    them. Returns the number of tables that were dropped, without the twins.

    The commands and the cutovers of the pipeline stay as a record. Raises
    SinkError if a table cannot be dropped: the tables that were dropped before are gone, and it can
    be called again.
    """
    dropped = [table for table in tables if drop or table.id.name.startswith(TWIN_PREFIX)]
    for start in range(0, len(dropped), DROPPED_TABLES):
        await session.begin()
        for table in dropped[start : start + DROPPED_TABLES]:
            try:
                await follower.change(SchemaChange("", table, None))
            except UnloggedChange as error:
                raise SinkError(
                    error.message,
                    hint="drop the views and other objects of the target that depend on the table,"
                    " and type the command again",
                    table=table.id,
                ) from error
        await session.commit()
    await session.begin()
    for name in _STATE:
        await session.execute(f"DELETE FROM {SCHEMA}.{name} WHERE pipeline = $1", (pipeline,))
    await CutoverTable(session, pipeline).reset()
    await session.execute(CLOSE, (pipeline, _OUTCOME))
    if await CommandTable(session, pipeline).has_keys():
        await session.execute(_REMOVE_KEYS, (pipeline,))
    await session.execute(
        f"UPDATE {SCHEMA}.command SET done_at = now(), refused = true, outcome = $2"
        " WHERE pipeline = $1 AND done_at IS NULL",
        (pipeline, _OUTCOME),
    )
    await session.commit()
    return sum(not table.id.name.startswith(TWIN_PREFIX) for table in dropped)
