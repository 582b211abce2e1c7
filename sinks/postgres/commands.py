"""
The commands to a pipeline, in the table ``tailrace.command``. The table keeps them with who gave
them and what became of them.

``commands_wait`` costs no round trip: the statement that saves the checkpoint returns it.
"""

from __future__ import annotations

from typing import Any

from engine.commands import StoredCommand
from engine.errors import SinkError
from sinks.postgres.layout import LAYOUT, SCHEMA, read_layout
from sinks.postgres.session import Session

__all__ = ["COMMANDS_WAIT", "CommandTable"]

#: Whether commands wait for the pipeline $1.
COMMANDS_WAIT = (
    f"EXISTS (SELECT FROM {SCHEMA}.command WHERE command.pipeline = $1 AND done_at IS NULL)"
)

_COLUMNS = "id, command, submitted_by, extract(epoch FROM submitted_at)::float8, outcome, refused"

_ENGINE_RUNS = f"""
SELECT EXISTS (SELECT FROM {SCHEMA}.checkpoint c JOIN pg_stat_activity a
ON a.pid = c.owner_pid AND a.backend_start = c.owner_started WHERE c.pipeline = $1)"""


#: Remove the keys of rows that the command $1 repairs.
REMOVE_KEYS = f"DELETE FROM {SCHEMA}.repair_key WHERE command = $1::bigint"
_CANCEL = (
    f"UPDATE {SCHEMA}.command SET done_at = now(), outcome = $3, refused = true"
    " WHERE pipeline = $1 AND id = $2::bigint AND done_at IS NULL RETURNING id"
)
# In one statement, so that no key of a row stays after a command that does not wait.
_CANCEL_WITH_KEYS = (
    f"WITH cancelled AS ({_CANCEL}), removed AS"
    f" (DELETE FROM {SCHEMA}.repair_key USING cancelled WHERE command = cancelled.id)"
    " SELECT id FROM cancelled"
)
# A state of an older version, which no engine of this one has taken over, has no such table.
_HAS_KEYS = f"SELECT to_regclass('{SCHEMA}.repair_key') IS NOT NULL"


class CommandTable:
    """A ``CommandClient`` through a session, and what the engine does with commands."""

    def __init__(self, session: Session, pipeline: str) -> None:
        self._session = session
        self._pipeline = pipeline

    async def submit(self, command: str, by: str) -> int:
        """Store a command, and return its number. Raises SinkError if the pipeline has no state in
        today's layout.
        """
        await self._require_layout()
        row = await self._one(
            f"INSERT INTO {SCHEMA}.command (pipeline, command, submitted_by)"
            " VALUES ($1, $2, $3) RETURNING id",
            command,
            by,
        )
        assert row is not None
        return int(row[0])

    async def waiting(self) -> list[StoredCommand]:
        """The commands that are not concluded, in order."""
        cursor = await self._session.execute(
            f"SELECT {_COLUMNS} FROM {SCHEMA}.command"
            " WHERE pipeline = $1 AND done_at IS NULL ORDER BY id",
            (self._pipeline,),
        )
        return [StoredCommand(*row) for row in await cursor.fetchall()]

    async def claim(self, id: int) -> bool:
        """Lock a command that waits, in the open transaction. False if it does not wait."""
        await self._session.begin()
        return await self._one(
            f"SELECT id FROM {SCHEMA}.command"
            " WHERE pipeline = $1 AND id = $2::bigint AND done_at IS NULL FOR UPDATE",
            str(id),
        ) == (id,)

    async def conclude(self, id: int, outcome: str, *, refused: bool) -> None:
        """Record the outcome of a command, in the open transaction."""
        await self._session.begin()
        await self._session.execute(
            f"UPDATE {SCHEMA}.command SET done_at = now(), outcome = $3, refused = $4::boolean"
            " WHERE pipeline = $1 AND id = $2::bigint",
            (self._pipeline, str(id), outcome, str(refused)),
        )
        await self._session.execute(REMOVE_KEYS, (str(id),))

    async def cancel(self, id: int, outcome: str) -> bool:
        """Conclude a command that waits, as refused. False if there is none."""
        await self._require_layout()
        query = _CANCEL_WITH_KEYS if await self.has_keys() else _CANCEL
        return await self._one(query, str(id), outcome) == (id,)

    async def has_keys(self) -> bool:
        """Whether the target has the table for the keys of repairs."""
        return await (await self._session.execute(_HAS_KEYS)).fetchone() == (True,)

    async def newest(self, count: int) -> list[StoredCommand]:
        """All commands that wait, and the newest others, in order."""
        await self._require_layout()
        cursor = await self._session.execute(
            f"SELECT {_COLUMNS} FROM {SCHEMA}.command WHERE pipeline = $1 AND (done_at IS NULL"
            f" OR id IN (SELECT id FROM {SCHEMA}.command WHERE pipeline = $1"
            " ORDER BY id DESC LIMIT $2::bigint)) ORDER BY id",
            (self._pipeline, str(count)),
        )
        return [StoredCommand(*row) for row in await cursor.fetchall()]

    async def find(self, id: int) -> StoredCommand | None:
        """A command by its number."""
        row = await self._one(
            f"SELECT {_COLUMNS} FROM {SCHEMA}.command WHERE pipeline = $1 AND id = $2::bigint",
            str(id),
        )
        return None if row is None else StoredCommand(*row)

    async def engine_runs(self) -> bool:
        """Whether the session of the pipeline's engine exists."""
        return await self._one(_ENGINE_RUNS) == (True,)

    async def _require_layout(self) -> None:
        if await read_layout(self._session) != LAYOUT:
            raise SinkError(
                "the target holds no state of this version of Tailrace",
                hint="start the engine once: `tailrace run CONFIG`",
            )

    async def _one(self, query: str, *parameters: str) -> tuple[Any, ...] | None:
        cursor = await self._session.execute(query, (self._pipeline, *parameters))
        return await cursor.fetchone()
