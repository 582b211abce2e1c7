"""
Edits of the configuration at the start of an engine: ``tables`` and ``exclude``, and ``[mapping]``.

A mapping that does not fit its tables any more is an error before anything is changed.

A table that is not selected any more is *excluded*: its changes are not applied, and the target
keeps it as it is. A table that is selected again is backfilled again, like a quarantined one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from engine.checkpoint import Cause
from engine.contract import SelectsTables, SnapshotSource, Source
from engine.errors import ConfigError
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.writer import TargetWriter
from engine.schema import TableId

__all__ = ["follow_selection", "selected"]


_NOT_SELECTED = "the configuration does not select the table any more"
_SELECTED_AGAIN = "the configuration selects the table again"


def selected(source: Source, known: Collection[TableId]) -> set[TableId]:
    """Those of the tables that a pipeline follows which ``source`` selects. May block.

    Raises ConfigError if it selects none of them, because that is likely to be a mistake.
    """
    if not isinstance(source, SelectsTables) or not known:
        return set(known)
    found = source.selected(known)
    if not found:
        raise ConfigError(
            "the configuration selects none of the tables that the pipeline follows",
            hint="correct tables and exclude in [source]; or begin anew with other tables:"
            " `tailrace reset CONFIG`, then `tailrace run CONFIG`",
        )
    return found


async def follow_selection(source: Source, writer: TargetWriter, tracker: ProgressTracker) -> None:
    """Stop following tables that ``source`` does not select, and follow those that it selects
    again. The target is at a commit before and after.

    Raises ConfigError if it selects none of them, or if edited rules of ``[mapping]`` do not fit a
    table.
    """
    await _check_mapping(source, writer)
    known = tracker.progress
    chosen = await asyncio.to_thread(selected, source, known)
    excluded = [id for id in known if id not in chosen and known[id].state != "excluded"]
    included = [id for id in chosen if known[id].state == "excluded"]
    for id in excluded:
        await writer.leave(id, Cause(_NOT_SELECTED, at=time.time()), "excluded")
    for id in included:
        await writer.leave(id, Cause(_SELECTED_AGAIN, at=time.time()), "pending")
    if excluded or included:
        await writer.commit()


async def _check_mapping(source: Source, writer: TargetWriter) -> None:
    """Check edited rules against the tables as they are on the source now, as `tailrace check`
    does: the stored versions may be older than the rules.
    """
    if writer.mapping_edited and isinstance(source, SnapshotSource):
        writer.check_edited(await asyncio.to_thread(source.catalog))
