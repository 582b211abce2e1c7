"""
What a source may tell of its log, its clock and its load, beside the log's size
(``Source.backlog``). A source need not tell any of it.
"""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import msgspec

__all__ = [
    "DescribesLog",
    "HasClock",
    "LogAhead",
    "MeasuresWaits",
    "TellsHeartbeat",
    "TellsLoad",
    "clock_ahead_of",
    "now_at",
]


class LogAhead(msgspec.Struct, frozen=True):
    """What a source's log holds after a position, and how long it keeps it. None is unknown.

    ``kept_seconds`` is the least time until the server may delete the log at the position; None
    also if it never does.
    """

    transactions: int | None = None
    kept_seconds: float | None = None


@runtime_checkable
class DescribesLog(Protocol):
    """A source that knows more of its log than its size."""

    def log_ahead(self, position: str, lag_seconds: float) -> LogAhead:
        """What the log holds after ``position``, whose age is ``lag_seconds``. May block."""


@runtime_checkable
class MeasuresWaits(Protocol):
    """A source whose stream tells waiting for its server from decoding."""

    @property
    def waited_seconds(self) -> float:
        """How long the streams have waited for the server, since the source was made. Called on the
        thread of the stream.
        """


@runtime_checkable
class TellsHeartbeat(Protocol):
    """A source that knows how often a log to which nothing is added has a heartbeat. If one is
    overdue, the source may be away.
    """

    heartbeat_seconds: float


@runtime_checkable
class TellsLoad(Protocol):
    """A source that tells how busy it is with the work of others."""

    def threads_running(self) -> int:
        """How many threads of the server execute a statement now, without those of Tailrace: the
        one that asks, and the one that sends the log to the engine. May block.
        """


@runtime_checkable
class HasClock(Protocol):
    """A source whose times are those of a clock that may differ from that of this host."""

    @property
    def clock_ahead_seconds(self) -> float | None:
        """By how much that clock is ahead; 0.0 if the difference is too small to be known. None
        until it is compared. Does not block.
        """


def clock_ahead_of(source: object) -> float | None:
    """``clock_ahead_seconds`` of a source; None also if it has no clock."""
    return source.clock_ahead_seconds if isinstance(source, HasClock) else None


def now_at(source: object) -> float:
    """The time now on the clock of a source, in Unix seconds, as far as its difference is known."""
    return time.time() + (clock_ahead_of(source) or 0.0)
