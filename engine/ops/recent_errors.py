"""
The last errors of a pipeline, with what to do about each, as its status shows them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import msgspec

from engine.errors import TailraceError
from engine.remedies import remedy_of

__all__ = ["ErrorStatus", "RecentErrors"]

#: How many errors are kept.
KEPT = 20


class ErrorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An error that ended an attempt of the pipeline; the same one again and again is one of these.

    ``kind`` is its class. ``remedy`` says what to type. ``retried`` tells whether the pipeline
    tries again by itself. ``since`` and ``at`` are Unix times: the first and the last of ``count``.
    """

    kind: str
    message: str
    remedy: str = ""
    table: str = ""
    position: str = ""
    retried: bool = False
    count: int = 1
    since: float
    at: float


class RecentErrors:
    """The last errors, the newest first. ``config`` is for the command lines in remedies."""

    def __init__(self, config: str = "", clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._errors: deque[ErrorStatus] = deque(maxlen=KEPT)

    def add(self, error: TailraceError) -> None:
        """Take note of an error."""
        now = self._clock()
        new = ErrorStatus(
            kind=type(error).__name__,
            message=error.message,
            remedy=remedy_of(error, self._config),
            table=error.table or "",
            position=error.position or "",
            retried=error.retryable,
            since=now,
            at=now,
        )
        for old in self._errors:
            if (old.kind, old.message, old.table) == (new.kind, new.message, new.table):
                self._errors.remove(old)
                new = msgspec.structs.replace(new, since=old.since, count=old.count + 1)
                break
        self._errors.appendleft(new)

    def retried(self) -> None:
        """The newest error is retried."""
        if self._errors:
            self._errors[0] = msgspec.structs.replace(self._errors[0], retried=True)

    def shown(self) -> tuple[ErrorStatus, ...]:
        """The errors, the newest first."""
        return tuple(self._errors)
