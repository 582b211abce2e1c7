"""
The tables of the schema ``tailrace``: their layout, and the upgrade of an older one.

    tailrace.layout           one row: the number of the layout
    tailrace.checkpoint       one row per pipeline: epoch, position, the session that owns it
    tailrace.table_progress   the backfill of each table
    tailrace.table_version    the version of each table that the target has now
    tailrace.command          the commands to a pipeline, with their outcomes
    tailrace.dead_letter      the rows that the target refused, or that wait behind them
    tailrace.repair_key       the keys of rows that commands repair, until these are concluded
    tailrace.proof            the last comparison of each table
    tailrace.comparison       the comparisons that have not ended
    tailrace.cutover          the cutovers of a pipeline

All pipelines of a database share these tables, so one upgrade moves them all. It is one
transaction under the advisory lock: after a crash the old layout is there, unchanged.

The upgrade renames tables and raises the epoch of every pipeline. Both stop an engine of an older
version that still runs, whichever pipeline it has. Its next commit finds a newer epoch, or refers
to a table that does not exist any more; the transaction is rolled back and the engine ends with an
error. When it starts again it reads ``tailrace.layout`` and refuses. It cannot take an epoch in
between either, because it reads the renamed tables in the transaction that takes the epoch.

``read_layout`` locks ``tailrace.layout`` in ACCESS SHARE MODE until the end of the transaction. An
upgrade locks that table first, in ACCESS EXCLUSIVE MODE. So the layout cannot change between
``read_layout`` and the end of the transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice

import msgspec

from engine.checkpoint import TableProgress
from engine.errors import SinkError
from engine.schema import Table, TableId
from engine.toolkit.state_migration import (
    LAYOUT,
    RENAMED_STATES,
    UPGRADED,
    require_known,
    upgrade_progress,
    upgrade_table,
)
from sinks.postgres.session import Session

__all__ = ["LAYOUT", "SCHEMA", "prepare", "read_layout", "read_progress", "read_versions"]

log = logging.getLogger("tailrace.state")

SCHEMA = "tailrace"
#: The key of the advisory lock under which the tables are created or upgraded ("tailrace").
ADVISORY_LOCK = 0x7461696C72616365
#: The number of table versions that one statement of an upgrade writes.
UPGRADE_BATCH = 500

_COMMAND = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.command (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  pipeline text NOT NULL,
  command text NOT NULL,
  submitted_by text NOT NULL,
  submitted_at timestamptz NOT NULL DEFAULT now(),
  done_at timestamptz,
  outcome text,
  refused boolean NOT NULL DEFAULT false
);
CREATE INDEX IF NOT EXISTS command_waits ON {SCHEMA}.command (pipeline)
  WHERE done_at IS NULL"""

_DEAD_LETTER = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.dead_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  pipeline text NOT NULL,
  source_schema text NOT NULL, source_name text NOT NULL,
  key text NOT NULL, operation text NOT NULL, images bytea NOT NULL,
  error text NOT NULL, message text NOT NULL, position text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  closed_at timestamptz,
  outcome text
);
CREATE INDEX IF NOT EXISTS dead_letter_open ON {SCHEMA}.dead_letter (pipeline)
  WHERE closed_at IS NULL"""

_REPAIR_KEY = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.repair_key (
  command bigint, source_schema text, source_name text,
  keys text NOT NULL,
  PRIMARY KEY (command, source_schema, source_name)
)"""

_PROOF = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.proof (
  pipeline text, source_schema text, source_name text,
  outcome text NOT NULL,
  started_at timestamptz NOT NULL, ended_at timestamptz NOT NULL, position text NOT NULL,
  rows bigint NOT NULL, differences bigint NOT NULL, hot bigint NOT NULL,
  method text NOT NULL, sampled boolean NOT NULL, reason text NOT NULL,
  equal_at timestamptz,
  generation bigint NOT NULL DEFAULT 0,
  first_at timestamptz,
  PRIMARY KEY (pipeline, source_schema, source_name)
)"""

_COMPARISON = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.comparison (
  pipeline text, source_schema text, source_name text,
  unfinished text NOT NULL,
  PRIMARY KEY (pipeline, source_schema, source_name)
)"""

