"""
What a sink may offer so that a stopped pipeline, or table, goes on: commands, dead letters, reset.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from engine.change import Operation
from engine.schema import TableId

__all__ = ["CommandStore", "DeadLetter", "DeadLetterStore", "Resettable", "StoredCommand"]


class DeadLetter(msgspec.Struct, frozen=True):
    """A change of one row that the target refused, or that waits behind such a change.

    ``key`` is JSON, for people. ``images`` are the row's images (``engine.pipeline.dead_letters``).
    ``outcome`` is None while the letter is open.
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
    """A sink that keeps dead letters. All methods but the last are the engine's."""

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
        """Close one open letter of a table, or all of them (None), in the open transaction."""
        ...

    async def read_dead_letters(self) -> list[DeadLetter]:
        """All letters, also closed ones, over a connection of its own."""
        ...


class StoredCommand(msgspec.Struct, frozen=True):
    """A command to a pipeline, with who submitted it, when (Unix seconds), and what became of it.

    ``command`` is JSON (``engine.pipeline.commands``). ``outcome`` is None while the command waits.
    """

    id: int
    command: str
    by: str
    at: float
    outcome: str | None = None
    refused: bool = False


@runtime_checkable
class CommandStore(Protocol):
    """A sink that keeps commands to the pipeline, whether or not an engine runs.

    The engine executes them in order and concludes each in the transaction of its effects. The
    methods that do not belong to the engine have a connection of their own.
    """

    @property
    def commands_wait(self) -> bool:
        """Whether commands waited at the last ``commit``. It costs no round trip."""

    async def waiting_commands(self) -> list[StoredCommand]:
        """The commands that wait, in order. Called by the engine, at a commit."""

    async def conclude_command(self, id: int, outcome: str, *, refused: bool = False) -> None:
        """Record the outcome of a command, in the open transaction; open one if there is none."""

    async def submit_command(self, command: str, by: str) -> int:
        """Store a command durably, and return its number. Not for the engine."""

    async def find_command(self, id: int) -> StoredCommand | None:
        """A command by its number. Not for the engine."""

    async def engine_runs(self) -> bool:
        """Whether an engine of this pipeline is connected. Not for the engine."""


@runtime_checkable
class Resettable(Protocol):
    """A sink that can forget a pipeline."""

    async def reset(self, *, drop: bool) -> int:
        """Forget all state of the pipeline, and remove unfinished twins; with ``drop`` drop its
        tables too. Returns the number of tables that were dropped. An engine that runs is fenced.
        """
