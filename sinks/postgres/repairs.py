"""
The keys of rows that a command repairs, in the table ``tailrace.repair_key``.

They are stored with the command, and removed when it is concluded or cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from engine.errors import SinkError
from engine.recovery import RepairKeys
from engine.schema import TableId
from sinks.postgres.commands import CommandTable
from sinks.postgres.layout import SCHEMA
from sinks.postgres.session import Session

__all__ = ["RepairTable"]

# Whether there are triggers for DELETE (bit 3 of ``tgtype``), among them those of foreign keys that
# refer to the table, which fire in a session of this ``session_replication_role``; and the columns
# besides some. https://www.postgresql.org/docs/current/catalog-pg-trigger.html
_CONCERNED = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1::regclass AND tgtype & 8 <> 0
    AND tgenabled IN (CASE current_setting('session_replication_role')
                      WHEN 'replica' THEN 'R'::"char" ELSE 'O' END, 'A')),
  ARRAY (SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0
    AND NOT attisdropped AND attgenerated = '' AND attname <> ALL ($2::text[]) ORDER BY attnum)"""


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

    async def why_not_anew(self, name: str, columns: Sequence[str]) -> str:
        """As ``RepairStore.why_not_anew``, of the table with this quoted name and these columns of
        the source."""
        cursor = await self._session.execute(_CONCERNED, (name, list(columns)))
        ((acts, others),) = await cursor.fetchall()
        if others:
            return (
                "the values of columns that the target alone has would be lost:"
                f" {', '.join(others)} (a backfill keeps them only with --in-place)"
            )
        return "a trigger or a foreign key of the target acts on each delete" if acts else ""
