"""
What the last comparison of a table has found, which a sink may keep for the status.

A proof says how a table was at a moment of the past. What changes the table later does not change
the proof: its age says how much of the present it covers. It is removed with the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import msgspec

from engine.schema import Table, TableId

__all__ = [
    "ProofOutcome",
    "ProofStore",
    "Resumes",
    "TableProof",
    "Unfinished",
    "UnfinishedStore",
    "read_proofs",
    "void_proofs",
]

ProofOutcome = Literal["equal", "different", "inconclusive"]


class TableProof(msgspec.Struct, frozen=True):
    """The outcome of the last comparison of a table.

    ``position`` is the place of the source's log that the target had reached when the comparison
    began, at ``started_at``: each row was compared as of this place or a later one, and what the
    pipeline has applied since is in the log after it. It is empty once the table has another
    generation (``State.generations``), because then the proof is not one of the rows that are
    there. ``rows`` were read from the source, ``differences`` of them or of the target's are
    different, and ``hot`` changed too fast to be compared. ``reason`` says why an ``inconclusive``
    comparison proves nothing. ``method`` says how rows were compared, and ``sampled`` that only
    some were.

    ``equal_at`` is when the last comparison began that found the table equal; None if none did.
    ``first_at`` is when the first comparison of the table began, which the store adds. Times are
    Unix seconds.
    """

    outcome: ProofOutcome
    started_at: float
    ended_at: float
    position: str = ""
    rows: int = 0
    differences: int = 0
    hot: int = 0
    method: str = "rows"
    sampled: bool = False
    reason: str = ""
    equal_at: float | None = None
    first_at: float | None = None


class Unfinished(msgspec.Struct, frozen=True):
    """How far the comparison of a table has got: the rows with keys up to ``after`` have been
    compared, and none of them is undecided but those with the keys ``hot``, which are rechecked at
    the end, and ``unfound`` rows that are read and that no lookup finds.

    ``started_at``, ``position`` and ``seconds`` are as in the outcome, which counts from there:
    when the comparison began, the place that the target had reached then, and how long it has
    lasted.
    ``rows`` of the source have been compared, ``read`` of them one by one, with ``counts`` of
    differences by kind. ``source`` and ``target`` are the checksums so far. ``version`` tells
    whether the table is still the same. Neither the rows that differ nor the values that policies
    have replaced are kept: a comparison that goes on from here lists those of its own part alone.
    """

    started_at: float
    position: str
    seconds: float
    after: tuple[str | None, ...]
    rows: int
    read: int
    counts: dict[str, int]
    source: tuple[int, int, int]
    target: tuple[int, int, int]
    version: str = ""
    hot: tuple[tuple[str | None, ...], ...] = ()
    unfound: int = 0


class Resumes(Protocol):
    """Keeps how far comparisons have got."""

    def unfinished(self, table: Table) -> Unfinished | None:
        """Where the comparison of this table goes on; None if it begins."""

    def is_time(self) -> bool:
        """Whether it is time to save."""

    async def save(self, table: Table, unfinished: Unfinished) -> None:
        """Keep this."""


@runtime_checkable
class UnfinishedStore(Protocol):
    """A sink that keeps the comparisons that have not ended, each method over its own connection.
    It forgets that of a table which is not live any more, because its rows may be others then."""

    async def save_unfinished(self, id: TableId, unfinished: Unfinished | None) -> None:
        """Store how far the comparison of a table has got; None if it has ended."""
        ...

    async def unfinished(self) -> dict[TableId, Unfinished]:
        """What is stored."""
        ...


@runtime_checkable
class ProofStore(Protocol):
    """A sink that keeps the last proof of each table, each method over its own connection."""

    async def save_proofs(
        self, proofs: Mapping[TableId, TableProof], generations: Mapping[TableId, int]
    ) -> None:
        """Store the proofs of some tables, each with the generation that the table had when the
        comparison began. One without ``equal_at`` leaves the table's value as it is, and
        ``first_at`` is that of the first one. Raises SinkError if the pipeline has no state in
        today's layout, or for want of a right.
        """
        ...

    async def proofs(self) -> dict[TableId, TableProof]:
        """The stored proofs."""
        ...

    async def void_proofs(self) -> None:
        """Give each table another generation, because others may have written to the target."""
        ...


async def read_proofs(sink: object) -> dict[TableId, TableProof]:
    """The stored proofs. A sink may keep none."""
    return await sink.proofs() if isinstance(sink, ProofStore) else {}


async def void_proofs(sink: object) -> None:
    """Void the stored proofs. A sink may keep none."""
    if isinstance(sink, ProofStore):
        await sink.void_proofs()
