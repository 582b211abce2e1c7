"""
What a pipeline has done: the counters behind its status, and the work that is in a batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.change import Change, Commit, Rows
from engine.ops.metrics import Work
from engine.schema import TableId

__all__ = ["Counters", "WorkCounter"]

#: The interval of heartbeats before it is known, and the shortest that counts.
HEARTBEAT_SECONDS = 5.0
LEAST_INTERVAL_SECONDS = 1.0
#: A heartbeat is overdue after so many intervals. Then the source may be away.
OVERDUE = 1.5


class Counters:
    """What a pipeline has done since the process started, over all attempts.

    ``rows`` counts row changes of the stream, ``backfilled_rows`` rows of backfills.
    ``current_at`` is the last time, on the source's clock, at which the target is known to have
    equalled the source: the commit time of the last applied transaction, or the time of the last
    heartbeat that said that nothing is left to read. It is 0.0 until it is known.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.backfilled_rows = 0
        self.reconnects = 0
        #: The tables and columns with values that a policy changed, with the policy.
        self.replaced: set[tuple[TableId, str, str]] = set()
        self.current_at = 0.0
        #: When the source committed the last change of each table, as far as that is not stored.
        self.changed: dict[TableId, float] = {}
        #: The position of the last commit, and its time on the clock ``time.monotonic``.
        self.position = ""
        self._committed: float | None = None
        #: Whether nothing is left to read and apply, as far as the last heartbeat tells.
        self.silent = False
        #: The time between two heartbeats of a silent log, and the longest that it may be.
        self.interval = self._longest_interval = HEARTBEAT_SECONDS

    def expect_heartbeats(self, seconds: float) -> None:
        """A silent log has a heartbeat each time so many seconds have passed."""
        self.interval = self._longest_interval = seconds

    def beat(self, at: float, *, moved: bool = True) -> None:
        """A heartbeat says that the target equals the source at this Unix time. ``moved``: the log
        has grown since the last one, so this one does not show at which intervals they come.
        """
        if self.silent and not moved:
            # A longer time is that of a clock that was set.
            found = min(at - self.current_at, self._longest_interval)
            self.interval = max(LEAST_INTERVAL_SECONDS, found)
        self.current_at = at

    def begin(self, at: float) -> None:
        """A transaction is about to be applied that the source committed at this Unix time (0.0 if
        it is unknown). Until then the target equalled the source, as far as it did before.
        """
        self.silent = False
        if self.current_at:
            self.current_at = max(self.current_at, at)

    def committed(self, position: str) -> None:
        """The target has committed everything up to a position."""
        self.position, self._committed = position, time.monotonic()

    def lag_seconds(self, now: float, waiting_since: float = 0.0) -> float | None:
        """The age of the target's state: 0 on an idle source, as long as its heartbeats come, and
        growing while either database is unreachable. None until it is known. ``now`` is the time on
        the source's clock.

        ``waiting_since`` is when the source committed the first transaction that was read and is
        not being applied, because the target is busy; 0.0 if there is none.
        """
        if not self.current_at:
            return None
        # The clock was set back.
        self.current_at = min(self.current_at, now)
        if self.silent and waiting_since:
            # A session may set the time of its statements to one in the future.
            waiting_since = waiting_since if waiting_since <= now else 0.0
            return max(0.0, now - max(self.current_at, waiting_since))
        age = max(0.0, now - self.current_at)
        return 0.0 if self.silent and age < OVERDUE * self.interval else age

    @property
    def checkpoint_age_seconds(self) -> float | None:
        """The time since the last commit; None before the first one of this process."""
        return None if self._committed is None else time.monotonic() - self._committed


class WorkCounter:
    """Counts the work in the changes that are applied together, by table and operation.

    A transaction that is applied in several pieces counts once.
    """

    def __init__(self) -> None:
        #: What was counted for the transaction that has not ended.
        self._open: set[tuple[TableId, str]] = set()
        #: When the source committed the last change of each table, until ``take_times``.
        self._times: dict[TableId, float] = {}

    def take_times(self) -> dict[TableId, float]:
        """When the source committed the last change of each table that was counted since the last
        call.
        """
        times, self._times = self._times, {}
        return times

    def count(self, changes: Sequence[Change]) -> dict[tuple[TableId, str], Work]:
        """The rows, bytes and transactions."""
        work: dict[tuple[TableId, str], Work] = {}
        ended = 0
        times: list[float] = []
        for change in changes:
            if type(change) is Commit:
                ended += 1
                times.append(change.committed_at)
            elif type(change) is Rows:
                key = (change.table.id, change.op)
                it = work.get(key)
                if it is None:
                    it = work[key] = Work(0 if key in self._open else -1)
                it.rows += len(change)
                it.size += change.size
                if it.transaction != ended:
                    it.transaction = ended
                    it.transactions += 1
        if ended:
            last = dict.fromkeys(self._open, 0)
            last.update((key, it.transaction) for key, it in work.items() if it.transaction < ended)
            for (id, op), transaction in last.items():
                if op != "read" and (at := times[transaction]):
                    self._times[id] = max(at, self._times.get(id, 0.0))
            self._open = set()
        self._open.update(key for key, it in work.items() if it.transaction == ended)
        return work
