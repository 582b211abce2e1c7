"""
Whether the server's log still is the one that the stream reads, while nothing new comes, and
whether the stream has read all of it.

A server that resets its log (``RESET BINARY LOGS AND GTIDS``) keeps the connections of its replicas
and goes on with its heartbeats, but sends nothing more. So a silent stream does not show whether
the source is idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from engine.errors import SourceError, SourceLost
from sources.mysql.position import MySQLPosition

__all__ = ["EndOfLog", "LogWatch"]

#: How often the log is compared with the position.
_COMPARE_SECONDS: Final = 5.0
#: When it is compared again after it seemed to be another one: the stream may just have been behind
#: a log file that was purged.
_AGAIN_SECONDS: Final = 1.0
#: A stream that receives nothing after a transaction that is not older has read the whole log.
_FRESH_SECONDS: Final = 0.25


class EndOfLog:
    """Whether a stream that receives nothing has read the whole log. If not, the server or the
    network pauses: a log that is behind would seem level, and its lag small.

    ``ask`` is the end of the log now, ``end`` the one that is known.
    """

    def __init__(self, ask: Callable[[], MySQLPosition], end: MySQLPosition) -> None:
        self._ask, self._end = ask, end

    def reached(self, position: MySQLPosition, age_seconds: float) -> bool:
        """Whether nothing follows ``position``, whose transaction was committed so long ago. Asks
        the server only if that does not say it, and not before the known end is reached.
        """
        if age_seconds < _FRESH_SECONDS:
            return True
        if not position.at_or_after(self._end):
            return False
        try:
            self._end = self._ask()
        except SourceLost:
            return False
        return position.at_or_after(self._end)


class LogWatch:
    """Calls ``confirm`` with the position of a stream that receives nothing new.

    ``confirm`` raises SourceError if the server's log is not the one that was read up to there.
    """

    def __init__(self, confirm: Callable[[MySQLPosition], None]) -> None:
        self._confirm = confirm
        self._due = time.monotonic() + _COMPARE_SECONDS
        #: The position at which the log seemed to be another one.
        self._suspect: MySQLPosition | None = None

    def wait_seconds(self, longest: float) -> float:
        """How long to wait for the log before the next ``look``."""
        return min(longest, _AGAIN_SECONDS if self._suspect is not None else _COMPARE_SECONDS)

    def look(self, position: MySQLPosition, *, new: bool) -> None:
        """Compare the log with ``position`` if it is time. ``new``: events have come.

        Raises the error of ``confirm`` if it repeats. A lost connection does not count: the
        stream notices by itself.
        """
        now = time.monotonic()
        if new:
            self._due, self._suspect = now + _COMPARE_SECONDS, None
        if now < self._due:
            return
        suspect, self._suspect = self._suspect, None
        self._due = now + _COMPARE_SECONDS
        try:
            self._confirm(position)
        except SourceLost:
            return
        except SourceError:
            if suspect == position:
                raise
            self._suspect, self._due = position, now + _AGAIN_SECONDS
