"""
What makes tables of the target ready for writers, besides their rows: sequences past the maxima of
their columns, valid constraints, and statistics.

Everything may be repeated. A sequence never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from psycopg import IntegrityError

from engine.databases.postgres.identifiers import Naming, quote
from engine.errors import ApplyError, SinkError
from engine.handover import Client, Finished, Obstacle
from engine.schema import TableId
from sinks.postgres.session import Session

__all__ = ["advance_sequences", "clients", "finish", "obstacles"]

#: The sequences that belong to columns of a table: those of identity columns and of ``serial``.
_SEQUENCES: Final = """
SELECT n.nspname, s.relname, a.attname, q.seqincrement, q.seqmax,
  has_sequence_privilege(s.oid, 'UPDATE')
FROM pg_depend d
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_namespace n ON n.oid = s.relnamespace
JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
AND d.refobjid = to_regclass($1) AND d.deptype IN ('a', 'i')
ORDER BY a.attnum"""

#: The constraints of a table that were created NOT VALID.
_NOT_VALID: Final = """
SELECT conname FROM pg_constraint
WHERE conrelid = to_regclass($1) AND NOT convalidated AND contype IN ('c', 'f', 'n') {enforced}
ORDER BY conname"""
#: Whether the user may validate constraints of a table and collect its statistics.
_OWNS: Final = """
SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass($1)"""

#: The sessions whose user may write one of the tables, and whether they hold the lock of a
#: statement that writes it, which lasts to the end of the transaction (PostgreSQL manual,
#: "Table-Level Locks"). A user without pg_read_all_stats sees no backend_type of others.
_CLIENTS: Final = """
WITH followed AS (
  SELECT to_regclass(name) AS id FROM unnest($1::text[]) AS name
  WHERE to_regclass(name) IS NOT NULL)
SELECT a.usename || CASE WHEN a.application_name = '' THEN '' ELSE ', ' || a.application_name END,
  count(*), bool_or(EXISTS (
    SELECT FROM pg_locks l JOIN followed f ON f.id = l.relation
    WHERE l.pid = a.pid AND l.granted AND l.database = a.datid AND l.mode IN
      ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')))
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.usename IS NOT NULL AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker', 'walsender')
  AND NOT (a.usename = current_user
    AND starts_with(a.application_name, current_setting('application_name')))
  AND EXISTS (SELECT FROM followed
    WHERE has_table_privilege(a.usesysid, followed.id, 'INSERT, UPDATE, DELETE, TRUNCATE'))
GROUP BY 1 ORDER BY 1"""
#: The release that introduced constraints that are not enforced, which cannot be validated.
_ENFORCED_VERSION: Final = 180_000

#: Settings of the session of an engine that do not suit statements on whole tables.
_RESET: Final = "RESET default_statistics_target; RESET enable_hashjoin; RESET enable_mergejoin"


class Sequences(NamedTuple):
    """How many sequences of a table were set, and those that are as they were, with the reason."""

    moved: int
    left: list[str]


async def finish(
    session: Session, naming: Naming, tables: Sequence[TableId], margin: int
) -> Finished:
    """As ``KeepsCutovers.finish``. Each statement is committed by itself."""
    await session.execute(_RESET)
    sequences = constraints = 0
    left: list[str] = []
    for id in tables:
        name = naming.sql(id)
        found = await advance_sequences(session, name, margin)
        sequences += found.moved
        left += found.left
        for constraint in await _not_valid(session, name):
            statement = f"ALTER TABLE {name} VALIDATE CONSTRAINT {quote(constraint)}"
            try:
                await session.execute_bulk(statement, table=id)
            except ApplyError as error:
                if not isinstance(error.__cause__, IntegrityError):
                    raise
                left.append(f"{constraint} of {name} stays NOT VALID, because rows violate it")
            else:
                constraints += 1
        await session.execute_bulk(f"ANALYZE {name}", table=id)
    return Finished(sequences, constraints, len(tables), tuple(left))


async def advance_sequences(session: Session, table: str, margin: int) -> Sequences:
    """Set the sequences of the columns of a table, named in SQL, so that they go on ``margin`` past
    the column's maximum; one that is further stays. Raises SinkError if a sequence cannot go so
    far.
    """
    moved = 0
    left: list[str] = []
    cursor = await session.execute(_SEQUENCES, (table,))
    for schema, name, column, increment, most, _ in await cursor.fetchall():
        sequence = quote(schema, name)
        if increment < 0:
            left.append(f"the sequence {sequence} of {table} counts down")
            continue
        goal = _goal(table, column, sequence, margin)
        if not await _fits(session, goal, most):
            short = _too_short(sequence, column)
            raise SinkError(short.reason, hint=short.remedy, table=table)
        await session.execute_bulk(
            f"SELECT setval('{sequence.replace(chr(39), chr(39) * 2)}', ({goal})::bigint)",
            table=table,
        )
        moved += 1
    return Sequences(moved, left)


async def obstacles(
    session: Session, naming: Naming, tables: Sequence[TableId], margin: int
) -> list[Obstacle]:
    """As ``KeepsCutovers.obstacles``."""
    found: list[Obstacle] = []
    for id in tables:
        table = naming.sql(id)
        owns = await (await session.execute(_OWNS, (table,))).fetchone()
        if owns == (False,):
            found.append(
                Obstacle(
                    f"Tailrace's user does not own the table {table}",
                    f"ALTER TABLE {table} OWNER TO, or make it a member of the owner's role",
                )
            )
        cursor = await session.execute(_SEQUENCES, (table,))
        for schema, name, column, increment, most, may in await cursor.fetchall():
            sequence = quote(schema, name)
            if not may:
                reason = f"Tailrace's user may not set the sequence {sequence}"
                found.append(Obstacle(reason, f"GRANT UPDATE ON SEQUENCE {sequence} TO it"))
            elif increment > 0:
                goal = _goal(table, column, sequence, margin)
                if not await _fits(session, goal, most):
                    found.append(_too_short(sequence, column))
    return found


def _goal(table: str, column: str, sequence: str, margin: int) -> str:
    """The expression of the number from which a sequence goes on."""
    top = f"SELECT coalesce(max({quote(column)}), 0)::numeric + {margin} FROM {table}"
    return f"greatest(({top}), (SELECT last_value FROM {sequence}))"


async def _fits(session: Session, goal: str, most: int) -> bool:
    return await (await session.execute(f"SELECT {goal} < {most}")).fetchone() == (True,)


def _too_short(sequence: str, column: str) -> Obstacle:
    return Obstacle(
        f"the sequence {sequence} ends before the maximum of {column} and the margin",
        f"ALTER SEQUENCE {sequence} AS bigint MAXVALUE …, or set a smaller sequence_margin in"
        " [cutover]",
    )


async def clients(session: Session, naming: Naming, tables: Sequence[TableId]) -> list[Client]:
    """As ``KeepsCutovers.clients``."""
    names = [naming.sql(id) for id in tables]
    cursor = await session.execute(_CLIENTS, (names,))
    return [Client(name, sessions, writes) for name, sessions, writes in await cursor.fetchall()]


async def _not_valid(session: Session, table: str) -> list[str]:
    version = session.connection.info.server_version
    enforced = "AND conenforced" if version >= _ENFORCED_VERSION else ""
    cursor = await session.execute(_NOT_VALID.format(enforced=enforced), (table,))
    return [name for (name,) in await cursor.fetchall()]
