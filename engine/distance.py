"""
What a sink can do so that a target that is far away is not slow: more in one round trip.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol, runtime_checkable

from engine.change import Change, Rows
from engine.checkpoint import Checkpoint
from engine.contract import Applied
from engine.schema import TableId

__all__ = ["AppliesAtOnce", "AppliesReads", "KnowsDistance"]


@runtime_checkable
class AppliesAtOnce(Protocol):
    """A sink that can apply and commit in one round trip."""

    async def apply_and_commit(
        self, changes: Sequence[Change], in_backfill: Collection[TableId], checkpoint: Checkpoint
    ) -> Applied | None:
        """As ``Sink.apply``, then ``commit``. None, with nothing changed, if these changes need
        more than one round trip; ``apply`` then tells the reason, too.
        """
        ...


@runtime_checkable
class AppliesReads(Protocol):
    """A sink that can apply the rows of a backfill while more of them are read."""

    async def apply_reads(self, reads: AsyncIterator[Rows]) -> Applied:
        """As ``Sink.apply`` with runs of operation ``read``, all of one version of one table. The
        next run is asked for when the one before was sent, and all of them are applied at the end.
        """
        ...


@runtime_checkable
class KnowsDistance(Protocol):
    """A sink that knows how far away its target is."""

    @property
    def round_trip_seconds(self) -> float:
        """The time of a round trip to the target, as ``open`` has measured it."""
        ...
