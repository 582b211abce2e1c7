"""
Commands to a pipeline, and the store for them that a sink may offer.

``tailrace backfill`` and others put a ``PipelineCommand`` into the store. The engine executes it
(``engine.pipeline.stored_commands``). The store keeps who gave it, when, and what became of it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, assert_never, runtime_checkable

import msgspec

__all__ = [
    "BackfillTables",
    "CommandClient",
    "CommandStore",
    "Letters",
    "Pause",
    "PipelineCommand",
    "QuarantineTables",
    "Reload",
    "RepairRows",
    "Resume",
    "Skip",
    "Stop",
    "StoredCommand",
    "WholeCommand",
    "in_words",
]


class _Command(msgspec.Struct, frozen=True, tag_field="command", forbid_unknown_fields=True):
    """A misspelt field is refused, so that it does not widen what a command does."""


class BackfillTables(_Command, frozen=True, tag="backfill"):
    """Read the tables with these names or patterns (``schema.name``) again. A quarantined one is
    followed again.

    With ``all``, all tables are read again, and the stream goes on at the end of the log, whatever
    the log has lost before. ``in_place``: the rows take the place of the older ones by the key,
    without a second table. Raises ValueError unless tables are named, or ``all``.
    """

    tables: tuple[str, ...] = ()
    in_place: bool = False
    all: bool = False

    def __post_init__(self) -> None:
        if bool(self.tables) == self.all:
            raise ValueError("name tables, or say all")


class Skip(_Command, frozen=True, tag="skip"):
    """Pass over the event at ``place``, or with ``whole`` the transaction that begins there."""

    place: str
    whole: bool = False


class Letters(_Command, frozen=True, tag="dead_letters"):
    """Retry or discard the open dead letters with these numbers, or with ``all`` those that are
    open when the engine executes the command. Raises ValueError unless numbers are given, or
    ``all``.
    """

    action: Literal["retry", "discard"]
    ids: tuple[int, ...] = ()
    all: bool = False

    def __post_init__(self) -> None:
        if bool(self.ids) == self.all:
            raise ValueError("give numbers, or say all")


class QuarantineTables(_Command, frozen=True, tag="quarantine"):
    """Stop following the tables with these names or patterns. The target keeps their rows."""

    tables: tuple[str, ...]


class RepairRows(_Command, frozen=True, tag="repair"):
    """Write the source's rows of the keys that are stored beside the command, in the order of the
    log. ``rows`` has the number of keys of each table. A command has no values of rows.
    """

    rows: dict[str, int]


class Pause(_Command, frozen=True, tag="pause"):
    """Apply nothing until a ``Resume``, also after a restart of the engine."""


class Resume(_Command, frozen=True, tag="resume"):
    """Go on at the checkpoint."""


class Reload(_Command, frozen=True, tag="reload"):
    """Read the configuration again, and go on by it. Refused if it is wrong."""


class Stop(_Command, frozen=True, tag="stop"):
    """End the engine that runs. Refused if none ran when the command was given."""


#: The commands that are whole without anything beside them.
WholeCommand = BackfillTables | QuarantineTables | Skip | Letters | Pause | Resume | Reload | Stop
PipelineCommand = WholeCommand | RepairRows


def in_words(command: str) -> str:
    """A stored command as it is typed, without the configuration."""
    try:
        found = msgspec.json.decode(command, type=PipelineCommand)
    except msgspec.DecodeError:
        return command
    match found:
        case BackfillTables(tables=tables, in_place=in_place):
            how = ("--in-place",) if in_place else ()
            return " ".join(("backfill", *(tables or ("--all",)), *how))
        case QuarantineTables(tables=tables):
            return " ".join(("quarantine", *tables))
        case Skip(place=place, whole=whole):
            return f"skip --{'transaction' if whole else 'statement'} {place}"
        case Letters(action=action, ids=ids):
            return " ".join(("dead-letters", action, *map(str, ids)))
        case RepairRows(rows=rows):
            return " ".join(("verify --repair", *(f"--table {name}" for name in rows)))
        case Pause() | Resume() | Reload() | Stop():
            return type(found).__name__.lower()
    assert_never(found)


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

    The engine executes them in order and concludes each in the transaction of its effects. Others
    submit and cancel them through a ``CommandClient``.
    """

    @property
    def commands_wait(self) -> bool:
        """Whether commands waited at the last ``commit``. It costs no round trip."""

    async def waiting_commands(self) -> list[StoredCommand]:
        """The commands that wait, in order. Called by the engine, at a commit."""

    async def claim_command(self, id: int) -> bool:
        """Whether a command still waits. Until the open transaction ends it cannot be cancelled;
        open one if there is none.
        """

    async def conclude_command(self, id: int, outcome: str, *, refused: bool = False) -> None:
        """Record the outcome of a command, in the open transaction; open one if there is none."""

    def command_client(self) -> AbstractAsyncContextManager[CommandClient]:
        """A client with a connection of its own. Not for the engine."""
        ...


class CommandClient(Protocol):
    """The commands to one pipeline, for those who give them."""

    async def submit(self, command: str, by: str) -> int:
        """Store a command durably, and return its number."""

    async def cancel(self, id: int, outcome: str) -> bool:
        """Conclude a command that waits, as refused. False if there is none of this number, or not
        any more. Waits while the engine executes it.
        """

    async def find(self, id: int) -> StoredCommand | None:
        """A command by its number."""

    async def newest(self, count: int) -> list[StoredCommand]:
        """The commands that wait, and those among the newest ``count``, in order."""

    async def engine_runs(self) -> bool:
        """Whether an engine of this pipeline is connected."""
