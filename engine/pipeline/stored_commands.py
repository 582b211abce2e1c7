"""
Commands that are stored in the target: ``tailrace backfill`` and others write them there.

The commands work on a running pipeline and on a stopped one alike. A running engine sees at a
commit that commands wait, and ends its attempt. Each attempt executes them at its start, before it
opens the stream, each in one target transaction with its outcome and the checkpoint. So a command
is executed once, and the table keeps who gave it and what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import assert_never

import msgspec

from engine.checkpoint import Cause, TableProgress
from engine.commands import (
    BackfillTables,
    CommandStore,
    Letters,
    Pause,
    PipelineCommand,
    QuarantineTables,
    Reload,
    RepairRows,
    Resume,
    Skip,
    Stop,
    StoredCommand,
    in_words,
)
from engine.contract import PreparesTransactions, Sink, Source
from engine.errors import ConfigError, Fenced, SinkLost, TailraceError
from engine.ops.tracing import NO_TRACING, Tracing
from engine.pipeline.repair import REPAIR_SECONDS, CannotRepair, Repair
from engine.pipeline.stop_request import StopRequest
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.unlogged import UnloggedChanges
from engine.pipeline.writer import TargetWriter
from engine.recovery import PassesOver, RepairStore
from engine.remedies import BACKFILL
from engine.schema import TableId

__all__ = ["StoredCommands", "find_tables"]

log = logging.getLogger("tailrace.pipeline")

#: A command during which the connection to the target is lost so often fails. So does a repair that
#: has begun so often.
MOST_LOSSES = 3


class _Refused(Exception):
    """A command cannot be executed. The message is its outcome."""


class _Tries(msgspec.Struct):
    """How often a repair has begun, until when it may begin, and its last error."""

    deadline: float
    count: int = 0
    error: str = "the pipeline was interrupted each time before the rows were written"


class StoredCommands:
    """Executes the commands that ``sink`` keeps for the pipeline ``name``, if it keeps any.

    ``reload`` reads the configuration again, for the next pipeline of this process. It returns
    what the outcome of the command says of it, and raises ConfigError if it is wrong.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        sink: Sink,
        unlogged: UnloggedChanges,
        stop: StopRequest,
        reload: Callable[[], str] | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._tracing = tracing
        self._name = name
        self._source = source
        self._store = sink if isinstance(sink, CommandStore) else None
        self._repairs = sink if isinstance(sink, RepairStore) else None
        self._unlogged = unlogged
        self._stop = stop
        self._reload = reload
        #: The repair that waits for the stream. Until it ends, or the next attempt starts, later
        #: commands wait behind it.
        self.repair: Repair | None = None
        #: Whether the pipeline ends so that one with another configuration can start.
        self.reloading = False
        #: The commands that waited before the engine started.
        self._older: frozenset[int] | None = None
        #: Why commands have failed, by number. They are concluded by the next attempt.
        self._failed: dict[int, str] = {}
        self._losses: dict[int, int] = {}
        #: The repairs that have begun, by number.
        self._tries: dict[int, _Tries] = {}

    @property
    def wait(self) -> bool:
        """Whether commands waited at the last commit that can be executed now."""
        return self._store is not None and self._store.commands_wait and self.repair is None

    async def begin(self, *, continues: bool) -> None:
        """Note the commands that are older than the engine; none if it ``continues`` the work of
        another pipeline of its process. Called when the sink is open; only the first call counts.
        """
        if self._older is None and self._store is not None:
            waiting = () if continues else await self._store.waiting_commands()
            self._older = frozenset(it.id for it in waiting)

    async def execute(self, writer: TargetWriter, tracker: ProgressTracker) -> bool:
        """Execute the commands that wait. The target is at a commit before and after.

        Repairs come last, one in each attempt. One that begins again and again keeps no other
        command waiting, such as the one that passes over what interrupts the stream.

        False if one fails with anything but a refusal: it was rolled back, and the next attempt has
        to start, which concludes it with its error. So it does not block the others.
        """
        self.repair = None
        if self._store is None:
            return True
        for stored in sorted(await self._store.waiting_commands(), key=_repairs_rows):
            if _repairs_rows(stored):
                if self._is_pending or self._stop:
                    break
                self._count_try(stored.id)
            if not await self._try(self._store, stored, writer, tracker):
                return False
        return True

    @property
    def _is_pending(self) -> bool:
        return self.repair is not None

    def _count_try(self, id: int) -> None:
        """Note that a repair begins, or that it fails because it has begun too often or too long
        ago. Each of its reads may take a minute, during which the stream stands still.
        """
        tries = self._tries.setdefault(id, _Tries(time.monotonic() + REPAIR_SECONDS))
        if tries.count >= MOST_LOSSES or (tries.count and time.monotonic() > tries.deadline):
            self._failed.setdefault(id, f"{tries.error}; type the command again")
        tries.count += 1

    async def go_on(self, writer: TargetWriter, tracker: ProgressTracker) -> bool:
        """Write the rows of the repair that waits, if the stream has passed their reads. The target
        is at a commit before and after. False as for ``execute``.
        """
        repair = self.repair
        if repair is None or self._store is None:
            return True
        try:
            if not repair.is_due(writer.position, self._source.reached):
                return True
        except CannotRepair as error:
            self._failed[repair.stored.id] = str(error)
        try:
            return await self._try(self._store, repair.stored, writer, tracker)
        finally:
            self.repair = None

    async def _try(
        self,
        store: CommandStore,
        stored: StoredCommand,
        writer: TargetWriter,
        tracker: ProgressTracker,
    ) -> bool:
        """Execute a command, as ``execute`` does."""
        try:
            with self._tracing.span("command", id=stored.id):
                await self._conclude(store, stored, writer, tracker)
        except Fenced:
            raise
        except TailraceError as error:
            if stored.id in self._tries:
                self._tries[stored.id].error = error.message
            elif isinstance(error, SinkLost):
                losses = self._losses[stored.id] = self._losses.get(stored.id, 0) + 1
                if losses >= MOST_LOSSES:
                    self._failed[stored.id] = error.message
            if error.retryable:
                raise
            self._failed[stored.id] = str(error)
            await writer.rollback()
            return False
        return True

    async def _conclude(
        self,
        store: CommandStore,
        stored: StoredCommand,
        writer: TargetWriter,
        tracker: ProgressTracker,
    ) -> None:
        """Execute a command, unless it was cancelled or has failed, and commit its outcome."""
        if not await store.claim_command(stored.id):
            await writer.rollback()
            return
        if stored.id in self._failed:
            outcome, refused = f"it failed: {self._failed[stored.id]}", True
        else:
            try:
                outcome, refused = await self._execute(stored, writer, tracker), False
            except (_Refused, CannotRepair) as error:
                outcome, refused = str(error), True
            if not outcome:  # of a repair, which is concluded when the stream has passed its reads
                await writer.rollback()
                return
        await store.conclude_command(stored.id, outcome, refused=refused)
        await writer.commit()
        await self._unlogged.letters.load(tracker.tables)
        log.warning(
            "a command is refused" if refused else "a command is executed",
            extra={
                "pipeline": self._name,
                "command_id": stored.id,
                "command": in_words(stored.command),
                "by": stored.by,
                "outcome": outcome,
            },
        )

    async def _execute(
        self, stored: StoredCommand, writer: TargetWriter, tracker: ProgressTracker
    ) -> str:
        try:
            command = msgspec.json.decode(stored.command, type=PipelineCommand)
        except msgspec.DecodeError as error:
            raise _Refused(
                f"this version of Tailrace cannot read the stored command: {error}; give it again,"
                " by the command line of this version"
            ) from None
        match command:
            case Skip():
                return await self._skip(command, writer)
            case Letters():
                return await self._letters(command, stored.by, writer)
            case QuarantineTables():
                return await self._quarantine(command, stored.by, writer, tracker)
            case BackfillTables():
                return await self._backfill(command, stored.by, writer, tracker)
            case RepairRows():
                return await self._repair(stored, writer, tracker)
            case Pause() | Resume():
                writer.paused = isinstance(command, Pause)
                return "paused, nothing is applied" if writer.paused else "resumed"
            case Reload():
                return self._read_configuration(stored.id)
            case Stop():
                return self._end(stored.id)
        assert_never(command)

    def _is_older(self, id: int) -> bool:
        """Whether the engine was started after a command."""
        return self._older is not None and id in self._older

    def _read_configuration(self, id: int) -> str:
        if self._is_older(id):
            return "the engine has read the configuration at its start"
        if self._stop and not self.reloading:
            raise _Refused("the engine ends")
        if self._reload is None:
            raise _Refused("this engine has no configuration")
        try:
            outcome = self._reload()
        except ConfigError as error:
            raise _Refused(str(error)) from None
        self.reloading = True
        self._stop.make()
        return outcome

    def _end(self, id: int) -> str:
        if self._is_older(id):
            raise _Refused("no engine ran when the command was given")
        self.reloading = False
        self._stop.make()
        return "the engine ends"

    async def _letters(self, command: Letters, by: str, writer: TargetWriter) -> str:
        letters = self._unlogged.letters
        chosen, unknown = letters.choose(command.ids)
        left_out = f"no open dead letter has the number {', '.join(map(str, unknown))}"
        if unknown and not chosen:
            raise _Refused(left_out)
        retry = command.action == "retry"
        outcome = await (writer.retry(chosen) if retry else letters.discard(chosen, by))
        return f"{outcome}; {left_out}" if unknown else outcome

    async def _repair(
        self, stored: StoredCommand, writer: TargetWriter, tracker: ProgressTracker
    ) -> str:
        """Write the rows that were read; if none were, read them. Empty then."""
        if self._repairs is None:
            raise _Refused("rows of this target cannot be repaired")
        if self.repair is not None:
            return await self.repair.write(writer, tracker, self._repairs)
        keys, letters = await self._repairs.repair_keys(stored.id), self._unlogged.letters.counts
        if not keys:
            raise _Refused("the target has no keys of the rows to repair")
        source, deadline = self._source, self._tries[stored.id].deadline
        self.repair = await Repair.begin(
            stored, keys, source, writer, tracker, letters, deadline=deadline
        )
        return ""

    async def _quarantine(
        self, command: QuarantineTables, by: str, writer: TargetWriter, tracker: ProgressTracker
    ) -> str:
        found, unknown = find_tables(command.tables, tracker.progress)
        if unknown:
            raise _Refused(f"the pipeline follows no table {', '.join(unknown)}")
        cause = Cause(f"a command of {by}", BACKFILL, at=time.time())
        names = ", ".join(map(str, found))
        for id in found:
            if tracker.progress[id].state != "quarantined":
                await writer.leave(id, cause, "quarantined")
        return f"{names}: quarantined, changes are not applied any more"

    async def _skip(self, command: Skip, writer: TargetWriter) -> str:
        source = self._source
        if not isinstance(source, PassesOver):
            raise _Refused("this source cannot pass over a part of its log")
        end = await asyncio.to_thread(source.position)
        try:
            writer.position = source.pass_over(
                writer.position, command.place, whole=command.whole, end=end
            )
        except ConfigError as error:
            raise _Refused(error.message) from None
        what = "the transaction" if command.whole else "the event"
        return f"{what} at {command.place} is passed over, and what it changes is not applied"

    async def _backfill(
        self, command: BackfillTables, by: str, writer: TargetWriter, tracker: ProgressTracker
    ) -> str:
        found, unknown = find_tables(command.tables or ("*.*",), tracker.progress)
        if unknown:
            raise _Refused(f"the pipeline follows no table {', '.join(unknown)}")
        if reason := self._unlogged.why_not_backfilled:
            raise _Refused(reason)
        end = "" if command.tables else await self._log_end()
        for id in found if command.in_place else ():
            if reason := writer.why_not_in_place(id):
                raise _Refused(
                    f"{id} cannot be backfilled in place: {reason}. Without --in-place it is read"
                    " into a second table, which takes its place"
                )
        cause = Cause(f"a backfill was asked for by {by}", at=time.time())
        for id in found:
            await writer.leave(id, cause, "pending", in_place=command.in_place)
        how = " in place" if command.in_place else ""
        if command.tables:
            return f"{', '.join(map(str, found))}: read again{how} from now on"
        writer.position, writer.committed_at = end, 0.0
        return f"all tables ({len(found)}) are read again, and the stream goes on at the log's end"

    async def _log_end(self) -> str:
        """The end of the log, for a stream that begins there."""
        source = self._source
        end = await asyncio.to_thread(source.position)
        if isinstance(source, PreparesTransactions) and (left := source.unresolved(end)):
            raise _Refused(
                f"{len(left)} transactions are prepared (XA), and a stream from the log's end does"
                " not have their rows: end each by XA COMMIT or XA ROLLBACK on the source, where XA"
                " RECOVER lists them, and type the command again"
            )
        return end


def _repairs_rows(stored: StoredCommand) -> bool:
    try:
        msgspec.json.decode(stored.command, type=RepairRows)
    except msgspec.DecodeError:
        return False
    return True


def find_tables(
    names: tuple[str, ...], known: Mapping[TableId, TableProgress]
) -> tuple[list[TableId], list[str]]:
    """The tables among ``known`` with these names or patterns that are not excluded, and the names
    that no such table has. A name may have the characters of a pattern. Capitals are as in
    ``TableId.matches``.
    """
    by_name = {str(id): id for id, it in known.items() if it.state != "excluded"}
    found: dict[TableId, None] = {}
    unknown: list[str] = []
    for name in names:
        hits = (
            [by_name[name]]
            if name in by_name
            else [id for id in by_name.values() if id.matches(name)]
        )
        found |= dict.fromkeys(hits)
        if not hits:
            unknown.append(name)
    return list(found), unknown
