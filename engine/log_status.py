"""
What a source may tell of its log for the status, beside its size (``Source.backlog``). A source
need not tell any of it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

__all__ = ["DescribesLog", "LogAhead", "MeasuresWaits"]


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
