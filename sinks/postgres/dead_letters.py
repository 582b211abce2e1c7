"""
Dead letters: the table ``tailrace.dead_letter`` has the rows that the target refused.

A letter that is closed stays as a record, without the images of the row.
"""

from __future__ import annotations

from engine.recovery import DeadLetter
from engine.schema import TableId
from sinks.postgres.layout import SCHEMA
from sinks.postgres.session import Session

__all__ = ["CLOSE", "DeadLetterTable"]

_READ = f"""
SELECT source_schema, source_name, key, operation, images, error, message, position, id,
  extract(epoch FROM at)::float8, outcome
FROM {SCHEMA}.dead_letter WHERE pipeline = $1"""

_ADD = f"""
INSERT INTO {SCHEMA}.dead_letter
  (pipeline, source_schema, source_name, key, operation, images, error, message, position)
VALUES ($1, $2, $3, $4, $5, decode($6, 'hex'), $7, $8, $9)"""

#: Closes the open letters of a pipeline, with an outcome.
CLOSE = f"""
UPDATE {SCHEMA}.dead_letter SET closed_at = now(), outcome = $2, images = ''
WHERE pipeline = $1 AND closed_at IS NULL"""
_CLOSE_OF_TABLE = f"{CLOSE} AND source_schema = $3 AND source_name = $4"
_CLOSE_ONE = f"{_CLOSE_OF_TABLE} AND id = $5::bigint"

# It is asked for by ``tailrace status``, which reads the layout 1 as well: that has no such table.
_EXISTS = f"SELECT to_regclass('{SCHEMA}.dead_letter') IS NOT NULL"
_COUNT = f"""
SELECT source_schema, source_name, count(*) FROM {SCHEMA}.dead_letter
WHERE pipeline = $1 AND closed_at IS NULL GROUP BY 1, 2 ORDER BY 1, 2"""


class DeadLetterTable:
    """The dead letters of one pipeline, through a session."""

    def __init__(self, session: Session, pipeline: str) -> None:
        self._session = session
        self._pipeline = pipeline

    async def add(self, letter: DeadLetter) -> None:
        """Store a letter, in the open transaction."""
        await self._session.begin()
        values = (
            *(self._pipeline, letter.table.schema, letter.table.name, letter.key),
            *(letter.operation, letter.images.hex()),
            *(letter.error, letter.message, letter.position),
        )
        await self._session.execute(_ADD, values)

    async def read(self, *, closed: bool) -> list[DeadLetter]:
        """The open letters in order; with ``closed`` all."""
        query = f"{_READ}{'' if closed else ' AND closed_at IS NULL'} ORDER BY id"
        cursor = await self._session.execute(query, (self._pipeline,))
        return [
            DeadLetter(TableId(schema, name), *values)
            for schema, name, *values in await cursor.fetchall()
        ]

    async def close(self, id: TableId, letter: int | None, outcome: str) -> None:
        """Close one open letter of a table, or all, in the open transaction."""
        await self._session.begin()
        values = (self._pipeline, outcome, id.schema, id.name)
        if letter is None:
            await self._session.execute(_CLOSE_OF_TABLE, values)
        else:
            await self._session.execute(_CLOSE_ONE, (*values, str(letter)))

    async def count(self) -> dict[TableId, int]:
        """The number of open letters of each table that has some."""
        cursor = await self._session.execute(_EXISTS)
        if await cursor.fetchone() != (True,):
            return {}
        cursor = await self._session.execute(_COUNT, (self._pipeline,))
        return {TableId(schema, name): count for schema, name, count in await cursor.fetchall()}
