"""
What a source and a target offer to a cutover, and the record that is kept of it.

The record is in the target, and is written before what it says is done. So a process that takes
over after a crash knows what may have happened, and how the source took writes before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from math import inf
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from engine.errors import SinkError
from engine.schema import Table, TableId
from engine.structure import Counter

__all__ = [
    "BEFORE_SWITCH",
    "ENDED",
    "Changed",
    "Client",
    "Connected",
    "Cutover",
    "CutoverState",
    "CutoverStore",
    "Finished",
    "Freezable",
    "Freezer",
    "KeepsCutovers",
    "Numbers",
    "Obstacle",
    "ProvenTable",
    "Sides",
    "Since",
    "StepRecord",
    "is_switched",
    "known_cutover",
]

CutoverState = Literal[
    "freeze",
    "drain",
    "verify",
    "finish",
    "arm",
    "switch",
    "stop",
    "done",
    "switch_back",
    "abort",
    "aborted",
    "rehearsed",
]

#: The states in which no application can have been switched yet.
BEFORE_SWITCH: Final[tuple[CutoverState, ...]] = ("freeze", "drain", "verify", "finish", "arm")
#: The states of a record to which nothing is added any more.
ENDED: Final[tuple[CutoverState, ...]] = ("done", "aborted", "rehearsed")


class StepRecord(msgspec.Struct, frozen=True):
    """A step that was done: when it began (Unix seconds), how long it took, what it did, and in the
    words of before it, what it would do and how to undo it.
    """

    step: str
    started_at: float
    seconds: float
    did: str
    will: str = ""
    undo: str = ""


class Sides(msgspec.Struct, frozen=True):
    """The versions: of Tailrace, and of the servers of both sides, with their addresses, which have
    no user and no password.
    """

    tailrace: str = ""
    source: str = ""
    source_address: str = ""
    target: str = ""
    target_address: str = ""


class ProvenTable(msgspec.Struct, frozen=True):
    """A table that a cutover has proven equal. If it was not ``compared`` in the cutover, the last
    comparison before it holds: the log has no change of the table after its ``position``.

    ``began_at`` is when the comparison began, in Unix seconds, ``position`` the end of the source's
    log then, and ``method`` how rows were compared. ``replaced`` says what value policies changed,
    which is no difference, such as ``zero dates that became NULL in due: 17``. A proof from before
    has neither it nor a ``checksum``.
    """

    table: str
    rows: int
    began_at: float
    seconds: float
    position: str
    method: str
    compared: bool = True
    checksum: str = ""
    replaced: tuple[str, ...] = ()


class Cutover(msgspec.Struct, frozen=True):
    """A cutover, in the ``state`` that it is about to do or doing, or the record of a rehearsal,
    whose state is ``rehearsed``.

    ``before`` is the source's own text about how it took writes before the freeze, None before the
    freeze began. ``start`` is the end of the log when the cutover began, ``end`` that of the frozen
    log. The downtime begins at ``frozen_at``, when the freeze was begun, and ends at
    ``switched_at``. ``reason`` says why it was aborted. Times are Unix seconds. ``direction`` is
    that in which the pipeline replicates.

    ``predicted`` has the seconds of each step of the downtime that the last rehearsal took, and
    ``predicted_at`` when that was. ``warnings`` are those of the steps. ``proofs`` say how each
    table was proven equal. ``freezes`` counts the calls of the hook ``freeze``. ``reset_at`` is
    when the pipeline was reset after it was done, so that an engine may run again.
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
    pipeline: str = ""
    sides: Sides = Sides()
    start: str = ""
    ended_at: float | None = None
    predicted: Mapping[str, float] = {}
    predicted_at: float | None = None
    warnings: tuple[str, ...] = ()
    proofs: tuple[ProvenTable, ...] = ()
    freezes: int = 0
    reset_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ENDED

    @property
    def downtime_seconds(self) -> float | None:
        """From the freeze to the switch; None if it was not switched."""
        if self.frozen_at is None or self.switched_at is None:
            return None
        return self.switched_at - self.frozen_at

    @property
    def predicted_seconds(self) -> float | None:
        """The predicted downtime, without the time of hooks; None without a rehearsal."""
        return sum(self.predicted.values()) if self.predicted else None


class Numbers(msgspec.Struct, frozen=True):
    """How far the sequences of a target have to go: ``margin`` past the maximum of their column,
    and past what the source's ``counters`` have given, by table of the target.
    """

    margin: int
    counters: Mapping[TableId, Counter] = {}


class Finished(msgspec.Struct, frozen=True):
    """What was done so that applications can write to the target.

    ``sequences`` were set past all numbers of their column, ``constraints`` were validated, and
    ``tables`` have new statistics. ``left`` names what is as it was, with the reason.
    """

    sequences: int
    constraints: int
    tables: int
    left: tuple[str, ...] = ()


class Obstacle(msgspec.Struct, frozen=True):
    """What keeps tables of a target from being made ready, and what to do about it."""

    reason: str
    remedy: str


class Client(msgspec.Struct, frozen=True):
    """Sessions on a target that may write tables of a pipeline, and are not Tailrace's. ``writes``:
    one of them is about to commit rows.
    """

    name: str
    sessions: int
    writes: bool


class Connected(NamedTuple):
    """The other users that are connected to a source, each with the number of sessions. ``hidden``
    says why there may be more; empty if there are not.
    """

    users: tuple[str, ...] = ()
    hidden: str = ""


class Since(NamedTuple):
    """A position of the log, and a moment at which the log had it, in Unix seconds of the host that
    compared, whose clock is taken for that of this one: a log with the same place may have been
    begun after that. ``inf``: it was not.
    """

    position: str
    at: float = inf


class Changed(msgspec.Struct, frozen=True):
    """The tables that the log may have changed. ``reason`` says why that are all, if they are."""

    tables: frozenset[TableId]
    reason: str = ""


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

    def newest_session(self) -> int:
        """The number of a session that begins now. Later ones have greater numbers."""
        ...

    def clients(self, until: int | None = None) -> Connected:
        """The other users that are connected to the source; ``until``: by sessions with numbers up
        to this one.
        """
        ...

    def changed(self, since: Mapping[Table, Since], seconds: float) -> Changed:
        """Those of the tables that the log up to its end now may have changed after the position of
        each. A table that is left out was not changed by anything that the log shows. Raises
        SourceError if the log cannot be read from there, or not in ``seconds``, or may have been
        reset.
        """
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

    async def finish(self, tables: Sequence[TableId], numbers: Numbers) -> Finished:
        """Make tables ready for writers: set each sequence of a column past all ``numbers``,
        validate constraints, and collect statistics. May be called again.
        """
        ...

    async def obstacles(self, tables: Sequence[TableId], numbers: Numbers) -> list[Obstacle]:
        """What would keep ``finish`` from its end now. Changes nothing."""
        ...

    async def clients(self, tables: Sequence[TableId]) -> list[Client]:
        """The others who may write these tables and are connected now."""
        ...


async def known_cutover(sink: object) -> Cutover | None:
    """The newest cutover of the pipeline as it is; None if there is none."""
    newest = None
    if isinstance(sink, KeepsCutovers):
        with suppress(SinkError):  # a record of a newer version
            newest = await sink.newest_cutover()
    return None if newest is None or newest.reset_at is not None else newest


def is_switched(cutover: Cutover | None) -> bool:
    """Whether a cutover is done, so that applications write to the target."""
    return cutover is not None and cutover.state == "done" and cutover.direction == "forward"
