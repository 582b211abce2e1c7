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


class CommandTable:
    """The commands to one pipeline, through a session."""

    def __init__(self, session: Session, pipeline: str) -> None:
        self._session = session
        self._pipeline = pipeline

    async def submit(self, command: str, by: str) -> int:
        """Store a command, and return its number. Raises SinkError if the pipeline has no state in
        today's layout.
        """
        if await read_layout(self._session) != LAYOUT:
            raise SinkError(
                "the target holds no state of this version of Tailrace",
                hint="start the engine once: `tailrace run CONFIG`",
            )
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

    async def conclude(self, id: int, outcome: str, *, refused: bool) -> None:
        """Record the outcome of a command, in the open transaction."""
        await self._session.begin()
        await self._session.execute(
            f"UPDATE {SCHEMA}.command SET done_at = now(), outcome = $3, refused = $4::boolean"
            " WHERE pipeline = $1 AND id = $2::bigint",
            (self._pipeline, str(id), outcome, str(refused)),
        )

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

    async def _one(self, query: str, *parameters: str) -> tuple[Any, ...] | None:
        cursor = await self._session.execute(query, (self._pipeline, *parameters))
        return await cursor.fetchone()
