"""
What makes tables of the target ready for writers, besides their rows: sequences past the maxima of
their columns, valid constraints, and statistics.

Everything may be repeated. A sequence never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.databases.postgres.identifiers import Naming, quote
from engine.errors import SinkError
from engine.handover import Finished
from engine.schema import TableId
from sinks.postgres.session import Session

__all__ = ["advance_sequences", "finish"]

#: The sequences that belong to columns of a table: those of identity columns and of ``serial``.
_SEQUENCES: Final = """
SELECT n.nspname, s.relname, a.attname, q.seqincrement, q.seqmax
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
            await session.execute_bulk(statement, table=id)
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
    for schema, name, column, increment, most in await cursor.fetchall():
        sequence = quote(schema, name)
        if increment < 0:
            left.append(f"the sequence {sequence} of {table} counts down")
            continue
        top = f"SELECT coalesce(max({quote(column)}), 0)::numeric + {margin} FROM {table}"
        goal = f"greatest(({top}), (SELECT last_value FROM {sequence}))"
        ((fits,),) = await (await session.execute(f"SELECT {goal} <= {most}")).fetchall()
        if not fits:
            raise SinkError(
                f"the sequence {sequence} ends before the maximum of {column} and the margin",
                hint=f"ALTER SEQUENCE {sequence} AS bigint MAXVALUE …, or set a smaller"
                " sequence_margin in [cutover]",
                table=table,
            )
        await session.execute_bulk(
            f"SELECT setval('{sequence.replace(chr(39), chr(39) * 2)}', ({goal})::bigint)",
            table=table,
        )
        moved += 1
    return Sequences(moved, left)


async def _not_valid(session: Session, table: str) -> list[str]:
    version = session.connection.info.server_version
    enforced = "AND conenforced" if version >= _ENFORCED_VERSION else ""
    cursor = await session.execute(_NOT_VALID.format(enforced=enforced), (table,))
    return [name for (name,) in await cursor.fetchall()]
