"""
Net changes become statements.

Few rows are executed one by one, the rows of all tables in one pipeline. Many rows are loaded into
staging tables by COPY, and one statement of each kind applies them.

Each statement's count of affected rows is compared with the number of rows given to it. On a live
table the two are equal. A difference is drift: it is counted, and where whole rows are known, it is
repaired.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from psycopg.errors import UniqueViolation

from engine.change import Cascade, DeleteRange, KeepKeys, Row, Rows
from engine.contract import Applied
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.stored import Storage
from engine.errors import TailraceError
from engine.schema import Table, TableId
from engine.toolkit.compaction import NetChanges, net_changes
from sinks.postgres.cascades import Cascades
from sinks.postgres.copy import LARGE_BYTES, Encoder, Parameters
from sinks.postgres.session import MAX_WRITE_BYTES, Cursor, Session, Write
from sinks.postgres.staging import StagingTables
from sinks.postgres.statements import Statements

__all__ = ["Applier"]

#: From this many rows on, a staging table without a key is analyzed: its row count alone does not
#: give the planner a good plan.
ANALYZED_ROWS = 10_000
#: After a direct COPY has hit an existing row, inserts into the table are staged this many times.
STAGED_INSERTS = 20
#: How much text of a COPY is kept until its end.
KEPT_BYTES = 32 << 20


T = TypeVar("T")

#: A statement for a single row that fails if it hits no row.
_HIT = "WITH hit AS ({} RETURNING 1) SELECT 1 / count(*) FROM hit"


class Applier:
    """Applies net changes in the open transaction of a session."""

    def __init__(self, session: Session, naming: Naming, storage: Storage) -> None:
        self._session = session
        self._naming = naming
        self._storage = storage
        self._statements: dict[TableId, Statements] = {}
        self._staging = StagingTables(session)
        #: How many times more to stage a table's inserts.
        self._staged_inserts: dict[TableId, int] = {}
        #: The tables that are backfilled in place: most of their rows are there already.
        self._in_place: set[TableId] = set()

    async def apply(self, nets: Sequence[NetChanges], applied: Applied) -> None:
        """Apply the net changes of different tables; adds drift and replaced values to
        ``applied``."""
        small = [net for net in nets if self.is_small(net)]
        if small:
            await self._apply_single_rows(small, applied)
        for net in nets:
            if not self.is_small(net):
                await self._session.begin()
                sql = self._sql(net.table)
                drift = await (
                    self._apply_staged(net, sql, applied)
                    if net.table.key
                    else self._apply_multiset(net, sql, applied)
                )
                _count_drift(applied, net, drift)

    async def apply_reads(self, reads: AsyncIterator[Rows], applied: Applied) -> None:
        """Apply rows of a backfill, all of one table, by as few COPYs as possible."""
        await self._session.begin()
        rows = await anext(reads, None)
        while rows is not None:
            staged = bool(rows.table.key) and self._must_stage_inserts(rows.table.id)
            if staged or rows.size > KEPT_BYTES:
                nets = net_changes([rows])
                for net in nets:
                    net.direct = not staged
                await self.apply(nets, applied)
                rows = await anext(reads, None)
            else:
                rows = await self._copy_reads(rows, reads, applied)

    async def _copy_reads(
        self, first: Rows, reads: AsyncIterator[Rows], applied: Applied
    ) -> Rows | None:
        """Copy rows while more of them are read. Returns those that were read and not copied.

        The text of the rows of a table with a key is kept until the COPY has ended: if one of them
        exists already, all of them are merged.
        """
        id, sql = first.table.id, self._sql(first.table)
        staging, kept = sql.rows(None), list[bytes]()
        rest: Rows | None = first

        async def send(write: Write) -> None:
            nonlocal rest
            size = 0
            while rest is not None and rest.size + size <= KEPT_BYTES:
                pieces = staging.encoder.pieces(rest.after or (), large=rest.size > LARGE_BYTES)
                for piece in pieces:
                    if first.table.key:
                        kept.append(piece)
                        size += len(piece)
                    await write(piece)
                rest = await anext(reads, None)

        copying = partial(self._session.copy_from, sql.copy(None), send, table=id)
        if not first.table.key:
            await copying()
        elif not await self._session.in_savepoint(copying, (UniqueViolation,)):
            self._staged_inserts[id] = STAGED_INSERTS
            staged = await self._staging.load_pieces(id, staging, kept)
            query = sql.insert(staged, None, True, if_different=id in self._in_place)
            await self._session.execute_bulk(query, table=id)
        _count_replaced(applied, id, staging.encoder)
        return rest

    def is_small(self, net: NetChanges) -> bool:
        """Whether statements for single rows apply it. There are none for key changes, nor for
        deletes from a table without a key.
        """
        return (
            len(net) <= self._session.single_rows
            and net.size <= MAX_WRITE_BYTES
            and not net.key_changes
            and bool(net.table.key or not net.deletes)
        )

    async def cascade(self, change: Cascade) -> None:
        """Apply the actions of foreign keys."""
        await self._session.begin()
        await Cascades(self._session, self._staging, self._sql).apply(change)

    async def delete_range(self, change: DeleteRange) -> None:
        """Delete the rows of a range that are not kept."""
        session, id = self._session, change.table.id
        await session.begin()
        self._in_place.add(id)
        sql = self._sql(change.table)
        staged = await self._staging.load(id, sql.keys(), change.kept)
        sql.keys().encoder.take_replaced()  # they are counted when the rows are written
        query, parameters = sql.delete_range(change, staged)
        # The staging table has no index.
        session.later("SET LOCAL enable_hashjoin = on")
        await session.execute_bulk(query, parameters, table=id)
        session.later("SET LOCAL enable_hashjoin = off")

    async def keep_keys(self, change: KeepKeys) -> None:
        """Delete the rows whose keys a twin does not have."""
        session, id = self._session, change.table.id
        await session.begin()
        query = self._sql(change.table).keep_keys(self._naming.sql(change.twin.id))
        session.later("SET LOCAL enable_hashjoin = on")
        await session.execute_bulk(query, table=id)
        session.later("SET LOCAL enable_hashjoin = off")

    async def forget(self, id: TableId) -> None:
        """Forget the table's statements and drop its staging tables, in the open transaction; to be
        called before the table's definition changes."""
        self._statements.pop(id, None)
        self._staged_inserts.pop(id, None)
        self._in_place.discard(id)
        await self._staging.drop(id)

    def caught_up(self, id: TableId) -> None:
        """The table is live: an inserted row does not exist yet, so a direct COPY is tried."""
        self._staged_inserts.pop(id, None)
        self._in_place.discard(id)

    def committed(self) -> None:
        """The transaction was committed."""
        self._staging.committed()

    def rolled_back(self) -> None:
        """The transaction was rolled back."""
        self._staging.rolled_back()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """As ``DeadLetterStore.savepoint``."""
        await self._session.begin()
        self._session.later("SAVEPOINT tailrace_rows")
        names = self._staging.names()
        try:
            yield
        except TailraceError as error:
            if not error.retryable:
                # Alone: psycopg forgets its prepared statements then, also those that are sent with
                # it in a pipeline, and executes them later all the same.
                await self._session.execute_bulk("ROLLBACK TO SAVEPOINT tailrace_rows")
                self._session.later("RELEASE SAVEPOINT tailrace_rows")
                self._staging.restore(names)
            raise
        self._session.later("RELEASE SAVEPOINT tailrace_rows")

    def reconnected(self) -> None:
        """The session has a new connection, which has no temporary tables."""
        self._staging = StagingTables(self._session)

    def _sql(self, table: Table) -> Statements:
        statements = self._statements.get(table.id)
        if statements is None or statements.table != table:
            statements = Statements(table, self._naming.sql(table.id), self._storage)
            self._statements[table.id] = statements
        return statements

    # Few rows of several tables, in one round trip

    async def _apply_single_rows(self, nets: Sequence[NetChanges], applied: Applied) -> None:
        batches = [(net, self._statements_for(net, applied)) for net in nets]
        cursors = await self._execute_pipelined(batches)
        for (net, statements), net_cursors in zip(batches, cursors, strict=True):
            drift = 0
            for statement, cursor in zip(statements, net_cursors, strict=True):
                missed = len(statement.parameters) - cursor.rowcount
                drift += missed
                if missed and statement.fallback and not net.upsert:
                    async with self._session.translate_errors(net.table.id):
                        await self._session.execute_many(statement.fallback, statement.parameters)
            _count_drift(applied, net, drift)

    async def apply_at_once(
        self, nets: Sequence[NetChanges], applied: Applied, conclude: Callable[[], Awaitable[T]]
    ) -> T:
        """Apply the net changes of different tables, all of them small, in the pipeline that
        ``conclude`` ends with the transaction's COMMIT. Returns what ``conclude`` returns.

        A statement that would need its fallback is an error, so that nothing is committed.
        """
        session, batches = (
            self._session,
            [(net, self._statements_for(net, applied)) for net in nets],
        )
        cursors: list[tuple[NetChanges, int, Cursor]] = []
        try:
            async with session.translate_errors(), session.connection.pipeline():
                await session.begin_in_pipeline()
                for net, statements in batches:
                    for it in statements:
                        sure = it.fallback and not net.upsert
                        query = _HIT.format(it.query) if sure else it.query
                        cursor = await session.execute_many(query, it.parameters)
                        cursors.append((net, len(it.parameters), cursor))
                end = await conclude()
        except TailraceError as error:
            # Without the marks of ``_execute_pipelined`` only one table is sure.
            unreached = [net for net, _, cursor in cursors if cursor.statusmessage is None]
            if len(nets) == 1 and unreached and session.began_in_pipeline and not session.broken:
                error.table = str(nets[0].table.id)
            raise
        for net, count, cursor in cursors:
            _count_drift(applied, net, count - cursor.rowcount)
        return end

    async def _execute_pipelined(
        self, batches: Sequence[tuple[NetChanges, list[_Statement]]]
    ) -> list[list[Cursor]]:
        """Execute the statements of each table's net changes; returns their cursors.

        An error in a pipeline does not tell which statement it belongs to. So an empty statement
        follows those of each table, and the first one that was not reached names the table.
        """
        session, cursors, marks = self._session, list[list[Cursor]](), list[Cursor]()
        try:
            sent = sum(net.size for net, _ in batches)
            async with (
                session.translate_errors(sent_bytes=sent),
                session.connection.pipeline(),
            ):
                await session.begin_in_pipeline()
                for _, statements in batches:
                    cursors.append(
                        [await session.execute_many(it.query, it.parameters) for it in statements]
                    )
                    marks.append(await session.connection.execute("SELECT", prepare=True))
        except TailraceError as error:
            reached = sum(mark.statusmessage is not None for mark in marks)
            if reached < len(batches) and session.began_in_pipeline and not session.broken:
                error.table = str(batches[reached][0].table.id)
            raise
        return cursors

    def _statements_for(self, net: NetChanges, applied: Applied) -> list[_Statement]:
        sql = self._sql(net.table)

        def statement(
            query: str, encoder: Encoder, rows: list[Row], fallback: str = ""
        ) -> _Statement:
            made = _Statement(query, encoder.parameters(rows), fallback)
            _count_replaced(applied, net.table.id, encoder)
            return made

        statements = []
        if net.deletes:
            statements.append(statement(sql.delete_one(), sql.keys().encoder, net.deletes))
        for mask, rows in net.updates.items():
            if query := sql.update_one(mask):
                fallback = sql.insert_one(None, False) if mask is None else ""
                statements.append(statement(query, sql.rows(mask).encoder, rows, fallback))
        for mask, rows in net.inserts.items():
            query = sql.insert_one(mask, net.upsert)
            fallback = sql.insert_one(mask, True)
            statements.append(statement(query, sql.rows(mask).encoder, rows, fallback))
        return statements

    # Many rows of one table. These return the drift: how many rows were not found, or were present.

    async def _apply_staged(self, net: NetChanges, sql: Statements, applied: Applied) -> int:
        drift, id = 0, net.table.id
        if net.deletes:
            keys = sql.keys()
            staged = await self._staging.load(id, keys, _in_key_order(net.table, net.deletes))
            _count_replaced(applied, id, keys.encoder)
            drift += len(net.deletes) - await self._session.execute_bulk(
                sql.delete(staged), table=id
            )
        merged = ""
        if net.key_changes:
            merged = await self._staging.create(id, sql.rows(None)._replace(purpose="merged"))
        for mask, rows in net.key_changes.items():
            images = sql.key_changes(mask)
            staged = await self._staging.load(id, images, rows, large=_is_large(net))
            _count_replaced(applied, id, images.encoder)
            query = sql.merge(staged, merged, mask)
            drift += len(rows) - await self._session.execute_bulk(query, table=id)
        for update_mask, rows in net.updates.items():
            drift += await self._update(net, sql, update_mask, rows, applied)
        if merged:
            await self._session.execute_bulk(sql.insert(merged, None, net.upsert), table=id)
        for insert_mask, rows in net.inserts.items():
            drift += await self._insert(net, sql, insert_mask, rows, applied)
        return drift

    async def _update(
        self, net: NetChanges, sql: Statements, mask: int | None, rows: list[Row], applied: Applied
    ) -> int:
        id, staging = sql.table.id, sql.rows(mask)
        staged = await self._staging.load(
            id, staging, _in_key_order(sql.table, rows), large=_is_large(net)
        )
        _count_replaced(applied, id, staging.encoder)
        query = sql.update(staged, mask)
        missed = len(rows) - await self._session.execute_bulk(query, table=id) if query else 0
        if missed and mask is None and not net.upsert:
            await self._session.execute_bulk(sql.insert(staged, None, False), table=id)
        return missed

    async def _insert(
        self, net: NetChanges, sql: Statements, mask: int | None, rows: list[Row], applied: Applied
    ) -> int:
        id, staging = net.table.id, sql.rows(mask)
        if net.direct and not self._must_stage_inserts(id):
            pieces = staging.encoder.pieces(rows, large=_is_large(net))
            copying = partial(self._session.copy, sql.copy(mask), pieces, table=id)
            if await self._session.in_savepoint(copying, (UniqueViolation,)):
                _count_replaced(applied, id, staging.encoder)
                return 0
            staging.encoder.take_replaced()  # these are counted when the rows are loaded below
            self._staged_inserts[id] = STAGED_INSERTS
            rows = _last_of_each_key(net.table, rows)
        staged = await self._staging.load(id, staging, rows, large=_is_large(net))
        _count_replaced(applied, id, staging.encoder)
        present = 0
        if not net.upsert:
            query = sql.count_present(staged)
            cursor = await self._session.execute(query, table=id, prepare=False)
            (present,) = await cursor.fetchone() or (0,)
        query = sql.insert(staged, mask, True, if_different=id in self._in_place)
        await self._session.execute_bulk(query, table=id)
        return int(present)

    def _must_stage_inserts(self, id: TableId) -> bool:
        """Whether to stage the table's inserts this time."""
        left = self._staged_inserts.get(id, 0)
        if left:
            self._staged_inserts[id] = left - 1
        return left > 0

    async def _apply_multiset(self, net: NetChanges, sql: Statements, applied: Applied) -> int:
        drift, id = 0, net.table.id
        if net.deletes:
            staging = sql.rows(None)
            staged = await self._staging.load(id, staging, net.deletes, large=_is_large(net))
            staging.encoder.take_replaced()  # they were counted when the rows were inserted
            if len(net.deletes) >= ANALYZED_ROWS:
                await self._session.execute(f"ANALYZE {staged}", table=id)
            # The table has no index on its rows, so a hash join is the fast plan.
            self._session.later("SET LOCAL enable_hashjoin = on")
            drift = len(net.deletes) - await self._session.execute_bulk(
                sql.delete_from_multiset(staged), table=id
            )
            self._session.later("SET LOCAL enable_hashjoin = off")
        for mask, rows in net.inserts.items():
            encoder = sql.rows(mask).encoder
            pieces = encoder.pieces(rows, large=_is_large(net))
            await self._session.copy(sql.copy(mask), pieces, table=id)
            _count_replaced(applied, id, encoder)
        return drift


class _Statement(NamedTuple):
    """One statement, executed once for each of ``parameters``. If some of these executions affected
    no row, ``fallback`` is executed with the same parameters."""

    query: str
    parameters: list[Parameters]
    fallback: str


def _is_large(net: NetChanges) -> bool:
    """Whether it may have values that are too large to be encoded in one piece."""
    return net.size > LARGE_BYTES


def _in_key_order(table: Table, rows: list[Row]) -> list[Row]:
    """Sorted by key, so that consecutive rows are near each other in the index and in the table."""
    try:
        return sorted(rows, key=itemgetter(*table.key))
    except TypeError:  # a NULL in the key: the target refuses it
        return rows


def _last_of_each_key(table: Table, rows: list[Row]) -> list[Row]:
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
