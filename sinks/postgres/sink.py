"""
The sink itself: tables, rows and the checkpoint in one PostgreSQL transaction.

Its one idea: a batch is cut where the schema changes; between the cuts only the net effect on each
table counts, whatever the order across tables.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import ClassVar

import msgspec

from engine.change import CaughtUp, Change, Rows, SchemaChange, Truncate
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Finding, RowReader, State
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.databases.postgres.settings import PostgresSettings
from engine.errors import Fenced, SinkError, SinkLost, TailraceError
from engine.schema import Table, TableId
from engine.toolkit.compaction import net_changes
from sinks.postgres.apply import Applier
from sinks.postgres.preflight import check
from sinks.postgres.schema import SchemaFollower
from sinks.postgres.session import Session
from sinks.postgres.state import StateStore

__all__ = ["PostgresSink"]

#: What is no change of rows.
Shaping = SchemaChange | Truncate | CaughtUp


class PostgresSink:
    """A ``Sink`` on PostgreSQL 13 to 18.

    *Guarantee*: exactly once. Rows, tables, position and epoch commit together; a newer engine
    fences this one; the outcome of a COMMIT whose answer was lost is read back by ``open``.

    *Rights*: a role that may connect, CREATE on the database (or a schema ``tailrace`` and the
    target schemas, all owned by it, made beforehand) and TEMPORARY on it. No superuser. If the role
    may set ``session_replication_role`` (superusers; from PostgreSQL 15: GRANT SET ON PARAMETER),
    triggers and foreign keys of the target are off while rows are applied; else they act on every
    row.
    """

    Settings: ClassVar[type[msgspec.Struct]] = PostgresSettings

    def __init__(self, settings: PostgresSettings, pipeline: str) -> None:
        naming = Naming(settings.schema)
        self._naming = naming
        self._pipeline = pipeline
        self._settings = settings
        self._session = Session(settings)
        self._state = StateStore(self._session, pipeline, naming)
        self._applier = Applier(self._session, naming)
        self._follower = SchemaFollower(self._session, self._state, naming)
        self._epoch = 0

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        """Preflight on a connection of its own: rights, version, and what cannot be held."""
        session = Session(self._settings)
        try:
            await session.connect()
            return await check(session, self._naming, self._pipeline, tables)
        finally:
            await session.close()

    async def open(self, epoch: int | None = None) -> State:
        """As ``Sink.open``; makes the schema ``tailrace`` at the first time."""
        await self._session.connect()
        self._applier.reconnected()
        try:
            await self._state.create()
            state = await self._state.take(epoch)
        except TailraceError:
            await self._session.close()
            raise
        self._epoch = state.epoch
        return state

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        """As ``Sink.apply``. After an error the transaction must be rolled back."""
        applied = Applied()
        runs: dict[TableId, list[Rows]] = {}
        shapes: list[Shaping] = []
        for change in changes:
            # By its exact type: instance checks of unions would be much of a small transaction.
            if type(change) is Rows:
                if shapes:
                    await self._follow(shapes)
                    shapes = []
                runs.setdefault(change.table.id, []).append(change)
            elif (
                type(change) is SchemaChange or type(change) is Truncate or type(change) is CaughtUp
            ):
                if runs:
                    await self._flush(runs, in_backfill, applied)
                    runs = {}
                shapes.append(change)
        # At most one of them holds something.
        await self._follow(shapes)
        await self._flush(runs, in_backfill, applied)
        return applied

    async def commit(self, checkpoint: Checkpoint) -> None:
        """As ``Sink.commit``. Must never move the position backward: the pipeline gives positions
        in the source's order, and only the newest epoch may write."""
        if checkpoint.epoch != self._epoch:
            raise Fenced(
                f"the checkpoint is of epoch {checkpoint.epoch}, the sink was opened as"
                f" {self._epoch}",
                hint="Open the sink again.",
            )
        try:
            await self._state.save(checkpoint)
        except Fenced:
            await self.rollback()
            raise
        except SinkLost as error:
            if await self._is_fenced():
                raise self._state.fenced(self._epoch) from error
            raise
        await self._session.commit()
        self._state.saved()
        self._applier.committed()

    async def rollback(self) -> None:
        """As ``Sink.rollback``."""
        self._applier.rolled_back()
        await self._session.rollback()

    async def state(self) -> State | None:
        """As ``Sink.state``, on a connection of its own."""
        session = Session(self._settings)
        try:
            await session.connect()
            store = StateStore(session, self._pipeline, self._naming)
            return await store.read() if await store.exists() else None
        finally:
            await session.close()

    async def _is_fenced(self) -> bool:
        """Whether a newer engine is known to have taken over, and so to have ended our session."""
        try:
            state = await self.state()
        except SinkError:
            return False
        return state is not None and state.epoch != self._epoch

    def row_reader(self) -> RowReader:
        """As ``Sink.row_reader``."""
        return PostgresRowReader(self._settings)

    async def close(self) -> None:
        """As ``Sink.close``."""
        await self._session.close()

    async def _flush(
        self, runs: dict[TableId, list[Rows]], in_backfill: Collection[TableId], applied: Applied
    ) -> None:
        if not runs:
            return
        nets = []
        for id, its_runs in runs.items():
            for rows in its_runs:
                counted = (id, rows.op)
                applied.rows[counted] = applied.rows.get(counted, 0) + len(rows)
            nets.append(net_changes(its_runs, upsert=id in in_backfill))
        # All but a few tables have one net; where there are more, they go one after the other.
        await self._applier.apply([its[0] for its in nets], applied)
        for its in nets:
            for net in its[1:]:
                await self._applier.apply([net], applied)

    async def _follow(self, changes: Sequence[Shaping]) -> None:
        """Follow them in order; creations in a row at once, and so tables that settle in a row."""
        for kind, group in groupby(changes, _kind):
            its = list(group)
            await self._session.begin()
            if kind == "created":
                created = [it.after for it in its if type(it) is SchemaChange and it.after]
                for table in created:
                    await self._applier.forget(table.id)
                await self._follower.create(created)
            elif kind == "settled":
                settled = [it.table for it in its if type(it) is CaughtUp]
                for table in settled:
                    self._applier.settled(table.id)
                await self._follower.settle(settled)
            else:
                for it in its:
                    await self._change(it)

    async def _change(self, change: Shaping) -> None:
        if isinstance(change, SchemaChange):
            for table in (change.before, change.after):
                if table is not None:
                    await self._applier.forget(table.id)
            await self._follower.change(change)
        else:
            await self._follower.truncate(change.table)


def _kind(change: Shaping) -> str:
    if type(change) is SchemaChange and change.before is None:
        return "created"
    return "settled" if type(change) is CaughtUp else "changed"
