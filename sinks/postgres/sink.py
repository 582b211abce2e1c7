"""
The sink: tables, rows and the checkpoint in one PostgreSQL transaction.

``apply`` cuts a batch where the schema changes (``engine.toolkit.segments``). Between two cuts only
the net changes of each table are written, and the order across tables does not matter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import msgspec

from engine.change import (
    Begin,
    Cascade,
    Change,
    Commit,
    DeletePart,
    DeleteRange,
    Heartbeat,
    InPlace,
    KeepKeys,
    Replace,
    ReplaceColumns,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.checkpoint import Checkpoint
from engine.commands import StoredCommand
from engine.contract import Applied, Capabilities, Finding, RowReader, State
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.databases.postgres.stored import Storage
from engine.errors import Fenced, SinkError, SinkLost, TailraceError
from engine.handover import Client, Cutover, Finished, Numbers, Obstacle
from engine.recovery import DeadLetter, RepairKeys
from engine.rights import Grants
from engine.schema import Table, TableId
from engine.structure import Item, Program, WantedTable
from engine.toolkit.compaction import NetChanges, net_changes
from engine.toolkit.key_order import ORDERED_KINDS
from engine.toolkit.segments import CaughtUpTables, NewTables, RowRuns, SchemaSegment, segments
from sinks.postgres.apply import Applier
from sinks.postgres.commands import CommandTable
from sinks.postgres.cutovers import CutoverTable
from sinks.postgres.dead_letters import DeadLetterTable
from sinks.postgres.finishing import clients, finish, obstacles
from sinks.postgres.preflight import check
from sinks.postgres.proofs import KeepsProofs
from sinks.postgres.repairs import RepairTable
from sinks.postgres.reset import reset
from sinks.postgres.rights import read_grants
from sinks.postgres.schema import SchemaFollower
from sinks.postgres.session import MAX_WRITE_BYTES, Cursor, Session, is_reachable
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.staging import refuse_without_right
from sinks.postgres.state import StateStore
from sinks.postgres.structure import ACTING_FOREIGN_KEYS, SchemaReader, execute_alone
from sinks.postgres.watch import Watch

__all__ = ["PostgresSink"]

#: The changes that carry no data.
_WITHOUT_DATA = (Begin, Commit, Heartbeat)


class PostgresSink(KeepsProofs):
    """A ``Sink`` on PostgreSQL 13 to 18.

    *Guarantee*: exactly once. Rows, tables, position and epoch commit together. A newer engine
    fences this one. After a COMMIT whose answer was lost, ``open`` reads the outcome back.

    *Rights*: the role needs CONNECT, CREATE and TEMPORARY on the database. Instead of CREATE it may
    own the schema ``tailrace`` and the target schemas, made beforehand. It need not be a superuser.
    If the role may set ``session_replication_role`` (superusers; from PostgreSQL 15 on by GRANT SET
    ON PARAMETER), triggers and foreign keys of the target are off while rows are applied; otherwise
    they act on every row.
    """

    Settings: ClassVar[type[msgspec.Struct]] = PostgresSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        guarantee="exactly once",
        transactional=True,
        upsert=True,
        schema_changes=True,
        cascades=True,
        parts=True,
        computes=True,
        in_place=True,
        columns=True,
    )

    def __init__(self, settings: PostgresSettings, pipeline: str) -> None:
        naming = Naming(settings.schema)
        self._naming = naming
        self._pipeline = pipeline
        self._settings = settings
        self._session = Session(settings)
        self._watch = Watch(self._session, settings)
        storage = Storage(settings.values, naming)
        self._storage = storage
        self._state = StateStore(self._session, pipeline, naming, storage)
        self._applier = Applier(self._session, naming, storage)
        self._follower = SchemaFollower(self._session, self._state, naming, storage)
        self._epoch = 0

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        """As ``Sink.check``, on a connection of its own."""
        async with self._own_session() as session:
            return await check(session, self._naming, self._pipeline, tables, self._storage)

    async def grants(self, tables: Sequence[Table]) -> Grants:
        """As ``SinkRights.grants``."""
        return await read_grants(self._settings, self._naming, tables)

    async def open(self, epoch: int | None = None) -> State:
        """As ``Sink.open``. Creates the schema ``tailrace`` if it does not exist."""
        await self._session.connect()
        self._applier.reconnected()
        try:
            await self._watch.start()
            await refuse_without_right(self._session)
            await self._state.create()
            state = await self._state.take(epoch)
        except TailraceError:
            await self.close()
            raise
        self._epoch = state.epoch
        return state

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        """As ``Sink.apply``. After an error the transaction must be rolled back."""
        applied = Applied()
        for segment in segments(changes):
            if isinstance(segment, RowRuns):
                await self._apply_rows(segment.by_table, in_backfill, applied)
            elif isinstance(segment, Cascade):
                await self._applier.cascade(segment)
            else:
                await self._session.begin()
                await self._follow(segment, applied)
        return applied

    async def apply_reads(self, reads: AsyncIterator[Rows]) -> Applied:
        """As ``AppliesReads.apply_reads``."""
        applied = Applied()
        await self._applier.apply_reads(reads, applied)
        return applied

    async def commit(self, checkpoint: Checkpoint) -> None:
        """As ``Sink.commit``.

        The position never moves backward: the pipeline commits positions in the source's order, and
        only the newest epoch may write.
        """
        self._require_epoch(checkpoint)
        session = self._session
        try:
            async with session.translate_errors(), session.connection.pipeline():
                await session.begin_in_pipeline()
                ends = await self._send_end(checkpoint)
        except SinkLost as error:
            await self._raise_if_fenced(error)
            raise
        except TailraceError as error:
            await self.rollback()
            if self._state.is_fenced(error):
                raise self._state.fenced(self._epoch) from error
            raise
        await self._note_end(*ends)

    async def _send_end(self, checkpoint: Checkpoint) -> tuple[Cursor, Cursor]:
        """Send the checkpoint and COMMIT, in an open pipeline."""
        saved = await self._state.save(checkpoint)
        return saved, await self._session.commit_in_pipeline()

    async def _note_end(self, saved: Cursor, committed: Cursor) -> None:
        """The pipeline with the cursors of ``_send_end`` has ended."""
        self._session.committed(committed)
        await self._state.saved(saved)
        self._applier.committed()

    async def apply_and_commit(
        self, changes: Sequence[Change], in_backfill: Collection[TableId], checkpoint: Checkpoint
    ) -> Applied | None:
        """As ``AppliesAtOnce.apply_and_commit``, for few changes of rows."""
        self._require_epoch(checkpoint)
        nets = self._few_changes(changes, in_backfill)
        if nets is None:
            return None
        applied = Applied()
        try:
            ends = await self._applier.apply_at_once(
                nets, applied, lambda: self._send_end(checkpoint)
            )
        except SinkLost as error:
            await self._raise_if_fenced(error)
            raise
        except TailraceError:
            # The caller's ``apply`` and ``commit`` repair the drift, or find the same error.
            await self.rollback()
            return None
        await self._note_end(*ends)
        return applied

    def _few_changes(
        self, changes: Sequence[Change], in_backfill: Collection[TableId]
    ) -> list[NetChanges] | None:
        """The net changes of each table; None if they are many, or not of rows alone."""
        rows = size = 0
        for change in changes:
            if type(change) is Rows:
                rows += len(change)
                size += change.size
            elif type(change) not in _WITHOUT_DATA:
                return None
        if not 0 < rows <= self._session.single_rows or size > MAX_WRITE_BYTES:
            return None
        nets: list[NetChanges] = []
        for segment in segments(changes):
            assert isinstance(segment, RowRuns)
            for id, runs in segment.by_table.items():
                found = net_changes(runs, upsert=id in in_backfill)
                if len(found) != 1 or not self._applier.is_small(found[0]):
                    return None
                nets += found
        return nets

    async def rollback(self) -> None:
        """As ``Sink.rollback``."""
        self._applier.rolled_back()
        await self._session.rollback()

    async def state(self) -> State | None:
        """As ``Sink.state``, on a connection of its own."""
        async with self._own_session() as session:
            store = StateStore(session, self._pipeline, self._naming)
            return await store.read() if await store.exists() else None

    @property
    def commands_wait(self) -> bool:
        """As ``CommandStore.commands_wait``."""
        return self._state.commands_wait

    async def waiting_commands(self) -> list[StoredCommand]:
        """As ``CommandStore.waiting_commands``."""
        return await CommandTable(self._session, self._pipeline).waiting()

    async def claim_command(self, id: int) -> bool:
        """As ``CommandStore.claim_command``."""
        return await CommandTable(self._session, self._pipeline).claim(id)

    async def conclude_command(self, id: int, outcome: str, *, refused: bool = False) -> None:
        """As ``CommandStore.conclude_command``."""
        await CommandTable(self._session, self._pipeline).conclude(id, outcome, refused=refused)

    @asynccontextmanager
    async def command_client(self) -> AsyncIterator[CommandTable]:
        """As ``CommandStore.command_client``."""
        async with self._own_session() as session:
            yield CommandTable(session, self._pipeline)

    async def submit_repair(self, command: str, by: str, keys: Mapping[TableId, RepairKeys]) -> int:
        """As ``RepairStore.submit_repair``."""
        async with self._own_session() as session:
            return await RepairTable(session, self._pipeline).submit(command, by, keys)

    async def repair_keys(self, id: int) -> dict[TableId, RepairKeys]:
        """As ``RepairStore.repair_keys``."""
        return await RepairTable(self._session, self._pipeline).read(id)

    async def why_not_anew(self, table: Table) -> str:
        """As ``RepairStore.why_not_anew``."""
        repairs = RepairTable(self._session, self._pipeline)
        return await repairs.why_not_anew(self._naming.sql(table.id), table.names)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """As ``DeadLetterStore.savepoint``."""
        return self._applier.savepoint()

    async def add_dead_letter(self, letter: DeadLetter) -> None:
        """As ``DeadLetterStore.add_dead_letter``."""
        await DeadLetterTable(self._session, self._pipeline).add(letter)

    async def dead_letters(self) -> list[DeadLetter]:
        """As ``DeadLetterStore.dead_letters``."""
        return await DeadLetterTable(self._session, self._pipeline).read(closed=False)

    async def close_dead_letters(self, id: TableId, letter: int | None, outcome: str) -> None:
        """As ``DeadLetterStore.close_dead_letters``."""
        await DeadLetterTable(self._session, self._pipeline).close(id, letter, outcome)

    async def read_dead_letters(self) -> list[DeadLetter]:
        """As ``DeadLetterStore.read_dead_letters``."""
        async with self._own_session() as session:
            return await DeadLetterTable(session, self._pipeline).read(closed=True)

    async def count_dead_letters(self) -> dict[TableId, int]:
        """As ``DeadLetterStore.count_dead_letters``."""
        async with self._own_session() as session:
            return await DeadLetterTable(session, self._pipeline).count()

    @asynccontextmanager
    async def cutover_store(self) -> AsyncIterator[CutoverTable]:
        """As ``KeepsCutovers.cutover_store``."""
        async with self._own_session() as session:
            table = CutoverTable(session, self._pipeline)
            await table.lock()
            yield table

    async def newest_cutover(self) -> Cutover | None:
        """As ``KeepsCutovers.newest_cutover``."""
        async with self._own_session() as session:
            return await CutoverTable(session, self._pipeline).newest()

    async def finish(self, tables: Sequence[TableId], numbers: Numbers) -> Finished:
        """As ``KeepsCutovers.finish``."""
        async with self._own_session() as session:
            return await finish(session, self._naming, tables, numbers)

    async def obstacles(self, tables: Sequence[TableId], numbers: Numbers) -> list[Obstacle]:
        """As ``KeepsCutovers.obstacles``."""
        async with self._own_session() as session:
            return await obstacles(session, self._naming, tables, numbers)

    async def clients(self, tables: Sequence[TableId]) -> list[Client]:
        """As ``KeepsCutovers.clients``."""
        async with self._own_session() as session:
            return await clients(session, self._naming, tables)

    async def schema_items(
        self, tables: Sequence[WantedTable], programs: Sequence[Program]
    ) -> tuple[list[Item], list[Item]]:
        """As ``ComparesSchema.schema_items``."""
        async with self._own_session() as session:
            return await SchemaReader(session, self._naming, self._storage).items(tables, programs)

    async def execute_alone(self, statements: Sequence[str]) -> None:
        """As ``ComparesSchema.execute_alone``."""
        async with self._own_session() as session:
            await execute_alone(session, statements)

    async def why_no_foreign_keys(self) -> str:
        """As ``ComparesSchema.why_no_foreign_keys``."""
        async with self._own_session() as session:
            return "" if session.replica_role else ACTING_FOREIGN_KEYS

    async def reset(self, *, drop: bool) -> int:
        """As ``Resettable.reset``."""
        state = await self.open()
        try:
            return await reset(
                self._session, self._follower, self._pipeline, state.tables, drop=drop
            )
        finally:
            await self.close()

    @asynccontextmanager
    async def _own_session(self) -> AsyncIterator[Session]:
        """A session besides that of the engine."""
        session = Session(self._settings)
        try:
            await session.connect()
            yield session
        finally:
            await session.close()

    def _require_epoch(self, checkpoint: Checkpoint) -> None:
        if checkpoint.epoch != self._epoch:
            raise Fenced(
                f"the checkpoint has epoch {checkpoint.epoch}, but the sink was opened with epoch"
                f" {self._epoch}",
                hint="Open the sink again.",
            )

    async def _raise_if_fenced(self, error: SinkLost) -> None:
        """Raise ``Fenced`` if a newer engine has ended the session."""
        if await self._is_fenced():
            raise self._state.fenced(self._epoch) from error

    async def _is_fenced(self) -> bool:
        """Whether a newer engine is known to have taken over. It ends the older one's session."""
        try:
            state = await self.state()
        except SinkError:
            return False
        return state is not None and state.epoch != self._epoch

    def row_reader(self) -> RowReader:
        """As ``Readable.row_reader``."""
        return PostgresRowReader(self._settings, self._naming, self._storage)

    async def close(self) -> None:
        """As ``Sink.close``."""
        await self._watch.close()
        await self._session.close()

    def reachable(self) -> bool:
        """As ``Reachable.reachable``."""
        return is_reachable(self._settings.url, self._settings.application_name)

    @property
    def round_trip_seconds(self) -> float:
        """As ``KnowsDistance.round_trip_seconds``."""
        return self._session.round_trip_seconds

    def why_not_by_range(self, table: Table) -> str:
        """As ``ComparesKeys.why_not_by_range``."""
        stored = self._storage.table(table)
        for ordinal in table.key:
            column, kind = table.columns[ordinal], stored.columns[ordinal].type.kind
            if column.type.kind in ORDERED_KINDS and kind not in ORDERED_KINDS:
                return (
                    f"by a policy, the column {column.name} of the key has the type {kind} on the"
                    " target, which is sorted otherwise"
                )
        return ""

    def interrupt(self) -> None:
        """As ``Interruptible.interrupt``."""
        self._session.give_up("the pipeline is stopped")

    async def _apply_rows(
        self,
        runs: Mapping[TableId, Sequence[Rows]],
        in_backfill: Collection[TableId],
        applied: Applied,
    ) -> None:
        """Apply the net changes of each table."""
        nets = [
            net_changes(table_runs, upsert=id in in_backfill) for id, table_runs in runs.items()
        ]
        # Nearly every table has one element. Further ones must be applied after it, in order.
        await self._applier.apply([table_nets[0] for table_nets in nets], applied)
        for table_nets in nets:
            for net in table_nets[1:]:
                await self._applier.apply([net], applied)

    async def _follow(
        self,
        segment: SchemaSegment,
        applied: Applied,
    ) -> None:
        """Change the target's tables as the source's were changed."""
        match segment:
            case NewTables(tables):
                for table in tables:
                    await self._applier.forget(table.id)
                await self._follower.create(tables)
            case CaughtUpTables(tables):
                for table in tables:
                    self._applier.caught_up(table.id)
                await self._follower.build_indexes(tables)
            case SchemaChange(before=before, after=after):
                for changed in (before, after):
                    if changed is not None:
                        await self._applier.forget(changed.id)
                for place, count in (await self._follower.change(segment)).items():
                    applied.replaced[place] = applied.replaced.get(place, 0) + count
            case Truncate(table):
                await self._follower.truncate(table)
            case InPlace(before, after):
                await self._applier.forget(after.id)
                await self._follower.keep_rows(before, after)
            case KeepKeys():
                await self._applier.keep_keys(segment)
            case DeleteRange():
                await self._applier.delete_range(segment)
            case DeletePart():
                await self._follower.delete_part(segment)
            case ReplacePart(table, twin):
                for changed in (table, twin):
                    await self._applier.forget(changed.id)
                await self._follower.replace_part(segment)
            case ReplaceColumns(before, twin):
                for changed in (before, twin):
                    await self._applier.forget(changed.id)
                await self._follower.replace_columns(segment)
            case Replace(before, twin, after):
                for changed in (before, twin, after):
                    await self._applier.forget(changed.id)
                await self._follower.replace(before, twin, after)
