"""
Dead letters: the table ``tailrace.dead_letter`` has the rows that the target refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.recovery import DeadLetter
from engine.schema import TableId
from sinks.postgres.layout import SCHEMA
from sinks.postgres.session import Session

__all__ = ["DeadLetterTable"]

_READ = f"""
SELECT source_schema, source_name, key, operation, images, error, message, position, id,
  extract(epoch FROM at)::float8, outcome
FROM {SCHEMA}.dead_letter WHERE pipeline = $1"""

_ADD = f"""
INSERT INTO {SCHEMA}.dead_letter
  (pipeline, source_schema, source_name, key, operation, images, error, message, position)
VALUES ($1, $2, $3, $4, $5, decode($6, 'hex'), $7, $8, $9)"""

_CLOSE = f"""
UPDATE {SCHEMA}.dead_letter SET closed_at = now(), outcome = $4 WHERE pipeline = $1
AND source_schema = $2 AND source_name = $3 AND closed_at IS NULL"""


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
        values: Sequence[str] = (self._pipeline, id.schema, id.name, outcome)
        if letter is None:
            await self._session.execute(_CLOSE, values)
        else:
            await self._session.execute(f"{_CLOSE} AND id = $5::bigint", (*values, str(letter)))