_CUTOVER = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.cutover (
  id text PRIMARY KEY,
  pipeline text NOT NULL,
  state text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  record text NOT NULL,
  number bigint GENERATED ALWAYS AS IDENTITY
)"""

#: What layout 2 has besides the tables of layout 1. States of layout 2 that were written before its
#: release may lack some of it.
_ADD = f"""
ALTER TABLE {SCHEMA}.checkpoint
  ADD COLUMN IF NOT EXISTS paused boolean NOT NULL DEFAULT false;
ALTER TABLE {SCHEMA}.table_progress
  ADD COLUMN IF NOT EXISTS again boolean NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS cause json,
  ADD COLUMN IF NOT EXISTS part json,
  ADD COLUMN IF NOT EXISTS in_place boolean NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS columns json NOT NULL DEFAULT '[]',
  ADD COLUMN IF NOT EXISTS changed_at double precision NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS generation bigint NOT NULL DEFAULT 0;
ALTER TABLE {SCHEMA}.table_version ALTER COLUMN indexed DROP NOT NULL;
{_COMMAND};
{_DEAD_LETTER};
{_REPAIR_KEY};
{_PROOF};
ALTER TABLE {SCHEMA}.proof
  ADD COLUMN IF NOT EXISTS generation bigint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS first_at timestamptz;
{_COMPARISON};
{_CUTOVER};
ALTER TABLE {SCHEMA}.cutover
  ADD COLUMN IF NOT EXISTS number bigint GENERATED ALWAYS AS IDENTITY"""
#: Whether ``_ADD`` was executed: its newest columns are there.
_IS_COMPLETE = f"""
SELECT count(*) = 8 FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = '{SCHEMA}' AND NOT attisdropped AND ((relname, attname) IN
  (('checkpoint', 'paused'), ('table_progress', 'generation'), ('dead_letter', 'id'),
  ('proof', 'first_at'), ('cutover', 'number'), ('repair_key', 'keys'),
  ('comparison', 'unfinished'))
  OR (relname, attname) = ('table_version', 'indexed') AND NOT attnotnull)"""

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
  owner_started timestamptz,
  paused boolean NOT NULL DEFAULT false
);
CREATE TABLE {SCHEMA}.table_progress (
  pipeline text, source_schema text, source_name text,
  state text NOT NULL, cursor text, rows bigint NOT NULL, estimate bigint NOT NULL,
  high_watermark text,
  again boolean NOT NULL DEFAULT false,
  cause json,
  part json,
  in_place boolean NOT NULL DEFAULT false,
  columns json NOT NULL DEFAULT '[]',
  changed_at double precision NOT NULL DEFAULT 0,
  generation bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (pipeline, source_schema, source_name)
);
CREATE TABLE {SCHEMA}.table_version (
  pipeline text, source_schema text, source_name text,
  target_schema text NOT NULL, target_name text NOT NULL,
  indexed boolean DEFAULT false,
  definition text NOT NULL,
  PRIMARY KEY (pipeline, source_schema, source_name),
  UNIQUE (target_schema, target_name) DEFERRABLE INITIALLY DEFERRED
);
{_COMMAND};
{_DEAD_LETTER};
{_REPAIR_KEY};
{_PROOF};
{_COMPARISON};
{_CUTOVER}"""

# These read the catalog instead of calling to_regclass and to_regnamespace, because a session's
# catalog cache may still say "not found" after a wait for the advisory lock.
_HAS_SCHEMA = f"SELECT count(*) = 1 FROM pg_namespace WHERE nspname = '{SCHEMA}'"
_HAS_LAYOUT = f"""
SELECT count(*) = 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE nspname = '{SCHEMA}' AND relname = 'layout'"""

