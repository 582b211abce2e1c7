"""
Commands to a pipeline, and the store for them that a sink may offer.

``tailrace backfill`` and others put a ``PipelineCommand`` into the store. The engine executes it
(``engine.pipeline.stored_commands``). The store keeps who gave it, when, and what became of it.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import msgspec

__all__ = [
    "BackfillTables",
    "CommandStore",
    "Letters",
    "PipelineCommand",
    "Skip",
    "StoredCommand",
]


class BackfillTables(msgspec.Struct, frozen=True, tag="backfill", tag_field="command"):
    """Read the tables with these names or patterns (``schema.name``) again. A quarantined one is
    followed again.

    Without any, all tables are read again, and the stream goes on at the end of the log, whatever
    the log has lost before.
    """

    tables: tuple[str, ...] = ()


class Skip(msgspec.Struct, frozen=True, tag="skip", tag_field="command"):
    """Pass over the event at ``place``, or with ``whole`` the transaction that begins there."""

    place: str
    whole: bool = False


class Letters(msgspec.Struct, frozen=True, tag="dead_letters", tag_field="command"):
    """Retry or discard the open dead letters with these numbers; without any, all of them."""

    action: Literal["retry", "discard"]
    ids: tuple[int, ...] = ()


PipelineCommand = BackfillTables | Skip | Letters


class StoredCommand(msgspec.Struct, frozen=True):
    """A command to a pipeline, with who submitted it, when (Unix seconds), and what became of it.

    ``command`` is a ``PipelineCommand`` as JSON. ``outcome`` is None while the command waits.
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
