"""
What a source and a target offer to a cutover, and the record that is kept of it.

The record is in the target, and is written before what it says is done. So a process that takes
over after a crash knows what may have happened, and how the source took writes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec

from engine.schema import TableId

__all__ = [
    "BEFORE_SWITCH",
    "Cutover",
    "CutoverState",
    "CutoverStore",
    "Finished",
    "Freezable",
    "Freezer",
    "KeepsCutovers",
    "StepRecord",
]

CutoverState = Literal[
    "freeze", "drain", "verify", "finish", "arm", "switch", "stop", "done", "abort", "aborted"
]

#: The states in which no application can have been switched yet.
BEFORE_SWITCH: Final[tuple[CutoverState, ...]] = ("freeze", "drain", "verify", "finish", "arm")


class StepRecord(msgspec.Struct, frozen=True):
    """A step that was done: when it began (Unix seconds), how long it took, what it did."""

    step: str
    started_at: float
    seconds: float
    did: str


class Cutover(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cutover, in the ``state`` that it is about to do or doing.

    ``before`` is the source's own text about how it took writes before the freeze, None before the
    freeze began. ``end`` is the end of the frozen log. The downtime begins at ``frozen_at``, when
    the freeze was begun, and ends at ``switched_at``. ``reason`` says why it was aborted. Times
    are Unix seconds. ``direction`` is that in which the pipeline replicates.
    """

    id: str
    state: CutoverState
    started_at: float
    by: str
    direction: Literal["forward", "back"] = "forward"
    before: str | None = None
    end: str = ""
    frozen_at: float | None = None
    switched_at: float | None = None
    steps: tuple[StepRecord, ...] = ()
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "aborted")

    @property
    def downtime_seconds(self) -> float | None:
        """From the freeze to the switch; None if it was not switched."""
        if self.frozen_at is None or self.switched_at is None:
            return None
        return self.switched_at - self.frozen_at


class Finished(msgspec.Struct, frozen=True):
    """What was done so that applications can write to the target.

    ``sequences`` were set past the maximum of their column, ``constraints`` were validated, and
    ``tables`` have new statistics. ``left`` names what is as it was, with the reason.
    """

    sequences: int
    constraints: int
    tables: int
    left: tuple[str, ...] = ()


class Freezer(Protocol):
    """Stops all writes to a source, and lets them go on. Methods may block, and raise
    SourceError.
    """

    def before(self) -> str:
        """How the source takes writes now, as text for ``thaw``."""
        ...

    def why_not(self) -> str:
        """Why the user cannot freeze the source; empty if it can. Changes nothing."""
        ...

    def freeze(self, seconds: float) -> None:
        """Refuse all writes from now on. Waits up to ``seconds`` for statements that are executed.
        May be called again.
        """
        ...

    def is_frozen(self) -> bool:
        """Whether the source refuses writes."""
        ...

    def thaw(self, before: str) -> None:
        """Put the source back as it was ``before``. May be called again."""
        ...

    def clients(self) -> list[str]:
        """The other users that are connected to the source, each with the number of connections."""
        ...

    def close(self) -> None:
        """Close the connection. Idempotent."""
        ...


@runtime_checkable
class Freezable(Protocol):
    """A source whose writes can be stopped."""

    def freezer(self) -> Freezer:
        """A freezer with a connection of its own."""
        ...


class CutoverStore(Protocol):
    """The cutovers of a pipeline, for the one process that works on them."""

    async def save(self, cutover: Cutover) -> None:
        """Store a cutover durably, in the place of its earlier record."""

    async def newest(self) -> Cutover | None:
        """The newest cutover."""


@runtime_checkable
class KeepsCutovers(Protocol):
    """A target that applications can be switched to."""

    def cutover_store(self) -> AbstractAsyncContextManager[CutoverStore]:
        """The store, with a connection of its own. Raises SinkError while another process has it,
        or if the pipeline has no state in today's layout.
        """
        ...

    async def newest_cutover(self) -> Cutover | None:
        """The newest cutover, also while a process works on it."""
        ...

    async def finish(self, tables: Sequence[TableId], margin: int) -> Finished:
        """Make tables ready for writers: set each sequence of a column ``margin`` past the column's
        maximum, validate constraints, and collect statistics. May be called again.
        """
        ...