#: By layout: a pipeline's rows of progress, and of table versions.
_READ_PROGRESS = {
    1: "SELECT source_schema, source_name, state, cursor, rows, estimate, seen"
    f" FROM {SCHEMA}.progress WHERE pipeline = $1 ORDER BY 1, 2",
    2: "SELECT source_schema, source_name, state, cursor, rows, estimate, high_watermark, again,"
    f" cause, part, in_place, columns, changed_at FROM {SCHEMA}.table_progress WHERE pipeline = $1"
    " ORDER BY 1, 2",
}
_READ_VERSIONS = {
    layout: "SELECT source_schema, source_name, target_schema, target_name, definition"
    f" FROM {SCHEMA}.{name} WHERE pipeline = $1 ORDER BY 1, 2"
    for layout, name in ((1, "tables"), (2, "table_version"))
}

_RENAME = f"""
ALTER TABLE {SCHEMA}.progress RENAME TO table_progress;
ALTER TABLE {SCHEMA}.table_progress RENAME CONSTRAINT progress_pkey TO table_progress_pkey;
ALTER TABLE {SCHEMA}.table_progress RENAME COLUMN seen TO high_watermark;
ALTER TABLE {SCHEMA}.tables RENAME TO table_version;
ALTER TABLE {SCHEMA}.table_version RENAME CONSTRAINT tables_pkey TO table_version_pkey;
ALTER TABLE {SCHEMA}.table_version RENAME CONSTRAINT tables_target_schema_target_name_key
  TO table_version_target_schema_target_name_key"""
_WRITE_DEFINITIONS = f"""
UPDATE {SCHEMA}.table_version AS it SET definition = new.definition
FROM json_to_recordset($1::json) AS new (pipeline text, source_schema text, source_name text,
  definition text)
WHERE (it.pipeline, it.source_schema, it.source_name)
  = (new.pipeline, new.source_schema, new.source_name)"""


async def read_layout(session: Session) -> int | None:
    """The layout of the state's tables, None if there are none.

    In a transaction, it stays the same until the end. Raises ``SinkError`` if this version does not
    know the layout.
    """
    cursor = await session.execute(_HAS_LAYOUT)
    if await cursor.fetchone() != (True,):
        return None
    cursor = await session.execute(f"SELECT max(version) FROM {SCHEMA}.layout")
    (version,) = await cursor.fetchone() or (None,)
    return require_known(version, f"the target's schema {SCHEMA}")


async def prepare(session: Session) -> None:
    """Create the state's tables, or upgrade them to ``LAYOUT``.

    Several engines may do it at once: one does it, the others wait. Raises ``SinkLost`` if a lock
    cannot be had, and ``SinkError`` if a stored table version cannot be read.
    """
    if await read_layout(session) == LAYOUT and await _is_complete(session):
        return
    await session.begin()
    await session.execute("SELECT pg_advisory_xact_lock($1::bigint)", (str(ADVISORY_LOCK),))
    layout = await read_layout(session)
    tables = 0
    if layout is None:
        await _create(session)
    elif layout < LAYOUT:
        tables = await _upgrade_from_1(session)
    elif not await _is_complete(session):
        await session.execute(_ADD)
    await session.commit()
    if layout is not None and layout < LAYOUT:
        extra = {"from_layout": layout, "to_layout": LAYOUT, "tables": tables}
        log.info(UPGRADED, extra=extra)


async def _is_complete(session: Session) -> bool:
    return await (await session.execute(_IS_COMPLETE)).fetchone() == (True,)


async def _create(session: Session) -> None:
    cursor = await session.execute(_HAS_SCHEMA)
    if await cursor.fetchone() != (True,):
        await session.execute(f"CREATE SCHEMA {SCHEMA}")
    await session.execute(_CREATE)


