"""
What follows a change that the log does not show exactly: the policy ``unlogged_change``.

The error ends the attempt. The next attempt starts from the checkpoint, which is before the change,
and stops following the table there. So nothing depends on where in a batch the change is. A table
that is to be backfilled again is then discovered anew, because its shape may have changed, too.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from engine.contract import Sink, SnapshotSource, Source
from engine.errors import UnloggedChange
from engine.pipeline.writer import TargetWriter
from engine.schema import TableId
from engine.settings.loader import BackfillSettings

__all__ = ["UnloggedChanges"]

#: A table is quarantined instead of being backfilled again more often than this …
MOST_BACKFILLS = 10
#: … in this time.
WINDOW_SECONDS = 3600.0

_SET: Final = 'set unlogged_change = "backfill" in [backfill]'
_NEVER: Final = "it was to be backfilled again, and the configuration does not allow that now"
_AGAIN: Final = "start the engine again: it reads the table again"

log = logging.getLogger("tailrace.pipeline")


class UnloggedChanges:
    """The tables of such changes, from the error to the commit that records them."""

    def __init__(self, name: str, source: Source, sink: Sink, settings: BackfillSettings) -> None:
        self._name = name
        self._settings = settings
        can = sink.capabilities
        self._can_backfill = (
            isinstance(source, SnapshotSource)
            and settings.mode != "never"
            and can.schema_changes
            and can.transactional
        )
        self._taken: list[tuple[UnloggedChange, bool]] = []
        self._times: dict[TableId, deque[float]] = {}

    @property
    def backfills(self) -> bool:
        """Whether a table is backfilled again, so that a quarantined one need not stay so."""
        return self._can_backfill and self._settings.unlogged_change == "backfill"

    def take(self, error: UnloggedChange) -> None:
        """Note the table of ``error``, or raise it if the policy is to stop."""
        if self._settings.unlogged_change == "stop":
            raise _stop(error)
        quarantine = not self.backfills or error.moved or self._is_frequent(error.id)
        self._taken.append((error, quarantine))
        log.warning(
            "the table is quarantined, its changes are not applied any more"
            if quarantine
            else "the table is backfilled again",
            extra={
                "pipeline": self._name,
                "table": error.table,
                "position": error.position,
                "reason": error.message,
                "hint": self._hint(error) if quarantine else "",
            },
        )

    def _hint(self, error: UnloggedChange) -> str:
        """How a quarantined table is followed again."""
        if error.moved or not self._can_backfill:
            return error.hint
        return _and_start(error.hint, _AGAIN if self.backfills else f"{_SET}, {_AGAIN}")

    def _is_frequent(self, id: TableId) -> bool:
        """Whether the table would be backfilled again and again, and never be finished."""
        times = self._times.setdefault(id, deque(maxlen=MOST_BACKFILLS))
        now = time.monotonic()
        full = len(times) == MOST_BACKFILLS and now - times[0] < WINDOW_SECONDS
        times.append(now)
        return full

    async def record(self, writer: TargetWriter, waiting: Sequence[TableId]) -> None:
        """Stop following the noted tables, and commit that.

        Of ``waiting``, the tables that wait to be backfilled again, none can be if the
        configuration has changed since; then they are quarantined.
        """
        for error, quarantine in self._taken:
            await writer.leave(error.id, error.message, quarantine=quarantine)
        left = () if self._can_backfill else waiting
        for id in left:
            await writer.leave(id, _NEVER, quarantine=True)
        if self._taken or left:
            await writer.commit()
        self._taken.clear()


def _stop(error: UnloggedChange) -> UnloggedChange:
    return UnloggedChange(
        error.message,
        hint=_and_start(error.hint, f"{_SET}, {_AGAIN}"),
        table=error.id,
        position=error.position,
    )


def _and_start(hint: str, more: str) -> str:
    if more in hint:
        return hint
    return f"{hint.rstrip('.')}; {more}" if hint else more
