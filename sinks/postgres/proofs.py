"""
The last comparison of each table, in the table ``tailrace.proof``.

A command that compares writes it while an engine runs, so nothing here is part of the engine's
transaction, and each table is a statement of its own: it cannot wait in a circle with the engine,
which removes the proofs of dropped tables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import msgspec

from engine.errors import SinkError
from engine.proof import TableProof, Unfinished
from engine.schema import TableId
from sinks.postgres.layout import SCHEMA
from sinks.postgres.session import Session

__all__ = ["KeepsProofs", "ProofTable"]

_READ = f"""
SELECT source_schema, source_name, outcome, extract(epoch FROM started_at)::float8,
  extract(epoch FROM ended_at)::float8,
  CASE proof.generation WHEN p.generation THEN position ELSE '' END,
  proof.rows, differences, hot, method, sampled, reason, extract(epoch FROM equal_at)::float8,
  extract(epoch FROM coalesce(first_at, started_at))::float8
FROM {SCHEMA}.proof LEFT JOIN {SCHEMA}.table_progress p
  USING (pipeline, source_schema, source_name)
WHERE pipeline = $1 ORDER BY 1, 2"""

# Not after a reset, which has removed the checkpoint.
_SAVE = f"""
INSERT INTO {SCHEMA}.proof (pipeline, source_schema, source_name, outcome, started_at, ended_at,
  position, rows, differences, hot, method, sampled, reason, equal_at,
  generation, first_at)
SELECT $1, $2, $3, $4, to_timestamp($5::float8), to_timestamp($6::float8), $7, $8::bigint,
  $9::bigint, $10::bigint, $11, $12::boolean, $13, to_timestamp($14::float8),
  $15::bigint, to_timestamp($5::float8)
WHERE EXISTS (SELECT FROM {SCHEMA}.checkpoint WHERE pipeline = $1)
ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET
  outcome = excluded.outcome, started_at = excluded.started_at, ended_at = excluded.ended_at,
  position = excluded.position, rows = excluded.rows, differences = excluded.differences,
  hot = excluded.hot, method = excluded.method, sampled = excluded.sampled,
  reason = excluded.reason, equal_at = coalesce(excluded.equal_at, proof.equal_at),
  generation = excluded.generation, first_at = coalesce(proof.first_at, proof.started_at)"""

# In the order of the engine's commit, which writes the checkpoint first: the two cannot wait in a
# circle.
_LOCK = f"SELECT FROM {SCHEMA}.checkpoint WHERE pipeline = $1 FOR UPDATE"
_VOID = f"UPDATE {SCHEMA}.table_progress SET generation = txid_current() WHERE pipeline = $1"

# A state of an older version, which no engine of this one has taken over, has no such table.
_EXISTS = f"""
SELECT EXISTS (SELECT FROM pg_attribute
WHERE attrelid = to_regclass('{SCHEMA}.proof') AND attname = 'first_at')"""


_SAVE_UNFINISHED = f"""
INSERT INTO {SCHEMA}.comparison (pipeline, source_schema, source_name, unfinished)
SELECT $1, $2, $3, $4 FROM {SCHEMA}.table_progress
WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3 AND state = 'live'
ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET unfinished = excluded.unfinished"""
_FORGET_UNFINISHED = f"""
DELETE FROM {SCHEMA}.comparison WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3"""
_READ_UNFINISHED = f"""
SELECT source_schema, source_name, unfinished FROM {SCHEMA}.comparison WHERE pipeline = $1"""


class ProofTable:
    """The proofs of one pipeline, through a session."""

    def __init__(self, session: Session, pipeline: str) -> None:
        self._session = session
        self._pipeline = pipeline

    async def save(
        self, proofs: Mapping[TableId, TableProof], generations: Mapping[TableId, int]
    ) -> None:
        """As ``ProofStore.save_proofs``."""
        if not await self._exists():
            raise SinkError(
                "the target has no table for the outcomes of comparisons yet",
                hint="start the engine of this version once: `tailrace run CONFIG`",
            )
        for id, proof in proofs.items():
            numbers = (proof.rows, proof.differences, proof.hot)
            values = (
                *(self._pipeline, id.schema, id.name, proof.outcome),
                *(repr(proof.started_at), repr(proof.ended_at), proof.position),
                *(*map(str, numbers), proof.method, str(proof.sampled), proof.reason),
                None if proof.equal_at is None else repr(proof.equal_at),
                str(generations[id]),
            )
            await self._session.execute(_SAVE, values)

    async def void(self) -> None:
        """As ``ProofStore.void_proofs``."""
        await self._session.begin()
        await self._session.execute(_LOCK, (self._pipeline,))
        await self._session.execute(_VOID, (self._pipeline,))
        await self._session.commit()

    async def read(self) -> dict[TableId, TableProof]:
        """As ``ProofStore.proofs``."""
        if not await self._exists():
            return {}
        cursor = await self._session.execute(_READ, (self._pipeline,))
        return {
            TableId(schema, name): TableProof(*values)
            for schema, name, *values in await cursor.fetchall()
        }

    async def save_unfinished(self, id: TableId, unfinished: Unfinished | None) -> None:
        """As ``UnfinishedStore.save_unfinished``."""
        place = (self._pipeline, id.schema, id.name)
        if unfinished is None:
            await self._session.execute(_FORGET_UNFINISHED, place)
        else:
            text = msgspec.json.encode(unfinished).decode()
            await self._session.execute(_SAVE_UNFINISHED, (*place, text))

    async def read_unfinished(self) -> dict[TableId, Unfinished]:
        """As ``UnfinishedStore.unfinished``."""
        cursor = await self._session.execute(_READ_UNFINISHED, (self._pipeline,))
        return {
            TableId(schema, name): msgspec.json.decode(text, type=Unfinished)
            for schema, name, text in await cursor.fetchall()
        }

    async def _exists(self) -> bool:
        return await (await self._session.execute(_EXISTS)).fetchone() == (True,)


class KeepsProofs(ABC):
    """The part of a sink that is a ``ProofStore`` and an ``UnfinishedStore``."""

    _pipeline: str

    @abstractmethod
    def _own_session(self) -> AbstractAsyncContextManager[Session]:
        """A session besides that of the engine."""

    async def save_proofs(
        self, proofs: Mapping[TableId, TableProof], generations: Mapping[TableId, int]
    ) -> None:
        """As ``ProofStore.save_proofs``."""
        async with self._own_session() as session:
            await ProofTable(session, self._pipeline).save(proofs, generations)

    async def void_proofs(self) -> None:
        """As ``ProofStore.void_proofs``."""
        async with self._own_session() as session:
            await ProofTable(session, self._pipeline).void()

    async def save_unfinished(self, id: TableId, unfinished: Unfinished | None) -> None:
        """As ``UnfinishedStore.save_unfinished``."""
        async with self._own_session() as session:
            await ProofTable(session, self._pipeline).save_unfinished(id, unfinished)

    async def unfinished(self) -> dict[TableId, Unfinished]:
        """As ``UnfinishedStore.unfinished``."""
        async with self._own_session() as session:
            return await ProofTable(session, self._pipeline).read_unfinished()

    async def proofs(self) -> dict[TableId, TableProof]:
        """As ``ProofStore.proofs``."""
        async with self._own_session() as session:
            return await ProofTable(session, self._pipeline).read()