async def _upgrade_from_1(session: Session) -> int:
    """Upgrade in the open transaction; the number of table versions of all pipelines."""
    # Each lock waits for the transactions that use the table, so what follows sees their rows.
    for name in ("layout", "checkpoint", "progress", "tables"):
        await session.execute(f"LOCK TABLE {SCHEMA}.{name} IN ACCESS EXCLUSIVE MODE")
    await session.execute(f"{_RENAME};{_ADD}")
    for before, after in RENAMED_STATES.items():
        await session.execute(
            f"UPDATE {SCHEMA}.table_progress SET state = $2 WHERE state = $1", (before, after)
        )
    cursor = await session.execute(
        f"SELECT pipeline, source_schema, source_name, definition FROM {SCHEMA}.table_version"
    )
    rows = await cursor.fetchall()
    upgraded = (
        {
            "pipeline": pipeline,
            "source_schema": schema,
            "source_name": name,
            "definition": _upgraded(TableId(schema, name), definition),
        }
        for pipeline, schema, name, definition in rows
    )
    while batch := list(islice(upgraded, UPGRADE_BATCH)):
        await session.execute(_WRITE_DEFINITIONS, (msgspec.json.encode(batch).decode(),))
    await session.execute(f"UPDATE {SCHEMA}.checkpoint SET epoch = epoch + 1")
    await session.execute(f"UPDATE {SCHEMA}.layout SET version = 2")
    return len(rows)


def _upgraded(id: TableId, definition: str) -> str:
    """A definition of layout 1 in layout 2, after a check that this version can read it."""
    with _readable(id):
        upgraded = upgrade_table(definition)
        msgspec.json.decode(upgraded, type=Table)
    return upgraded.decode()


async def read_progress(
    session: Session, pipeline: str, layout: int
) -> dict[TableId, TableProgress]:
    """The progress of the pipeline's tables, from the tables of ``layout``."""
    cursor = await session.execute(_READ_PROGRESS[layout], (pipeline,))
    names = [column.name for column in cursor.description or ()][2:]
    progress: dict[TableId, TableProgress] = {}
    for schema, name, *values in await cursor.fetchall():
        fields: dict[str, object] = dict(zip(names, values, strict=True))
        with _readable(TableId(schema, name)):
            progress[TableId(schema, name)] = msgspec.convert(
                upgrade_progress(fields) if layout == 1 else fields, TableProgress
            )
    return progress


async def read_generations(session: Session, pipeline: str, layout: int) -> dict[TableId, int]:
    """The generation of each of the pipeline's tables; none in layout 1."""
    if layout == 1:
        return {}
    cursor = await session.execute(
        f"SELECT source_schema, source_name, generation FROM {SCHEMA}.table_progress"
        " WHERE pipeline = $1",
        (pipeline,),
    )
    return {TableId(schema, name): it for schema, name, it in await cursor.fetchall()}


async def read_owners(session: Session, layout: int) -> dict[tuple[str, str], str]:
    """The schemas and names of all pipelines' tables on the target, each with its pipeline."""
    cursor = await session.execute(
        "SELECT target_schema, target_name, pipeline"
        f" FROM {SCHEMA}.{'tables' if layout == 1 else 'table_version'}"
    )
    return {(schema, name): str(owner) for schema, name, owner in await cursor.fetchall()}


async def read_versions(
    session: Session, pipeline: str, layout: int
) -> list[tuple[tuple[str, str], Table]]:
    """The versions of the pipeline's tables, each with its schema and name on the target."""
    cursor = await session.execute(_READ_VERSIONS[layout], (pipeline,))
    versions: list[tuple[tuple[str, str], Table]] = []
    for schema, name, target_schema, target_name, definition in await cursor.fetchall():
        with _readable(TableId(schema, name)):
            table = msgspec.json.decode(
                upgrade_table(definition) if layout == 1 else definition, type=Table
            )
        versions.append(((target_schema, target_name), table))
    return versions


@contextmanager
def _readable(id: TableId) -> Generator[None, None, None]:
    try:
        yield
    except msgspec.DecodeError as error:
        raise SinkError(
            f"the stored state of the table cannot be read: {error}",
            hint=f"Restore the schema {SCHEMA} of the target from a backup.",
            table=id,
        ) from error
