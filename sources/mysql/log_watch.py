"""
Whether the server's log still is the one that the stream reads, while nothing new comes.

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

__all__ = ["LogWatch"]

#: How often the log is compared with the position.
_COMPARE_SECONDS: Final = 5.0
#: When it is compared again after it seemed to be another one: the stream may just have been behind
#: a log file that was purged.
_AGAIN_SECONDS: Final = 1.0


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
