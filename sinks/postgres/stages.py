"""
Temporary tables that rows are copied into before one statement applies them.

The idea: made once per session and shape, emptied by the server at each commit; only a transaction
that fills one twice empties it itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.change import Row
from engine.schema import TableId
from sinks.postgres.session import Session
from sinks.postgres.statements import Stage

__all__ = ["Stages"]

#: From here on the planner should know more about staged rows than their number.
ANALYZED_ROWS = 10_000


class Stages:
    """The temporary tables of one session, by the table they are for and what they hold."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: dict[tuple[TableId, str, str], str] = {}
        self._serial = 0
        # Of the open transaction: those made in it, and those that hold rows.
        self._new: set[tuple[TableId, str, str]] = set()
        self._filled: set[str] = set()

    async def empty(self, id: TableId, stage: Stage) -> str:
        """The name of an empty temporary table for ``stage``."""
        key = (id, stage.purpose, stage.columns)
        name = self._names.get(key)
        if name is None:
            self._serial += 1
            name = f"pg_temp.tailrace_{self._serial}"
            definition = f"({stage.columns}) ON COMMIT DELETE ROWS AS {stage.query} WITH NO DATA"
            await self._session.execute(f"CREATE TEMPORARY TABLE {name[8:]} {definition}", table=id)
            self._names[key] = name
            self._new.add(key)
        elif name in self._filled:
            await self._session.execute(f"TRUNCATE {name}")
        self._filled.add(name)
        return name

    async def fill(self, id: TableId, stage: Stage, rows: Sequence[Row]) -> str:
        """The name of a temporary table that holds ``rows`` and nothing else."""
        name = await self.empty(id, stage)
        query = f"COPY {name} ({stage.columns}) FROM STDIN"
        await self._session.copy(query, stage.encoder.pieces(rows), table=id)
        if len(rows) >= ANALYZED_ROWS:
            await self._session.execute(f"ANALYZE {name}")
        return name

    async def drop(self, id: TableId) -> None:
        """Drop, in the open transaction, what was made for one table."""
        for key in [key for key in self._names if key[0] == id]:
            await self._session.execute(f"DROP TABLE {self._names.pop(key)}")
            self._new.discard(key)

    def committed(self) -> None:
        """The transaction is done: the server has emptied them all."""
        self._new.clear()
        self._filled.clear()

    def rolled_back(self) -> None:
        """The transaction is undone, with those that were made in it."""
        for key in self._new:
            self._names.pop(key, None)
        self.committed()
