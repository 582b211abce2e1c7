"""
The cutovers of a pipeline, in the table ``tailrace.cutover``: one row for each, with its record.

The process that works on them holds an advisory lock for as long as its session lives. What it
saves goes through that session, so a process that has lost the lock saves nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.errors import SinkError
from engine.handover import Cutover
from sinks.postgres.layout import SCHEMA
from sinks.postgres.session import Session

__all__ = ["CutoverTable"]

# A state of an older version, which no engine of this one has taken over, has no such table.
_EXISTS: Final = f"""
SELECT EXISTS (SELECT FROM pg_attribute
WHERE attrelid = to_regclass('{SCHEMA}.cutover') AND attname = 'number')"""
_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('tailrace.cutover ' || $1, 0))"
_SAVE: Final = f"""
INSERT INTO {SCHEMA}.cutover (id, pipeline, state, record) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE
SET state = excluded.state, record = excluded.record, updated_at = now()"""
# By number, because the clock of the target may have been set back.
_NEWEST: Final = f"""
SELECT record FROM {SCHEMA}.cutover WHERE pipeline = $1 ORDER BY number DESC LIMIT 1"""
_RESET: Final = f"""
UPDATE {SCHEMA}.cutover
SET record = (record::jsonb || jsonb_build_object('reset_at', extract(epoch FROM now())))::text
WHERE pipeline = $1 AND state = 'done'"""


class CutoverTable:
    """A ``CutoverStore`` through a session."""

    def __init__(self, session: Session, pipeline: str) -> None:
        self._session = session
        self._pipeline = pipeline

    async def lock(self) -> None:
        """Become the one process that works on them. Raises SinkError if there is one already."""
        if not await self._is_true(_EXISTS):
            raise SinkError(
                "the target has no table for cutovers yet",
                hint="start the engine of this version once: `tailrace run CONFIG`",
            )
        if not await self._is_true(_LOCK, self._pipeline):
            raise SinkError(
                "another process works on the cutover of this pipeline",
                hint="`tailrace cutover CONFIG --status` shows its state",
            )

    async def save(self, cutover: Cutover) -> None:
        """As ``CutoverStore.save``."""
        record = msgspec.json.encode(cutover).decode()
        await self._session.execute(_SAVE, (cutover.id, self._pipeline, cutover.state, record))

    async def newest(self) -> Cutover | None:
        """As ``CutoverStore.newest``."""
        if not await self._is_true(_EXISTS):
            return None
        row = await (await self._session.execute(_NEWEST, (self._pipeline,))).fetchone()
        try:
            return None if row is None else msgspec.json.decode(row[0], type=Cutover)
        except msgspec.DecodeError as error:
            raise SinkError(
                f"the stored record of the cutover cannot be read: {error}",
                hint="use the version of Tailrace that has written it",
            ) from error

    async def reset(self) -> None:
        """Note in the cutovers that are done that the pipeline begins anew: its engine may run
        again.
        """
        if await self._is_true(_EXISTS):
            await self._session.execute(_RESET, (self._pipeline,))

    async def _is_true(self, query: str, *parameters: str) -> bool:
        return await (await self._session.execute(query, parameters)).fetchone() == (True,)
