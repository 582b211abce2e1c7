"""
The keys of rows that a command repairs, in the table ``tailrace.repair_key``.

They are stored with the command, and removed when it is concluded or cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.errors import SinkError
from engine.recovery import RepairKeys
from engine.schema import TableId
from sinks.postgres.commands import CommandTable
from sinks.postgres.layout import SCHEMA
from sinks.postgres.session import Session

__all__ = ["RepairTable"]

# Triggers for DELETE (bit 3 of ``tgtype``), among them those of foreign keys that refer to the
# table. https://www.postgresql.org/docs/current/catalog-pg-trigger.html
_ACTS_ON_DELETE = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1::regclass AND tgtype & 8 <> 0
AND tgenabled IN ('O', 'A'))"""


class RepairTable:
    """The repairs of one pipeline, through a session."""

    def __init__(self, session: Session, pipeline: str) -> None:
        self._session = session
        self._pipeline = pipeline

    async def submit(self, command: str, by: str, keys: Mapping[TableId, RepairKeys]) -> int:
        """As ``RepairStore.submit_repair``."""
        session = self._session
        commands = CommandTable(session, self._pipeline)
        if not await commands.has_keys():
            raise SinkError(
                "the target has no table for the keys of repairs yet",
                hint="start the engine of this version once: `tailrace run CONFIG`",
            )
        await session.begin()
        id = await commands.submit(command, by)
        for table, it in keys.items():
            await session.execute(
                f"INSERT INTO {SCHEMA}.repair_key (command, source_schema, source_name, keys)"
                " VALUES ($1::bigint, $2, $3, $4)",
                (str(id), table.schema, table.name, msgspec.json.encode(it).decode()),
            )
        await session.commit()
        return id

    async def read(self, id: int) -> dict[TableId, RepairKeys]:
        """As ``RepairStore.repair_keys``."""
        cursor = await self._session.execute(
            f"SELECT source_schema, source_name, keys FROM {SCHEMA}.repair_key"
            " WHERE command = $1::bigint",
            (str(id),),
        )
        return {
            TableId(schema, name): msgspec.json.decode(keys, type=RepairKeys)
            for schema, name, keys in await cursor.fetchall()
        }

    async def deletes_alone(self, name: str) -> bool:
        """As ``RepairStore.deletes_alone``, of the table with this quoted name."""
        session = self._session
        if session.replica_role:
            return True
        cursor = await session.execute(_ACTS_ON_DELETE, (name,))
        return await cursor.fetchone() == (False,)
