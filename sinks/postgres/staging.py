"""
Temporary tables that rows are copied into before one statement applies them.

The idea: made once per session and shape, emptied by the server at each commit; only a transaction
that fills one twice empties it itself. The server empties all that there are at such a commit, so
only those used last are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.change import Row
from engine.schema import TableId
from sinks.postgres.session import Session
from sinks.postgres.statements import StagingTable

__all__ = ["StagingTables"]

#: So many are kept from one transaction to the next.
KEPT_TABLES = 32


class StagingTables:
    """The temporary tables of one session, by the table they are for and what they hold."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: The one used last is last.
        self._names: dict[tuple[TableId, str, str], str] = {}
        self._serial = 0
        #: As they were when the open transaction began.
        self._committed = dict(self._names)
        #: Those that the open transaction has used.
        self._loaded: set[str] = set()

    async def create(self, id: TableId, stage: StagingTable) -> str:
        """The name of an empty temporary table for ``stage``."""
        key = (id, stage.purpose, stage.columns)
        name = self._names.pop(key, None)
        if name is None:
            await self._make_room()
            self._serial += 1
            name = f"pg_temp.tailrace_{self._serial}"
            definition = f"({stage.columns}) ON COMMIT DELETE ROWS AS {stage.query} WITH NO DATA"
            await self._session.execute(f"CREATE TEMPORARY TABLE {name[8:]} {definition}", table=id)
        elif name in self._loaded:
            await self._session.execute(f"TRUNCATE {name}", table=id)
        self._names[key] = name
        self._loaded.add(name)
        return name

    async def load(self, id: TableId, stage: StagingTable, rows: Sequence[Row]) -> str:
        """The name of a temporary table that holds ``rows`` and nothing else."""
        name = await self.create(id, stage)
        query = f"COPY {name} ({stage.columns}) FROM STDIN"
        await self._session.copy(query, stage.encoder.pieces(rows), table=id)
        return name

    async def drop(self, id: TableId) -> None:
        """Drop, in the open transaction, what was made for one table."""
        for key in [key for key in self._names if key[0] == id]:
            await self._session.execute(f"DROP TABLE {self._names.pop(key)}", table=id)

    async def _make_room(self) -> None:
        """Drop those used longest ago; never one of the open transaction, it may hold rows."""
        idle = [key for key, name in self._names.items() if name not in self._loaded]
        for key in idle[: max(0, len(self._names) - KEPT_TABLES + 1)]:
            await self._session.execute(f"DROP TABLE {self._names.pop(key)}", table=key[0])

    def committed(self) -> None:
        """The transaction is done: the server has emptied them all."""
        self._committed = dict(self._names)
        self._loaded.clear()

    def rolled_back(self) -> None:
        """The transaction is undone, with those that were made and dropped in it."""
        self._names = dict(self._committed)
        self._loaded.clear()
