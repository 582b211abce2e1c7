"""
What a source or a sink may offer so that a pipeline, or a table, goes on: places of the log that
are passed over, dead letters, repairs of rows, and a reset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from engine.change import Chunk, Operation, Row
from engine.schema import Table, TableId

__all__ = [
    "DeadLetter",
    "DeadLetterStore",
    "LostChanges",
    "PassesOver",
    "ReadsKeys",
    "RepairKeys",
    "RepairStore",
    "Resettable",
    "TooLarge",
    "count_dead_letters",
    "places_of",
]


class LostChanges(msgspec.Struct):
    """What a stream loses if it passes over a place of the log: the number of rows by table and
    operation, the beginnings of statements, and events that cannot be read. ``whole``: the whole
    transaction is passed over.
    """

    whole: bool = False
    rows: dict[tuple[TableId, Operation], int] = msgspec.field(default_factory=dict)
    statements: list[str] = msgspec.field(default_factory=list)
    unreadable: list[str] = msgspec.field(default_factory=list)


@runtime_checkable
class PassesOver(Protocol):
    """A source whose stream can pass over an event or a transaction that a user names."""

    def place(self, position: str) -> str:
        """The place of ``position`` in the log, in the form that people read and that ``pass_over``
        takes. Such a place stays as it is. Called on the event loop.
        """

    def pass_over(self, position: str, place: str, *, whole: bool, end: str) -> str:
        """``position`` with a later place that a stream from there passes over: that of an event,
        or with ``whole`` of a transaction, as errors have them. ``end`` is the log's end, which
        ``Source.position`` returned. Raises ConfigError. Called on the event loop.
        """

    def lost(self, position: str, place: str, *, whole: bool) -> LostChanges:
        """What a stream from ``position`` loses if it passes over ``place``. May block. Raises
        ConfigError if there is nothing at the place, and SourceError if that cannot be read.
        """
        ...


def places_of(source: object) -> Callable[[str], str]:
    """``PassesOver.place`` of a source. Positions of one without it stay as they are."""
    return source.place if isinstance(source, PassesOver) else str


class DeadLetter(msgspec.Struct, frozen=True):
    """A change of one row that the target refused, or that waits behind such a change.

    ``key`` is JSON, for people. ``images`` are the row's images (``engine.pipeline.dead_letters``).
    ``outcome`` is None while the letter is open. A closed letter has no images.
    """

    table: TableId
    key: str
    operation: Operation
    images: bytes
    error: str
    message: str
    position: str
    id: int = 0
    at: float = 0.0
    outcome: str | None = None


@runtime_checkable
class DeadLetterStore(Protocol):
    """A sink that keeps dead letters. All methods but the last two are the engine's."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """An error of the body that is not retryable undoes what was applied in it, no more."""
        ...

    async def add_dead_letter(self, letter: DeadLetter) -> None:
        """Store a letter, in the open transaction; open one if there is none."""
        ...

    async def dead_letters(self) -> list[DeadLetter]:
        """The open letters, in order."""
        ...

    async def close_dead_letters(self, id: TableId, letter: int | None, outcome: str) -> None:
        """Close one open letter of a table, or all of them (None), in the open transaction, and
        remove their images: nobody needs these rows any more.
        """
        ...

    async def read_dead_letters(self) -> list[DeadLetter]:
        """All letters, also closed ones, over a connection of its own."""
        ...

    async def count_dead_letters(self) -> dict[TableId, int]:
        """The number of open letters of each table that has some, over a connection of its own."""
        ...


class RepairKeys(msgspec.Struct, frozen=True):
    """The keys of rows of one table that a repair concerns, as canonical texts
    (``engine.toolkit.canonical``) in the order of the source's key. Those that are ``extra`` were
    found on the target alone.
    """

    differing: tuple[tuple[str, ...], ...] = ()
    extra: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        """The number of keys."""
        return len(self.differing) + len(self.extra)


@runtime_checkable
class RepairStore(Protocol):
    """A sink that keeps the keys of a repair beside its command, until that is concluded or
    cancelled. They are values of rows, so no log and no record has them.
    """

    async def submit_repair(self, command: str, by: str, keys: Mapping[TableId, RepairKeys]) -> int:
        """Store a command with its keys durably, over a connection of its own. Returns its number.
        Raises SinkError if no engine of this version has prepared the target.
        """

    async def repair_keys(self, id: int) -> dict[TableId, RepairKeys]:
        """The keys of a command. Called by the engine."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """As ``DeadLetterStore.savepoint``."""
        ...

    async def why_not_anew(self, table: Table) -> str:
        """Why rows of the target's table cannot be deleted and inserted in the open transaction: a
        foreign key or a trigger acts, or the target alone has columns, which lose their values.
        Empty if nothing but the row is concerned. Called by the engine.
        """
        ...


class TooLarge(Exception):
    """Rows are too large to be held in memory together."""


@runtime_checkable
class ReadsKeys(Protocol):
    """A source that reads single rows of its tables."""

    def rows_of_keys(
        self, table: Table, keys: Sequence[Row], low_watermark: str, most_bytes: int
    ) -> Chunk:
        """The rows with these keys, also such as only the source's collation takes for equal, in a
        chunk with its size and with the watermarks of ``SnapshotSource.chunks``. A key has the
        values of the key's columns. Raises ``ShapeChanged``, and ``TooLarge`` as soon as it has
        received more than ``most_bytes``. May block.
        """


@runtime_checkable
class Resettable(Protocol):
    """A sink that can forget a pipeline."""

    async def reset(self, *, drop: bool) -> int:
        """Forget all state of the pipeline, and remove unfinished twins; with ``drop`` drop its
        tables too. Returns the number of tables that were dropped. An engine that runs is fenced.
        """


async def count_dead_letters(sink: object) -> dict[TableId, int]:
    """The number of open dead letters of each table that has some. A sink may keep none."""
    return await sink.count_dead_letters() if isinstance(sink, DeadLetterStore) else {}
