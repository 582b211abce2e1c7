"""
NetChanges effects become statements: few rows one by one in a pipeline, many by COPY and set by
set.

The idea: count what each statement has hit. On a table that is settled the counts are known
beforehand, so a difference is drift: it is counted, and healed where the rows are known whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from psycopg.errors import UniqueViolation

from engine.change import Row
from engine.contract import Applied
from engine.databases.postgres.identifiers import Naming
from engine.errors import ApplyError
from engine.schema import Table, TableId
from engine.toolkit.compaction import NetChanges
from sinks.postgres.copy import Encoder, Parameters
from sinks.postgres.session import Cursor, Session
from sinks.postgres.staging import StagingTables
from sinks.postgres.statements import Statements

__all__ = ["Applier"]

#: Up to this many rows, statements for single rows are faster than staging.
FEW_ROWS = 50
#: From here on the planner should know more about staged rows without a key than their number.
ANALYZED_ROWS = 10_000
#: After rows were there that had been tried as new, this many nets of the table are not tried.
CAUTIOUS_NETS = 20


class Applier:
    """Applies nets in the open transaction of a session."""

    def __init__(self, session: Session, naming: Naming) -> None:
        self._session = session
        self._naming = naming
        self._statements: dict[TableId, Statements] = {}
        self._staging = StagingTables(session)
        self._cautious: dict[TableId, int] = {}

    async def apply(self, nets: Sequence[NetChanges], applied: Applied) -> None:
        """Apply nets of different tables; adds to ``applied`` what was found."""
        few = [net for net in nets if _is_few(net)]
        if few:
            await self._apply_few(few, applied)
        for net in nets:
            if not _is_few(net):
                await self._session.begin()
                sql = self._sql(net.table)
                drift = await (
                    self._many(net, sql, applied)
                    if net.table.key
                    else self._multiset(net, sql, applied)
                )
                _count_drift(applied, net, drift)

    async def forget(self, id: TableId) -> None:
        """The table changes its shape: drop, in the open transaction, what was made for it."""
        self._statements.pop(id, None)
        self._cautious.pop(id, None)
        await self._staging.drop(id)

    def settled(self, id: TableId) -> None:
        """The table's snapshot is done: rows that are new are not there."""
        self._cautious.pop(id, None)

    def committed(self) -> None:
        """The transaction is done."""
        self._staging.committed()

    def rolled_back(self) -> None:
        """The transaction is undone."""
        self._staging.rolled_back()

    def reconnected(self) -> None:
        """The session is a new one, without the old one's temporary tables."""
        self._staging = StagingTables(self._session)

    def _sql(self, table: Table) -> Statements:
        statements = self._statements.get(table.id)
        if statements is None or statements.table != table:
            statements = Statements(table, self._naming.sql(table.id))
            self._statements[table.id] = statements
        return statements

    # Few rows of several tables, all in one round trip

    async def _apply_few(self, nets: Sequence[NetChanges], applied: Applied) -> None:
        groups = [(net, self._few(net, self._sql(net.table), applied)) for net in nets]
        cursors = await self._pipelined(groups)
        for (net, groups_of_net), its_cursors in zip(groups, cursors, strict=True):
            drift = 0
            for group, cursor in zip(groups_of_net, its_cursors, strict=True):
                missed = len(group.parameters) - cursor.rowcount
                drift += missed
                if missed and group.heal and not net.upsert:
                    async with self._session.translate_errors(net.table.id):
                        await self._session.execute_many(group.heal, group.parameters)
            _count_drift(applied, net, drift)

    async def _pipelined(
        self, groups: Sequence[tuple[NetChanges, list[_Group]]]
    ) -> list[list[Cursor]]:
        """The cursors of each net's groups. Errors in a pipeline do not tell whose they are, so an
        empty statement follows each net: the first that was not reached is that of the culprit."""
        session, cursors, marks = self._session, list[list[Cursor]](), list[Cursor]()
        try:
            async with session.translate_errors(), session.connection.pipeline():
                await session.begin()
                for _, its_groups in groups:
                    cursors.append(
                        [await session.execute_many(it.query, it.parameters) for it in its_groups]
                    )
                    marks.append(await session.connection.execute("SELECT", prepare=True))
        except ApplyError as error:
            reached = sum(mark.statusmessage is not None for mark in marks)
            error.table = str(groups[reached][0].table.id)
            raise
        return cursors

    def _few(self, net: NetChanges, sql: Statements, applied: Applied) -> list[_Group]:
        def group(query: str, encoder: Encoder, rows: list[Row], heal: str = "") -> _Group:
            made = _Group(query, encoder.parameters(rows), heal)
            _count_replaced(applied, net.table.id, encoder)
            return made

        groups = []
        if net.deletes:
            groups.append(group(sql.delete_one(), sql.keys().encoder, net.deletes))
        for mask, rows in net.updates.items():
            if query := sql.update_one(mask):
                heal = sql.insert_one(None, False) if mask is None else ""
                groups.append(group(query, sql.rows(mask).encoder, rows, heal))
        for mask, rows in net.inserts.items():
            query = sql.insert_one(mask, net.upsert)
            heal = sql.insert_one(mask, True)
            groups.append(group(query, sql.rows(mask).encoder, rows, heal))
        return groups

    # Many rows of one table; these return how many of them were not as expected

    async def _many(self, net: NetChanges, sql: Statements, applied: Applied) -> int:
        drift, id = 0, net.table.id
        if net.deletes:
            stage = sql.keys()
            staged = await self._staging.load(id, stage, _in_order(net.table, net.deletes))
            _count_replaced(applied, id, stage.encoder)
            drift += len(net.deletes) - await self._session.execute_bulk(
                sql.delete(staged), table=id
            )
        merged = ""
        if net.key_changes:
            merged = await self._staging.create(id, sql.rows(None)._replace(purpose="merged"))
        for mask, rows in net.key_changes.items():
            moving = sql.key_changes(mask)
            staged = await self._staging.load(id, moving, rows)
            _count_replaced(applied, id, moving.encoder)
            query = sql.merge(staged, merged, mask)
            drift += len(rows) - await self._session.execute_bulk(query, table=id)
        for known, rows in net.updates.items():
            drift += await self._update(sql, known, rows, net.upsert, applied)
        if merged:
            await self._session.execute_bulk(sql.insert(merged, None, net.upsert), table=id)
        for known, rows in net.inserts.items():
            drift += await self._insert(net, sql, known, rows, applied)
        return drift

    async def _update(
        self, sql: Statements, mask: int | None, rows: list[Row], upsert: bool, applied: Applied
    ) -> int:
        id, stage = sql.table.id, sql.rows(mask)
        staged = await self._staging.load(id, stage, _in_order(sql.table, rows))
        _count_replaced(applied, id, stage.encoder)
        query = sql.update(staged, mask)
        missed = len(rows) - await self._session.execute_bulk(query, table=id) if query else 0
        if missed and mask is None and not upsert:
            await self._session.execute_bulk(sql.insert(staged, None, False), table=id)
        return missed

    async def _insert(
        self, net: NetChanges, sql: Statements, mask: int | None, rows: list[Row], applied: Applied
    ) -> int:
        id, stage = net.table.id, sql.rows(mask)
        if net.direct and not self._is_cautious(id):
            pieces = stage.encoder.pieces(rows)
            copying = partial(self._session.copy, sql.copy(mask), pieces, table=id)
            if await self._session.in_savepoint(copying, (UniqueViolation,)):
                _count_replaced(applied, id, stage.encoder)
                return 0
            stage.encoder.take_replaced()
            self._cautious[id] = CAUTIOUS_NETS
            rows = _distinct(net.table, rows)
        staged = await self._staging.load(id, stage, rows)
        _count_replaced(applied, id, stage.encoder)
        present = 0
        if not net.upsert:
            query = sql.count_present(staged)
            cursor = await self._session.execute(query, table=id, prepare=False)
            (present,) = await cursor.fetchone() or (0,)
        await self._session.execute_bulk(sql.insert(staged, mask, True), table=id)
        return int(present)

    def _is_cautious(self, id: TableId) -> bool:
        left = self._cautious.get(id, 0)
        if left:
            self._cautious[id] = left - 1
        return left > 0

    async def _multiset(self, net: NetChanges, sql: Statements, applied: Applied) -> int:
        drift, id = 0, net.table.id
        if net.deletes:
            stage = sql.rows(None)
            staged = await self._staging.load(id, stage, net.deletes)
            stage.encoder.take_replaced()  # counted when these rows came
            if len(net.deletes) >= ANALYZED_ROWS:
                await self._session.execute(f"ANALYZE {staged}", table=id)
            await self._session.execute("SET LOCAL enable_hashjoin = on")  # there is no index
            drift = len(net.deletes) - await self._session.execute_bulk(
                sql.delete_from_multiset(staged), table=id
            )
            await self._session.execute("SET LOCAL enable_hashjoin = off")
        for mask, rows in net.inserts.items():
            stage = sql.rows(mask)
            await self._session.copy(sql.copy(mask), stage.encoder.pieces(rows), table=id)
            _count_replaced(applied, id, stage.encoder)
        return drift


