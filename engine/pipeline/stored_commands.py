"""
Commands that are stored in the target: ``tailrace backfill`` and others write them there.

The commands work on a running pipeline and on a stopped one alike. A running engine sees at a
commit that commands wait, and ends its attempt. Each attempt executes them at its start, before it
opens the stream, each in one target transaction with its outcome and the checkpoint. So a command
is executed once, and the table keeps who gave it and what became of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import msgspec

from engine.checkpoint import Cause
from engine.contract import CommandStore, Sink, StoredCommand
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.unlogged import UnloggedChanges
from engine.pipeline.writer import TargetWriter
from engine.schema import TableId

__all__ = ["BackfillTables", "StoredCommands", "TableCommand", "find_tables"]

log = logging.getLogger("tailrace.pipeline")


class BackfillTables(msgspec.Struct, frozen=True, tag="backfill", tag_field="command"):
    """Read these tables (``schema.name``) again. A quarantined one is followed again."""

    tables: tuple[str, ...]


TableCommand = BackfillTables


class _Refused(Exception):
    """A command cannot be executed. The message is its outcome."""


class StoredCommands:
    """Executes the commands that ``sink`` keeps for the pipeline ``name``, if it keeps any."""

    def __init__(self, name: str, sink: Sink, unlogged: UnloggedChanges) -> None:
        self._name = name
        self._store = sink if isinstance(sink, CommandStore) else None
        self._unlogged = unlogged

    @property
    def wait(self) -> bool:
        """Whether commands waited at the last commit."""
        return self._store is not None and self._store.commands_wait

    async def execute(self, writer: TargetWriter, tracker: ProgressTracker) -> None:
        """Execute the commands that wait. The target is at a commit before and after."""
        if self._store is None:
            return
        for stored in await self._store.waiting_commands():
            try:
                outcome, refused = await self._execute(stored, writer, tracker), False
            except _Refused as error:
                outcome, refused = str(error), True
            await self._store.conclude_command(stored.id, outcome, refused=refused)
            await writer.commit()
            log.warning(
                "a command is refused" if refused else "a command is executed",
                extra={
                    "pipeline": self._name,
                    "command": stored.command,
                    "by": stored.by,
                    "outcome": outcome,
                },
            )

    async def _execute(
        self, stored: StoredCommand, writer: TargetWriter, tracker: ProgressTracker
    ) -> str:
        try:
            command = msgspec.json.decode(stored.command, type=TableCommand)
        except msgspec.DecodeError:
            raise _Refused("this version of Tailrace does not know the command") from None
        found, unknown = find_tables(command.tables, tracker.progress)
        if unknown:
            raise _Refused(f"the pipeline does not follow {', '.join(unknown)}")
        if reason := self._unlogged.why_not_backfilled:
            raise _Refused(reason)
        cause = Cause(f"a backfill was asked for by {stored.by}", at=time.time())
        for id in found:
            await writer.leave(id, cause, quarantine=False)
        return f"{', '.join(map(str, found))}: read again from now on"


def find_tables(
    names: tuple[str, ...], known: Mapping[TableId, object]
) -> tuple[list[TableId], list[str]]:
    """The tables of these names among ``known``, and the names that no table has."""
    by_name = {str(id): id for id in known}
    return (
        [by_name[name] for name in names if name in by_name],
        [name for name in names if name not in by_name],
    )
