"""
Staging tables: temporary tables that rows are loaded into before one statement applies them.

A staging table is created once per session and set of columns. The server empties it at each commit
(ON COMMIT DELETE ROWS); it is truncated only to be loaded again in the same transaction. When a
transaction that has used one commits, the server empties all that exist, so only those used most
recently are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.change import Row
from engine.databases.postgres.identifiers import quote
from engine.errors import SinkError
from engine.schema import TableId
from sinks.postgres.session import Session
from sinks.postgres.statements import StagingTable

__all__ = ["StagingTables", "refuse_without_right"]

#: How many staging tables are kept from one transaction to the next.
KEPT_TABLES = 32


async def refuse_without_right(session: Session) -> None:
    """Raise SinkError if the role may not create temporary tables."""
    cursor = await session.execute("SELECT has_database_privilege(current_database(), 'TEMPORARY')")
    if await cursor.fetchone() != (True,):
        info = session.connection.info
        raise SinkError(
            "temporary tables cannot be created in the target's database",
            hint=f"GRANT TEMPORARY ON DATABASE {quote(info.dbname)} TO {quote(info.user)};",
        )


class StagingTables:
    """The staging tables of one session, by table, purpose and columns."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: In the order of their last use, the most recent last.
        self._names: dict[tuple[TableId, str, str], str] = {}
        self._serial = 0
        #: ``_names`` when the open transaction began.
        self._committed = dict(self._names)
        #: The staging tables that the open transaction has used.
        self._loaded: set[str] = set()

    async def create(self, id: TableId, staging: StagingTable) -> str:
        """The name of the staging table, which is empty; it is created if it does not exist."""
        key = (id, staging.purpose, staging.columns)
        name = self._names.pop(key, None)
        if name is None:
            self._make_room()
            self._serial += 1
            name = f"pg_temp.tailrace_{self._serial}"
            definition = (
                f"({staging.columns}) ON COMMIT DELETE ROWS AS {staging.query} WITH NO DATA"
            )
            await self._session.execute(f"CREATE TEMPORARY TABLE {name[8:]} {definition}", table=id)
        elif name in self._loaded:
            self._session.later(f"TRUNCATE {name}")
        self._names[key] = name
        self._loaded.add(name)
        return name

    async def load(
        self, id: TableId, staging: StagingTable, rows: Sequence[Row], *, large: bool = False
    ) -> str:
        """The name of the staging table, which holds ``rows`` and nothing else. ``large``: they may
        have large values.
        """
        return await self.load_pieces(id, staging, staging.encoder.pieces(rows, large=large))

    async def load_pieces(self, id: TableId, staging: StagingTable, pieces: Iterable[bytes]) -> str:
        """As ``load``, with the text of the rows."""
        name = await self.create(id, staging)
        query = f"COPY {name} ({staging.columns}) FROM STDIN"
        await self._session.copy(query, pieces, table=id)
        return name

    async def drop(self, id: TableId) -> None:
        """Drop the staging tables of one table, in the open transaction."""
        for key in [key for key in self._names if key[0] == id]:
            await self._session.execute(f"DROP TABLE {self._names.pop(key)}", table=id)

    def _make_room(self) -> None:
        """Drop the least recently used ones; never one that the open transaction has used, since it
        may hold rows."""
        idle = [key for key, name in self._names.items() if name not in self._loaded]
        for key in idle[: max(0, len(self._names) - KEPT_TABLES + 1)]:
            self._session.later(f"DROP TABLE {self._names.pop(key)}")

    def committed(self) -> None:
        """The transaction was committed, and the server has emptied all staging tables."""
        self._committed = dict(self._names)
        self._loaded.clear()

    def names(self) -> dict[tuple[TableId, str, str], str]:
        """The staging tables at a savepoint."""
        return dict(self._names)

    def restore(self, names: dict[tuple[TableId, str, str], str]) -> None:
        """The transaction was rolled back to the savepoint of ``names``."""
        self._names = dict(names)

    def rolled_back(self) -> None:
        """The transaction was rolled back, with the staging tables created and dropped in it."""
        self._names = dict(self._committed)
        self._loaded.clear()
