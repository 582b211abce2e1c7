"""
What makes tables of the target ready for writers, besides their rows: sequences past the maxima of
their columns, valid constraints, and statistics.

Everything may be repeated. A sequence never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from psycopg import IntegrityError

from engine.databases.postgres.identifiers import Naming, fitted, quote
from engine.errors import ApplyError, SinkError
from engine.handover import Client, Finished, Numbers, Obstacle
from engine.schema import TableId
from sinks.postgres.defaults import literal
from sinks.postgres.session import Session

__all__ = ["clients", "finish", "obstacles"]

#: The sequences that belong to columns of a table: those of identity columns and of ``serial``.
#: ``room`` is the largest number that a sequence could have for the column.
_SEQUENCES: Final = """
SELECT n.nspname, s.relname, a.attname, q.seqincrement, q.seqmax,
  CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
    ELSE 9223372036854775807 END AS room,
  has_sequence_privilege(s.oid, 'UPDATE') AND has_sequence_privilege(s.oid, 'SELECT')
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


async def finish(
    session: Session, naming: Naming, tables: Sequence[TableId], numbers: Numbers
) -> Finished:
    """As ``KeepsCutovers.finish``. Each statement is committed by itself."""
    await session.execute(_RESET)
    moved = constraints = 0
    left: list[str] = []
    for id in tables:
        name = naming.sql(id)
        for sequence in await _sequences(session, name, id, numbers):
            if sequence.counts_down:
                left.append(f"the sequence {sequence.name} of {name} counts down")
                continue
            await _advance(session, sequence, id)
            moved += 1
            if sequence.is_exhausted:
                left.append(
                    f"the sequence {sequence.name} is at its end: {sequence.column} of {name} has"
                    " its largest number"
                )
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
    return Finished(moved, constraints, len(tables), tuple(left))


async def obstacles(
    session: Session, naming: Naming, tables: Sequence[TableId], numbers: Numbers
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
        for sequence in await _sequences(session, table, id, numbers):
            if not sequence.may_set:
                reason = f"Tailrace's user may not set the sequence {sequence.name}"
                remedy = f"GRANT SELECT, UPDATE ON SEQUENCE {sequence.name} TO it"
                found.append(Obstacle(reason, remedy))
            elif not sequence.counts_down and (short := sequence.too_short()):
                found.append(short)
    return found


class _Sequence(NamedTuple):
    """A sequence of a column, which has numbers up to ``used``. It should go on after ``goal``, and
    ends at ``most``. ``can_grow``: the column has room for more.
    """

    name: str
    column: str
    counts_down: bool
    may_set: bool
    used: int
    goal: int
    most: int
    can_grow: bool

    @property
    def is_exhausted(self) -> bool:
        """Whether no number is left, as on the source."""
        return self.used >= self.most and not self.can_grow

    def too_short(self) -> Obstacle | None:
        """Why the sequence cannot go so far; None if it can, or if no number is left anyway."""
        if self.goal < self.most or self.is_exhausted:
            return None
        return Obstacle(
            f"the sequence {self.name} ends before the maximum of {self.column} and the margin",
            f"ALTER SEQUENCE {self.name} AS bigint MAXVALUE …, or set a smaller sequence_margin in"
            " [cutover]",
        )


async def _sequences(
    session: Session, table: str, id: TableId, numbers: Numbers
) -> list[_Sequence]:
    """Those of the columns of a table, which is named in SQL."""
    counter = numbers.counters.get(id)
    found = []
    rows = await (await session.execute(_SEQUENCES, (table,))).fetchall()
    for schema, name, column, increment, most, room, may in rows:
        sequence = quote(schema, name)
        last, maximum = 0, 0
        if may:
            cursor = await session.execute(
                f"SELECT last_value, (SELECT coalesce(max({quote(column)}), 0)::numeric"
                f" FROM {table}) FROM {sequence}"
            )
            last, maximum = await cursor.fetchone() or (0, 0)
        given = counter.next - 1 if counter and fitted(counter.column) == column else 0
        used = max(int(maximum), given)
        goal = max(used + numbers.margin, last)
        found.append(
            _Sequence(
                *(sequence, column, increment < 0, may, max(used, last), goal, most),
                can_grow=most < room,
            )
        )
    return found


async def _advance(session: Session, sequence: _Sequence, table: TableId) -> None:
    """Set a sequence so that it goes on after its goal; one that is further stays. Raises SinkError
    if it cannot go so far.
    """
    short = sequence.too_short()
    if short is not None:
        raise SinkError(short.reason, hint=short.remedy, table=table)
    await session.execute_bulk(
        f"SELECT setval({literal(sequence.name)}, greatest({min(sequence.goal, sequence.most)},"
        f" (SELECT last_value FROM {sequence.name})))",
        table=table,
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
