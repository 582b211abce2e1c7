"""
What follows trouble with one table: the policies ``unlogged_change`` and ``on_error``.

A change that the log does not show exactly is one kind of trouble; an error that concerns one table
alone is the other: a statement that cannot be read, rows that do not fit their table, a value or a
constraint that the target refuses.

The error ends the attempt. The next attempt starts from the checkpoint, which is before the change,
and stops following the table there. So nothing depends on where in a batch the change is. A table
that is to be backfilled again is then discovered anew, because its shape may have changed, too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from engine.checkpoint import Cause, LeftState
from engine.contract import Sink, SnapshotSource, Source
from engine.errors import SchemaError, TailraceError, UnloggedChange
from engine.pipeline.dead_letters import DeadLetters
from engine.pipeline.events import Events
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.writer import TargetWriter
from engine.recovery import places_of
from engine.remedies import BACKFILL, and_then
from engine.schema import TableId
from engine.settings.loader import BackfillSettings, ErrorSettings

__all__ = ["UnloggedChanges"]

#: A table is quarantined instead of being backfilled again more often than this …
MOST_BACKFILLS = 10
#: … in this time.
WINDOW_SECONDS = 3600.0

_UNLOGGED: Final = 'set unlogged_change = "backfill" in [backfill]'
_QUARANTINE: Final = 'set on_error = "quarantine" in [errors]'
_INITIAL: Final = 'set mode = "initial" in [backfill], then `tailrace run CONFIG`'
_ANEW: Final = (
    "when the cause is removed, `tailrace reset CONFIG --drop` and then `tailrace run CONFIG` begin"
    " anew"
)
_NEVER: Final = "it was to be backfilled again, and the configuration does not allow that now"
_START: Final = "`tailrace run CONFIG` goes on with the other tables then"


class UnloggedChanges:
    """The tables in trouble, from the error to the commit that records them."""

    def __init__(
        self,
        name: str,
        source: Source,
        sink: Sink,
        settings: BackfillSettings,
        errors: ErrorSettings,
        events: Events,
    ) -> None:
        self._settings = settings
        self._errors = errors
        self._events = events
        #: The place of a position in the source's log, in the form that people read.
        self.place = places_of(source)
        #: The rows that the target refuses.
        self.letters = DeadLetters(name, sink, errors, self.place)
        #: Why a table cannot be backfilled again; empty if it can.
        self.why_not_backfilled = _why_not_backfilled(source, sink, settings)
        #: Whether a part of a table is backfilled again where that is enough.
        self.reads_parts = (
            not self.why_not_backfilled
            and settings.unlogged_change == "backfill"
            and sink.capabilities.parts
        )
        #: Whether new columns of a table are backfilled alone where that is enough.
        self.reads_columns = (
            not self.why_not_backfilled
            and settings.unlogged_change == "backfill"
            and sink.capabilities.columns
        )
        self._taken: list[tuple[TableId, Cause, LeftState, bool | None]] = []
        self._times: dict[TableId, deque[float]] = {}

    def take(self, error: TailraceError, id: TableId, stored_id: TableId | None = None) -> None:
        """Note the table ``id`` of ``error``, or raise it if the policy is to stop. Nothing is
        noted if the next attempt tells which table it is.

        ``stored_id`` is the table's name in the checkpoint, from which the next attempt begins.
        """
        if error.undecided or self.letters.guard(error, id):
            return
        id = stored_id or id
        again = (
            isinstance(error, UnloggedChange)
            and self._settings.unlogged_change == "backfill"
            and not self.why_not_backfilled
            and not error.moved
            and not self._is_frequent(id)
        )
        if not again:
            self._may_quarantine(error, id)
        cause = Cause(
            error.message,
            "" if again else self._hint(error),
            error.position or "",
            error.statement,
            time.time(),
        )
        state: LeftState = "pending" if again else "quarantined"
        needs_twin = isinstance(error, UnloggedChange) and error.needs_twin
        self._taken.append((id, cause, state, False if needs_twin else None))
        self._events.left(id, state, cause, type(error).__name__)

    async def leave_in_place(self, writer: TargetWriter, id: TableId, reason: str) -> bool:
        """Have a table that waits to be backfilled in place, and cannot be any more, backfilled
        into a twin. False if the policy does not say so.
        """
        if self._settings.unlogged_change != "backfill":
            return False
        cause = Cause(reason, at=time.time())
        await writer.leave(id, cause, "pending", in_place=False)
        self._events.left(id, "pending", cause, SchemaError.__name__)
        return True

    def _may_quarantine(self, error: TailraceError, id: TableId) -> None:
        """Raise the error, with the way on, if a policy says that the pipeline stops."""
        unlogged = self._settings.unlogged_change if isinstance(error, UnloggedChange) else ""
        if unlogged == "quarantine":
            return
        if unlogged == "stop":
            error.hint = and_then(error.hint, _UNLOGGED, _START)
            raise error
        if self._errors.policy(id) == "stop":
            error.hint = and_then(error.hint, _QUARANTINE, _START)
            raise error

    def _hint(self, error: TailraceError) -> str:
        """How a quarantined table is followed again."""
        if isinstance(error, UnloggedChange) and error.moved:
            return error.hint
        if not self.why_not_backfilled:
            return and_then(error.hint, BACKFILL)
        if self._settings.mode == "never":
            return and_then(error.hint, _INITIAL, BACKFILL)
        return and_then(error.hint, _ANEW)

    def _is_frequent(self, id: TableId) -> bool:
        """Whether the table would be backfilled again and again, and never be finished."""
        times = self._times.setdefault(id, deque(maxlen=MOST_BACKFILLS))
        now = time.monotonic()
        full = len(times) == MOST_BACKFILLS and now - times[0] < WINDOW_SECONDS
        times.append(now)
        return full

    async def record(
        self, writer: TargetWriter, tracker: ProgressTracker, outdated: Sequence[UnloggedChange]
    ) -> None:
        """Stop following the noted tables, and those that are ``outdated``, and commit that.

        Tables that wait to be backfilled again cannot be if the configuration has changed since;
        then they are quarantined.
        """
        for error in outdated:
            if tracker.progress[error.id].followed:
                self.take(error, error.id)
        await self.letters.load(writer.tables)
        for id, cause, state, in_place in self._taken:
            await writer.leave(id, cause, state, in_place=in_place)
        left = tracker.waiting if self.why_not_backfilled else ()
        for id in left:
            cause = Cause(_NEVER, and_then(_INITIAL, BACKFILL), at=time.time())
            await writer.leave(id, cause, "quarantined")
        if self._taken or left:
            await writer.commit()
        self._taken.clear()


def _why_not_backfilled(source: Source, sink: Sink, settings: BackfillSettings) -> str:
    if not isinstance(source, SnapshotSource):
        return "the source is a log without a server, so its tables cannot be read again"
    if settings.mode == "never":
        return 'mode = "never" in [backfill] forbids to read tables'
    if not (sink.capabilities.schema_changes and sink.capabilities.transactional):
        return "this target cannot replace a table, so none can be read again"
    return ""
