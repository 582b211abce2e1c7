"""
What the sink remembers, in the target itself: the schema ``tailrace``.

    tailrace.layout       the version of these tables
    tailrace.checkpoint   one row per pipeline: epoch, position, the session that owns it
    tailrace.progress     the snapshot of each table
    tailrace.tables       the version of each table that the target has now

Fencing: ``checkpoint`` is written last in a data transaction, and only where its epoch is ours. So
a newer engine takes the epoch at once, whatever an older one has open, unless that one is between
this write and its COMMIT; then the row's lock makes the newer one wait and see its outcome. The
same lock tells an engine the outcome of its own COMMIT after the connection broke. Then a
transaction that the older engine has open is ended, so that none of its locks is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg.errors import InsufficientPrivilege, LockNotAvailable

from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import State
from engine.databases.postgres.identifiers import Naming
from engine.errors import Fenced, SinkError, SinkLost
from engine.schema import Table, TableId
from sinks.postgres.session import Session

__all__ = ["SCHEMA", "StateStore"]

SCHEMA = "tailrace"
LAYOUT = 1
#: The key of the advisory lock under which the tables are made ("tailrace").
ADVISORY_LOCK = 0x7461696C72616365

_CREATE = f"""
CREATE TABLE {SCHEMA}.layout (version integer NOT NULL);
INSERT INTO {SCHEMA}.layout VALUES ({LAYOUT});
CREATE TABLE {SCHEMA}.checkpoint (
  pipeline text PRIMARY KEY,
  epoch bigint NOT NULL,
  position text,
  committed_at double precision NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  owner_pid integer,
  owner_started timestamptz
);
CREATE TABLE {SCHEMA}.progress (
  pipeline text, source_schema text, source_name text,
  state text NOT NULL, cursor text, rows bigint NOT NULL, estimate bigint NOT NULL, seen text,
  PRIMARY KEY (pipeline, source_schema, source_name)
);
CREATE TABLE {SCHEMA}.tables (
  pipeline text, source_schema text, source_name text,
  target_schema text NOT NULL, target_name text NOT NULL,
  indexed boolean NOT NULL DEFAULT false,
  definition text NOT NULL,
  PRIMARY KEY (pipeline, source_schema, source_name),
  UNIQUE (target_schema, target_name) DEFERRABLE INITIALLY DEFERRED
)"""

_TAKE = f"""
INSERT INTO {SCHEMA}.checkpoint (pipeline, epoch) VALUES ($1, 1)
ON CONFLICT (pipeline) DO UPDATE SET epoch = checkpoint.epoch + 1, updated_at = now()
RETURNING epoch, owner_pid, owner_started::text"""

_CONFIRM = f"""
SELECT epoch, owner_pid, owner_started::text FROM {SCHEMA}.checkpoint WHERE pipeline = $1"""

_OWN = f"""
UPDATE {SCHEMA}.checkpoint SET owner_pid = pg_backend_pid(), owner_started =
  (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
WHERE pipeline = $1"""

# Without a transaction it holds no lock. A pooler may have given it to somebody else, or to us.
_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND backend_start = $2 AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
AND application_name = current_setting('application_name')"""

_SAVE = f"""
UPDATE {SCHEMA}.checkpoint SET position = $3, committed_at = $4, updated_at = now()
WHERE pipeline = $1 AND epoch = $2"""

_SAVE_PROGRESS = f"""
INSERT INTO {SCHEMA}.progress
SELECT $1, it.* FROM json_to_recordset($2::json) AS it (source_schema text, source_name text,
  state text, cursor text, rows bigint, estimate bigint, seen text)
ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET
  state = excluded.state, cursor = excluded.cursor, rows = excluded.rows,
  estimate = excluded.estimate, seen = excluded.seen"""

_FORGET_PROGRESS = f"""
DELETE FROM {SCHEMA}.progress USING json_to_recordset($2::json) AS it (schema text, name text)
WHERE pipeline = $1 AND source_schema = it.schema AND source_name = it.name"""

_SAVE_TABLES = f"""
INSERT INTO {SCHEMA}.tables
SELECT $1, source_schema, source_name, target_schema, target_name, $3, definition
FROM json_to_recordset($2::json) AS it (source_schema text, source_name text,
  target_schema text, target_name text, definition text)
ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET
  target_schema = excluded.target_schema, target_name = excluded.target_name,
  indexed = excluded.indexed, definition = excluded.definition"""

_SAVE_INDEXED = f"""
UPDATE {SCHEMA}.tables SET indexed = true
FROM json_to_recordset($2::json) AS it (schema text, name text)
WHERE pipeline = $1 AND source_schema = it.schema AND source_name = it.name"""


class StateStore:
    """Reads and writes the state of one pipeline through a session."""

    def __init__(self, session: Session, pipeline: str, naming: Naming) -> None:
        self._session = session
        self.pipeline = pipeline
        self._naming = naming
        self._saved: Mapping[TableId, TableProgress] = {}
        self._saving: Mapping[TableId, TableProgress] = {}

    async def exists(self) -> bool:
        """Whether the state's tables are there, in the layout that this version knows."""
        cursor = await self._session.execute(f"SELECT to_regclass('{SCHEMA}.layout') IS NOT NULL")
        if await cursor.fetchone() != (True,):
            return False
        cursor = await self._session.execute(f"SELECT max(version) FROM {SCHEMA}.layout")
        (version,) = await cursor.fetchone() or (None,)
        if version != LAYOUT:
            raise SinkError(
                f"the target's schema {SCHEMA} has layout {version}, this version knows {LAYOUT}",
                hint="Use the version of tailrace that made it, or a newer one.",
            )
        return True

    async def create(self) -> None:
        """Make the state's tables if they are not there; safe when several engines start at
        once."""
        if await self.exists():
            return
        session = self._session
        await session.begin()
        await session.execute("SELECT pg_advisory_xact_lock($1::bigint)", (str(ADVISORY_LOCK),))
        if not await self.exists():
            cursor = await session.execute(f"SELECT to_regnamespace('{SCHEMA}') IS NOT NULL")
            if await cursor.fetchone() != (True,):
                await session.execute(f"CREATE SCHEMA {SCHEMA}")
            await session.execute(_CREATE)
        await session.commit()

    async def take(self, epoch: int | None) -> State:
        """Take a new epoch, or confirm ``epoch``, and read all that is stored.

        Raises ``Fenced``, or ``SinkLost`` if another engine's COMMIT does not end. The session that
        had the pipeline before is ended if it is in a transaction: an engine that is frozen there
        would hold its locks.
        """
        session, one = self._session, (self.pipeline,)
        await session.begin()
        try:
            cursor = await session.execute(
                _TAKE if epoch is None else f"{_CONFIRM} FOR UPDATE", one
            )
        except SinkLost as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            if epoch is None:
                await session.rollback()
                await self._end_session(await (await session.execute(_CONFIRM, one)).fetchone())
            raise self._locked(error) from error
        owner = await cursor.fetchone()
        newest = owner[0] if owner else None
        if epoch is not None and newest != epoch:
            await session.rollback()
            raise self.fenced(epoch)
        state = await self.read()
        if state is None:
            raise SinkError(f"the checkpoint of pipeline {self.pipeline} vanished from the target")
        await session.execute(_OWN, one)
        await session.commit()
        await self._end_session(owner)
        self._saved = state.checkpoint.progress if state.checkpoint is not None else {}
        return state

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
        """All that is stored, None if nothing is."""
        one = (self.pipeline,)
        cursor = await self._session.execute(
            f"SELECT epoch, position, committed_at FROM {SCHEMA}.checkpoint WHERE pipeline = $1",
            one,
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        epoch, position, committed_at = row
        cursor = await self._session.execute(
            "SELECT source_schema, source_name, state, cursor, rows, estimate, seen"
            f" FROM {SCHEMA}.progress WHERE pipeline = $1 ORDER BY 1, 2",
            one,
        )
        progress = {
            TableId(schema, name): TableProgress(*rest)
            for schema, name, *rest in await cursor.fetchall()
        }
        cursor = await self._session.execute(
            f"SELECT definition FROM {SCHEMA}.tables WHERE pipeline = $1"
            " ORDER BY source_schema, source_name",
            one,
        )
        tables = tuple(
            msgspec.json.decode(definition, type=Table) for (definition,) in await cursor.fetchall()
        )
        if position is None:
            return State(epoch, None, tables)
        checkpoint = Checkpoint(self.pipeline, epoch, position, committed_at, progress)
        return State(epoch, checkpoint, tables)

    async def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint into the open transaction, with what has changed of the progress.

        Raises ``Fenced`` if the epoch is not the newest. Call ``saved`` after the commit.
        """
        connection = self._session.connection
        changed, gone = self._changed(checkpoint.progress)
        async with self._session.translate_errors(), connection.pipeline():
            await self._session.begin()
            values = (checkpoint.epoch, checkpoint.position, checkpoint.committed_at)
            cursor = await connection.execute(
                _SAVE, (self.pipeline, *map(str, values)), prepare=True
            )
            if changed:
                await connection.execute(_SAVE_PROGRESS, (self.pipeline, _json(changed)))
            if gone:
                await connection.execute(_FORGET_PROGRESS, (self.pipeline, _names(gone)))
        if cursor.rowcount != 1:
            raise self.fenced(checkpoint.epoch)
        self._saving = checkpoint.progress

    def saved(self) -> None:
        """What ``save`` wrote last is durable."""
        self._saved = self._saving

    def _changed(
        self, snapshot: Mapping[TableId, TableProgress]
    ) -> tuple[list[dict[str, object]], list[TableId]]:
        """Rows of ``progress`` to be written, and the tables of those to be deleted."""
        saved = self._saved
        if snapshot is saved:
            return [], []
        changed = [
            {"source_schema": id.schema, "source_name": id.name, **msgspec.structs.asdict(it)}
            for id, it in snapshot.items()
            if saved.get(id) is not it
        ]
        return changed, [id for id in saved if id not in snapshot]

    async def save_tables(self, tables: Sequence[Table], *, indexed: bool) -> None:
        """Record the versions of different tables, in the open transaction."""
        rows: list[dict[str, object]] = []
        for table in tables:
            schema, name = self._naming.place(table.id)
            rows.append(
                {
                    "source_schema": table.id.schema,
                    "source_name": table.id.name,
                    "target_schema": schema,
                    "target_name": name,
                    "definition": msgspec.json.encode(table).decode(),
                }
            )
        await self._session.execute(_SAVE_TABLES, (self.pipeline, _json(rows), indexed))

    async def save_indexed(self, tables: Sequence[Table]) -> None:
        """Record that the secondary indexes of tables are built, in the open transaction."""
        ids = [table.id for table in tables]
        await self._session.execute(_SAVE_INDEXED, (self.pipeline, _names(ids)))

    async def forget_table(self, id: TableId) -> None:
        """Forget a table, in the open transaction."""
        await self._session.execute(
            f"DELETE FROM {SCHEMA}.tables"
            " WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3",
            (self.pipeline, id.schema, id.name),
        )

    async def indexed(self, id: TableId) -> bool:
        """Whether the table's secondary indexes have been built."""
        cursor = await self._session.execute(
            f"SELECT indexed FROM {SCHEMA}.tables"
            " WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3",
            (self.pipeline, id.schema, id.name),
        )
        return await cursor.fetchone() == (True,)

    async def owner(self, id: TableId) -> str | None:
        """The pipeline that has made the table at this table's place on the target; None: none
        has."""
        cursor = await self._session.execute(
            f"SELECT pipeline FROM {SCHEMA}.tables WHERE target_schema = $1 AND target_name = $2",
            self._naming.place(id),
        )
        row = await cursor.fetchone()
        return None if row is None else str(row[0])

    def fenced(self, epoch: int) -> Fenced:
        """The error of an engine of ``epoch`` that is not the newest."""
        return Fenced(
            f"a newer engine has taken over pipeline {self.pipeline} (ours is epoch {epoch})",
            hint="Only one engine may run a pipeline: stop this one, or the other and start again.",
        )

    def _locked(self, error: SinkLost) -> SinkLost:
        return SinkLost(
            f"pipeline {self.pipeline} cannot be taken over yet: {error.message}",
            hint="An older engine's COMMIT has not ended. If its session stays, end it:"
            " SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'tailrace%' AND pid <> pg_backend_pid();",
        )


def _json(rows: Sequence[Mapping[str, object]]) -> str:
    """Any number of rows as one parameter, to be read by ``json_to_recordset``."""
    return msgspec.json.encode(rows).decode()


def _names(ids: Sequence[TableId]) -> str:
    return _json([{"schema": id.schema, "name": id.name} for id in ids])
