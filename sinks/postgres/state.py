"""
The state of a pipeline, stored in the target: the schema ``tailrace`` (see ``layout``).

Fencing: a data transaction writes ``tailrace.checkpoint`` last, and only where the row's epoch is
its own. A newer engine takes a new epoch at once, unless an older engine is between this write and
its COMMIT. Then the row's lock makes the newer engine wait until the outcome is known. The same
lock tells an engine the outcome of its own COMMIT after its connection broke. When it has the
epoch, the newer engine ends the older engine's session if that is in a transaction, so that none of
its locks is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg.errors import DivisionByZero, InsufficientPrivilege, LockNotAvailable, UndefinedColumn

from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import State
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.stored import Fingerprint, Storage
from engine.errors import ApplyError, Fenced, SinkError, SinkLost, TailraceError
from engine.schema import Table, TableId
from sinks.postgres.commands import COMMANDS_WAIT
from sinks.postgres.layout import (
    SCHEMA,
    prepare,
    read_generations,
    read_layout,
    read_owners,
    read_progress,
    read_versions,
)
from sinks.postgres.session import Cursor, Session

__all__ = ["SCHEMA", "StateStore"]

_TAKE = f"""
INSERT INTO {SCHEMA}.checkpoint (pipeline, epoch) VALUES ($1, 1)
ON CONFLICT (pipeline) DO UPDATE SET epoch = checkpoint.epoch + 1, updated_at = now()
RETURNING epoch, owner_pid, owner_started::text"""

_CONFIRM = f"""
SELECT epoch, owner_pid, owner_started::text FROM {SCHEMA}.checkpoint WHERE pipeline = $1"""

#: No row if the process of the last owner is gone. A role that may not see it gets NULL.
_RUNNING = f"""
SELECT backend_start = owner_started FROM {SCHEMA}.checkpoint
JOIN pg_stat_activity ON pid = owner_pid WHERE pipeline = $1"""

_OWN = f"""
UPDATE {SCHEMA}.checkpoint SET owner_pid = pg_backend_pid(), owner_started =
  (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
WHERE pipeline = $1"""

# A session that is in no transaction holds no lock, and a pooler may have given its connection to
# another client, or to this engine.
_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND backend_start = $2 AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
AND application_name = current_setting('application_name')"""

#: Division by zero if the epoch is not the newest, so that the COMMIT after it has no effect.
_SAVE = f"""
WITH saved AS (
  UPDATE {SCHEMA}.checkpoint
  SET position = $3, committed_at = $4, paused = $5::boolean, updated_at = now()
  WHERE pipeline = $1 AND epoch = $2
  RETURNING {COMMANDS_WAIT} AS waits)
SELECT bool_or(waits), 1 / count(*) FROM saved"""

# A table that is not live gets another generation. The number of the transaction is a new one also
# after the table was dropped and created again.
_SAVE_PROGRESS = f"""
WITH it AS (SELECT * FROM json_to_recordset($2::json) AS it (source_schema text, source_name text,
  state text, cursor text, rows bigint, estimate bigint, high_watermark text, again boolean,
  cause json, part json, in_place boolean, columns json,
  changed_at double precision)),
unfinished AS (DELETE FROM {SCHEMA}.comparison c USING it
  WHERE c.pipeline = $1 AND c.source_schema = it.source_schema
  AND c.source_name = it.source_name AND it.state <> 'live')
INSERT INTO {SCHEMA}.table_progress SELECT $1, it.*, txid_current() FROM it
ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET
  state = excluded.state, cursor = excluded.cursor, rows = excluded.rows,
  estimate = excluded.estimate, high_watermark = excluded.high_watermark,
  again = excluded.again, cause = excluded.cause, part = excluded.part,
  in_place = excluded.in_place, columns = excluded.columns,
  changed_at = excluded.changed_at,
  generation = CASE excluded.state WHEN 'live' THEN table_progress.generation
    ELSE excluded.generation END"""

_FORGET_PROGRESS = f"""
WITH gone AS (SELECT * FROM json_to_recordset($2::json) AS it (schema text, name text)),
proofs AS (DELETE FROM {SCHEMA}.proof USING gone
  WHERE pipeline = $1 AND source_schema = gone.schema AND source_name = gone.name),
unfinished AS (DELETE FROM {SCHEMA}.comparison USING gone
  WHERE pipeline = $1 AND source_schema = gone.schema AND source_name = gone.name)
DELETE FROM {SCHEMA}.table_progress USING gone
WHERE pipeline = $1 AND source_schema = gone.schema AND source_name = gone.name"""

_SAVE_TABLES = f"""
INSERT INTO {SCHEMA}.table_version
SELECT $1, source_schema, source_name, target_schema, target_name, $3, definition
FROM json_to_recordset($2::json) AS it (source_schema text, source_name text,
  target_schema text, target_name text, definition text)
ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET
  target_schema = excluded.target_schema, target_name = excluded.target_name,
  indexed = excluded.indexed, definition = excluded.definition"""

# PostgreSQL does not extract from JSON with U+0000, which the default of a column may hold.
_POLICIES = f"""
SELECT source_schema, source_name, definition FROM {SCHEMA}.table_version
WHERE pipeline = $1 AND definition LIKE '%"policies":{{%'"""

_SAVE_INDEXED = f"""
UPDATE {SCHEMA}.table_version SET indexed = true
FROM json_to_recordset($2::json) AS it (schema text, name text)
WHERE pipeline = $1 AND source_schema = it.schema AND source_name = it.name"""


class _Policies(msgspec.Struct):
    """The part of a stored definition that says how the table's rows are stored."""

    policies: Fingerprint


class StateStore:
    """Reads and writes the state of one pipeline through a session."""

    def __init__(
        self, session: Session, pipeline: str, naming: Naming, storage: Storage | None = None
    ) -> None:
        self._session = session
        self.pipeline = pipeline
        self._naming = naming
        self._storage = storage or Storage()
        #: Whether commands to the pipeline waited at the last ``save``.
        self.commands_wait = False
        self._saved: Mapping[TableId, TableProgress] = {}
        self._saving: Mapping[TableId, TableProgress] = {}

    async def exists(self) -> bool:
        """Whether the state's tables exist, in a layout that this version can read."""
        return await read_layout(self._session) is not None

    async def create(self) -> None:
        """Create the state's tables, or upgrade those of an older layout, as ``layout.prepare``.

        Raises ``SinkLost`` if another session holds a lock on them for too long. If that is a
        session of this pipeline in a transaction, it is ended before.
        """
        session = self._session
        try:
            await prepare(session)
        except SinkLost as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            await session.rollback()
            if await self.exists():
                await self._end_session(await self._owner())
            raise self._locked(error) from error

    async def take(self, epoch: int | None) -> State:
        """Take a new epoch, or confirm ``epoch``, and read the stored state.

        Raises ``Fenced``, or ``SinkLost`` if another engine's COMMIT does not end. The session that
        had the pipeline before is ended if it is in a transaction: an engine that is frozen there
        would hold its locks. Another engine that starts at the same moment ends this one's session
        in the same way, so as little as possible follows the commit.
        """
        session, one = self._session, (self.pipeline,)
        await session.begin()
        layout = await read_layout(session)
        try:
            cursor = await session.execute(
                _TAKE if epoch is None else f"{_CONFIRM} FOR UPDATE", one
            )
        except SinkLost as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            if epoch is None:
                await session.rollback()
                await self._end_session(await self._owner())
            raise self._locked(error) from error
        owner = await cursor.fetchone()
        newest = owner[0] if owner else None
        if epoch is not None and newest != epoch:
            await session.rollback()
            raise self.fenced(epoch)
        state = await self._select(layout)
        if state is None:
            raise SinkError(f"the checkpoint of pipeline {self.pipeline} vanished from the target")
        outdated, recorded = await self._compare_policies(state.tables)
        await session.execute(_OWN, one)
        await session.commit()
        await self._end_session(owner)
        if recorded:
            await self._record(recorded, state.epoch)
        self._saved = state.checkpoint.progress if state.checkpoint is not None else {}
        return msgspec.structs.replace(state, outdated=outdated)

    async def _compare_policies(
        self, tables: Sequence[Table]
    ) -> tuple[dict[TableId, str], list[Table]]:
        """Those of ``tables`` whose rows are stored by other policies than those of today, with the
        reason; and those whose policies have changed and have changed no row, to be recorded.
        """
        before = await self._fingerprints()
        outdated: dict[TableId, str] = {}
        recorded: list[Table] = []
        for table in tables:
            old = before.get(table.id, {})
            if self._storage.fingerprint(table) == old:
                continue
            reason = self._storage.outdated(table, old)
            if reason:
                outdated[table.id] = reason
            else:
                recorded.append(table)
        return outdated, recorded

    async def _record(self, tables: Sequence[Table], epoch: int) -> None:
        """Record the policies of today. Raises ``Fenced`` if the epoch is not the newest."""
        await self._session.begin()
        cursor = await self._session.execute(f"{_CONFIRM} FOR UPDATE", (self.pipeline,))
        newest = await cursor.fetchone()
        if newest is None or newest[0] != epoch:
            await self._session.rollback()
            raise self.fenced(epoch)
        for table in tables:
            await self.save_tables([table], indexed=await self.indexed(table.id))
        await self._session.commit()

    async def _owner(self) -> tuple[Any, ...] | None:
        return await (await self._session.execute(_CONFIRM, (self.pipeline,))).fetchone()

    async def _end_session(self, owner: tuple[Any, ...] | None) -> None:
        """End the session of an owner, a row of ``_CONFIRM``, if that may be done."""
        if owner is None or owner[1] is None:
            return
        try:
            await self._session.execute(_END, owner[1:])
        except SinkError as error:
            if not isinstance(error.__cause__, InsufficientPrivilege):
                raise

    async def read(self) -> State | None:
        """The stored state, None if there is none; of an older layout, too.

        Reads in a transaction of its own, so that an upgrade does not come in between.
        """
        await self._session.begin()
        layout = await read_layout(self._session)
        try:
            state = await self._select(layout)
        except ApplyError as error:
            if not isinstance(error.__cause__, UndefinedColumn):
                raise
            raise SinkError(
                f"the target's schema {SCHEMA} lacks columns that this version of Tailrace reads",
                hint="`tailrace run CONFIG` adds them at its start",
            ) from error
        running = await self._running() if (layout or 0) > 1 else None
        await self._session.commit()
        return None if state is None else msgspec.structs.replace(state, running=running)

    async def _running(self) -> bool | None:
        """Whether the session of the last owner exists; None if that is unknown."""
        cursor = await self._session.execute(_RUNNING, (self.pipeline,))
        row = await cursor.fetchone()
        return False if row is None else row[0]

    async def _select(self, layout: int | None) -> State | None:
        """The state that is stored in the tables of ``layout``, in the open transaction."""
        if layout is None:
            return None
        cursor = await self._session.execute(
            f"SELECT epoch, position, committed_at, {'false' if layout == 1 else 'paused'}"
            f" FROM {SCHEMA}.checkpoint WHERE pipeline = $1",
            (self.pipeline,),
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        epoch, position, committed_at, paused = row
        progress = await read_progress(self._session, self.pipeline, layout)
        generations = await read_generations(self._session, self.pipeline, layout)
        versions = await read_versions(self._session, self.pipeline, layout)
        tables = tuple(table for _, table in versions)
        if position is None:
            return State(epoch, None, tables)
        checkpoint = Checkpoint(self.pipeline, epoch, position, committed_at, progress, paused)
        return State(epoch, checkpoint, tables, generations=generations)

    async def save(self, checkpoint: Checkpoint) -> Cursor:
        """Write the checkpoint and the changed progress of tables, in an open pipeline that goes on
        with COMMIT. An epoch that is not the newest is an error of the server (``is_fenced``). When
        the pipeline has ended, call ``saved``.
        """
        connection = self._session.connection
        changed, gone = self._changed(checkpoint.progress)
        values = (checkpoint.epoch, checkpoint.position, checkpoint.committed_at, checkpoint.paused)
        cursor = await connection.execute(_SAVE, (self.pipeline, *map(str, values)), prepare=True)
        if changed:
            await connection.execute(_SAVE_PROGRESS, (self.pipeline, _json(changed)))
        if gone:
            await connection.execute(_FORGET_PROGRESS, (self.pipeline, _names(gone)))
        self._saving = checkpoint.progress
        return cursor

    async def saved(self, cursor: Cursor) -> None:
        """Note that the transaction of the last ``save`` is committed."""
        row = await cursor.fetchone()
        self.commands_wait = row is not None and bool(row[0])
        self._saved = self._saving

    def _changed(
        self, progress: Mapping[TableId, TableProgress]
    ) -> tuple[list[dict[str, object]], list[TableId]]:
        """The rows of ``tailrace.table_progress`` to write, and the tables whose rows to delete."""
        saved = self._saved
        if progress is saved:
            return [], []
        changed = [
            {"source_schema": id.schema, "source_name": id.name, **msgspec.structs.asdict(it)}
            for id, it in progress.items()
            if saved.get(id) is not it
        ]
        return changed, [id for id in saved if id not in progress]

    async def save_tables(self, tables: Sequence[Table], *, indexed: bool | None) -> None:
        """Record the versions of different tables, in the open transaction. ``indexed`` is that of
        the method ``indexed``."""
        rows: list[dict[str, object]] = []
        for table in tables:
            schema, name = self._naming.place(table.id)
            rows.append(
                {
                    "source_schema": table.id.schema,
                    "source_name": table.id.name,
                    "target_schema": schema,
                    "target_name": name,
                    "definition": _definition(table, self._storage.fingerprint(table)),
                }
            )
        await self._session.execute(_SAVE_TABLES, (self.pipeline, _json(rows), indexed))

    async def stored(self, table: Table) -> Table:
        """A table with the types that it has on the target."""
        return self._storage.table_by(table, (await self._fingerprints()).get(table.id, {}))

    async def _fingerprints(self) -> dict[TableId, Fingerprint]:
        """The policies by which the rows of each table are stored, where they are not the default
        ones."""
        cursor = await self._session.execute(_POLICIES, (self.pipeline,))
        return {
            TableId(schema, name): msgspec.json.decode(definition, type=_Policies).policies
            for schema, name, definition in await cursor.fetchall()
        }

    async def save_indexed(self, tables: Sequence[Table]) -> None:
        """Record that the secondary indexes of tables are built, in the open transaction."""
        ids = [table.id for table in tables]
        await self._session.execute(_SAVE_INDEXED, (self.pipeline, _names(ids)))

    async def forget_table(self, id: TableId) -> None:
        """Forget a table, in the open transaction."""
        await self._session.execute(
            f"DELETE FROM {SCHEMA}.table_version"
            " WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3",
            (self.pipeline, id.schema, id.name),
        )

    async def indexed(self, id: TableId) -> bool | None:
        """Whether the table's secondary indexes have been built; None: all but the unique ones,
        which a table that is backfilled in place gets when it has caught up."""
        cursor = await self._session.execute(
            f"SELECT indexed FROM {SCHEMA}.table_version"
            " WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3",
            (self.pipeline, id.schema, id.name),
        )
        row = await cursor.fetchone()
        return False if row is None else row[0]

    async def owners(self) -> dict[tuple[str, str], str]:
        """The schemas and names of all pipelines' tables on the target, each with its pipeline;
        none without a state. Commits.
        """
        await self._session.begin()
        layout = await read_layout(self._session)
        owners = await read_owners(self._session, layout) if layout else {}
        await self._session.commit()
        return owners

    async def owner(self, id: TableId) -> str | None:
        """The pipeline whose table is at this table's place on the target; None if there is
        none."""
        cursor = await self._session.execute(
            f"SELECT pipeline FROM {SCHEMA}.table_version"
            " WHERE target_schema = $1 AND target_name = $2",
            self._naming.place(id),
        )
        row = await cursor.fetchone()
        return None if row is None else str(row[0])

    @staticmethod
    def is_fenced(error: TailraceError) -> bool:
        """Whether an error of ``save`` says that the epoch is not the newest."""
        return isinstance(error.__cause__, DivisionByZero)

    def fenced(self, epoch: int) -> Fenced:
        """The error of an engine whose ``epoch`` is not the newest."""
        return Fenced(
            f"a newer engine has taken over pipeline {self.pipeline} (ours is epoch {epoch})",
            hint="Only one engine may run a pipeline: stop this one, or the other and start again.",
        )

    def _locked(self, error: SinkLost) -> SinkLost:
        return SinkLost(
            f"pipeline {self.pipeline} cannot be taken over yet: {error.message}",
            hint="An older engine is in a transaction. If its session stays, end it:"
            " SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'tailrace%' AND pid <> pg_backend_pid();",
        )


def _definition(table: Table, fingerprint: Fingerprint) -> str:
    """A table version, with the policies by which its rows are stored."""
    definition = msgspec.to_builtins(table)
    if fingerprint:
        definition["policies"] = fingerprint
    return msgspec.json.encode(definition).decode()


def _json(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as one parameter for ``json_to_recordset``."""
    return msgspec.json.encode(rows).decode()


def _names(ids: Sequence[TableId]) -> str:
    return _json([{"schema": id.schema, "name": id.name} for id in ids])