class _Group(NamedTuple):
    """Executions of one statement; ``heal`` is what to execute where some hit no row."""

    query: str
    parameters: list[Parameters]
    heal: str


def _is_few(net: NetChanges) -> bool:
    return len(net) <= FEW_ROWS and not net.key_changes and bool(net.table.key or not net.deletes)


def _in_order(table: Table, rows: list[Row]) -> list[Row]:
    """In the order of the key, in which their neighbours are near, in index and table alike."""
    try:
        return sorted(rows, key=itemgetter(*table.key))
    except TypeError:  # a NULL where none can be: the target will tell
        return rows


def _distinct(table: Table, rows: list[Row]) -> list[Row]:
    """The last row of each key."""
    last: dict[Any, Row] = {tuple(row[n] for n in table.key): row for row in rows}
    return list(last.values())


def _count_drift(applied: Applied, net: NetChanges, drift: int) -> None:
    drift += net.anomalies
    if drift and not net.upsert:
        applied.drift[net.table.id] = applied.drift.get(net.table.id, 0) + drift


def _count_replaced(applied: Applied, id: TableId, encoder: Encoder) -> None:
    if encoder.replaced:
        for (column, reason), count in encoder.take_replaced().items():
            place = (id, column, reason)
            applied.replaced[place] = applied.replaced.get(place, 0) + count
