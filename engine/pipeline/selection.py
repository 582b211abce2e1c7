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
from collections.abc import Mapping as Progress
from contextlib import suppress

from engine.checkpoint import Cause, TableProgress
from engine.contract import SelectsTables, Sink, SnapshotSource, Source
from engine.errors import ConfigError, SinkError, SourceLost
from engine.handover import is_switched, known_cutover
from engine.mapping.changes import Mapping
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.writer import TargetWriter
from engine.schema import TableId

__all__ = ["follow_selection", "refuse_wrong_configuration", "selected"]


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


async def refuse_wrong_configuration(source: Source, sink: Sink, mapping: Mapping) -> None:
    """Raise what an engine with this configuration would stop with at its start. It is called
    before the engine takes over, so that the mistake ends no engine that runs.

    What is wrong with the target is left to ``Sink.open``, and a lost source to the attempt.
    """
    try:
        state = await sink.state()
    except SinkError:
        return
    if state is None or state.checkpoint is None:
        return
    mapping.restore(state)
    await _refuse_switched(sink)
    with suppress(SourceLost):
        if isinstance(source, SnapshotSource):
            await asyncio.to_thread(source.position)  # a source that rejects the user says so here
        await _select(source, mapping, state.checkpoint.progress)


async def _refuse_switched(sink: Sink) -> None:
    """Raise ConfigError if the applications write to the target since a cutover."""
    if is_switched(await known_cutover(sink)):
        raise ConfigError(
            "a cutover has switched the applications to the target, and this engine would write"
            " the source's changes over theirs",
            hint="start no engine of this pipeline. To give up what applications have written to"
            " the target, and replicate into it again: `tailrace reset CONFIG --drop`, then"
            " `tailrace run CONFIG`",
        )


async def follow_selection(
    source: Source, mapping: Mapping, writer: TargetWriter, tracker: ProgressTracker
) -> None:
    """Stop following tables that ``source`` does not select, and follow those that it selects
    again. The target is at a commit before and after.

    Raises ConfigError as ``refuse_wrong_configuration`` does.
    """
    known = tracker.progress
    chosen = await _select(source, mapping, known)
    excluded = [id for id in known if id not in chosen and known[id].state != "excluded"]
    included = [id for id in chosen if known[id].state == "excluded"]
    for id in excluded:
        await writer.leave(id, Cause(_NOT_SELECTED, at=time.time()), "excluded")
    for id in included:
        await writer.leave(id, Cause(_SELECTED_AGAIN, at=time.time()), "pending")
    if excluded or included:
        await writer.commit()


async def _select(
    source: Source, mapping: Mapping, known: Progress[TableId, TableProgress]
) -> set[TableId]:
    """The selected tables. Raises ConfigError if there are none, or if edited rules do not fit the
    followed tables as they are on the source now: the stored versions may be older than the rules.
    """
    chosen = await asyncio.to_thread(selected, source, known)
    followed = {id for id, it in known.items() if it.followed}
    if not followed.isdisjoint(mapping.edited) and isinstance(source, SnapshotSource):
        live = await asyncio.to_thread(source.catalog)
        mapping.check_edited([table for table in live if table.id in followed])
    return chosen
