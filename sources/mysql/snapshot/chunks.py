"""
The snapshot's reads: a table in key order, chunk by chunk, over several connections.

A chunk is one range of keys, read in one transaction whose watermarks are proven (``watermarks``).
The ends of the ranges are found first, with OFFSET along the key, so several ranges can be read at
once. Chunks are delivered in key order, and at most one chunk per reader is read ahead. The number
of rows is chosen so that a chunk has a few megabytes. A chunk that grows too large is cut, and the
rest of its range is read next. A row of more than 16 MiB waits until its chunk is the next one, so
such rows are not in memory together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
from pymysql.connections import Connection
from pymysql.err import MySQLError

from engine.change import Chunk, KeyRange, Row
from engine.databases.mysql.connect import error_code, query, server_version, translate_errors
from engine.databases.mysql.identifiers import quote_table
from engine.databases.mysql.row_filter import accepts
from engine.errors import (
    ShapeChanged,
    SourceError,
    SourceLost,
    TableRecreated,
    TableUnreadable,
)
from engine.recovery import TooLarge
from engine.remedies import BACKFILL, and_then
from engine.schema import Part, Table
from sources.mysql.catalog import read_columns
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.position import MySQLPosition, parse_position
from sources.mysql.snapshot.keyset import Key, Keyset
from sources.mysql.snapshot.live_tables import same_shape, without_rows
from sources.mysql.snapshot.ranges import Range, RangePart, Split
from sources.mysql.snapshot.result_set import query_rows
from sources.mysql.snapshot.sessions import Sessions
from sources.mysql.snapshot.text_rows import select_list, text_rows
from sources.mysql.snapshot.watermarks import Flavour, Watermarks
from sources.mysql.statistics import row_statistics

__all__ = ["ChunkReader"]

_CHUNK_BYTES = 8 << 20
_CUT_BYTES = 2 * _CHUNK_BYTES
#: The number of keys in one condition.
_KEYS_TOGETHER = 200
#: How long a read waits for the next byte of its rows.
_READ_TIMEOUT_SECONDS = 60.0
#: How often a read that waits looks whether its caller has abandoned it.
_ABANDONED_SECONDS = 0.1
#: The cursor within a table without a key: its read cannot be resumed.
_NO_PLACE = "[]"
# Server errors for a table with another definition: no such table, no such column, or a table that
# was created anew since the transaction's snapshot was taken, by ALTER, TRUNCATE or OPTIMIZE.
_RECREATED = 1412
_OTHER_SHAPE = frozenset((1146, 1054, _RECREATED))
# Server errors for a table that cannot be read: its file cannot be opened or found, an error of its
# storage engine, a bad key file, a table marked as crashed, a corrupt index, no tablespace.
_UNREADABLE = frozenset((1016, 1017, 1030, 1034, 1035, 1194, 1195, 1712, 1812, 1814))


class ChunkReader:
    """Reads tables in chunks for ``SnapshotSource.chunks``; keeps its connections between calls.

    ``prepare`` makes an ordinary session that is not connected yet. ``gtid`` says whether GTIDs are
    enabled on the server (MySQL; MariaDB always has them). ``chunks`` runs on one thread at a time;
    ``stop`` and ``close`` may be called from any thread.
    """

    def __init__(
        self,
        prepare: Callable[[], Connection[Any]],
        flavour: Flavour,
        *,
        gtid: bool,
        invalid_text: InvalidText | None = None,
    ) -> None:
        self._sessions = Sessions(prepare)
        self._invalid_text = invalid_text
        self._watermarks = Watermarks(flavour, gtid)
        #: The table that was read last, and the mean size of its rows.
        self._measured: tuple[Table | None, float] = (None, 0.0)

    def chunks(
        self,
        table: Table,
        cursor: str | None,
        low_watermark: str,
        *,
        rows: int,
        readers: int,
        part: Part | None = None,
        columns: Collection[str] = (),
        where: str = "",
    ) -> Iterator[Chunk]:
        """See ``engine.contract.SnapshotSource.chunks``. ``where`` is a condition for the rows of a
        table with a key.

        A table without a key is always read whole: ``cursor`` is ignored, and the cursors of its
        chunks cannot be resumed from.
        """
        self._sessions.resume()
        reading = _Reading(
            *(self._sessions, self._watermarks, table, parse_position(low_watermark), rows),
            self._invalid_text,
            part,
            columns,
            where,
        )
        if self._measured[0] is table and not columns:
            reading.row_bytes = self._measured[1]
        try:
            if table.key:
                yield from reading.by_key(cursor, readers)
            else:
                yield from reading.whole()
        except SourceLost:
            if not self._sessions.stopped:
                raise
        except SourceError as error:
            if error_code(error) not in _UNREADABLE:
                raise
            hint = and_then(error.hint or "repair the table on the source", BACKFILL)
            raise TableUnreadable(error.message, hint=hint, table=table.id) from error
        finally:
            reading.abandoned = True
            if not columns:
                self._measured = (table, reading.row_bytes)

    def rows_of_keys(
        self, table: Table, keys: Sequence[Key], low_watermark: str, most_bytes: int
    ) -> Chunk:
        """See ``engine.recovery.ReadsKeys.rows_of_keys``."""
        self._sessions.resume()
        low = parse_position(low_watermark)
        reading = _Reading(
            *(self._sessions, self._watermarks, table, low, _KEYS_TOGETHER),
            *(self._invalid_text, None, (), ""),
        )
        return reading.of_keys(keys, most_bytes)

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        """See ``engine.contract.SnapshotSource.empty``.

        The columns of the tables are not checked: an empty table has no rows in any shape.
        """
        self._sessions.resume()
        try:
            with self._sessions.lease() as lease, translate_errors():
                try:
                    return self._empty(lease.connection, tables, parse_position(low_watermark))
                except MySQLError as error:
                    lease.spoiled = True
                    if error.args and error.args[0] in _OTHER_SHAPE:
                        return []  # a table has changed meanwhile; ``chunks`` will check each one
                    raise
        except SourceLost:
            if not self._sessions.stopped:
                raise
            return []

    def _empty(
        self, connection: Connection[Any], tables: Sequence[Table], low_watermark: MySQLPosition
    ) -> list[Chunk]:
        """One chunk for each of the tables that holds no row."""
        # A first check without a proof, so that tables with rows are not waited for or locked.
        found = without_rows(connection, tables)
        if not found:
            return []
        self._watermarks.wait_until_visible(connection, found, low_watermark)
        for statement in self._watermarks.begin(connection, low_watermark):
            query(connection, statement)
        found = without_rows(connection, found)
        high_watermark = str(self._watermarks.high(connection))
        return [Chunk(table, [], None, high_watermark) for table in found]

    def stop(self) -> None:
        """Make ``chunks`` and ``empty`` end soon; idempotent."""
        self._sessions.stop()

    def close(self) -> None:
        """Free all connections; idempotent. The reader can be used again."""
        self._sessions.close()


class _Reading:
    """One read of one table; ``abandoned`` makes the reads that are running end."""

    def __init__(
        self,
        sessions: Sessions,
        watermarks: Watermarks,
        table: Table,
        low_watermark: MySQLPosition,
        rows: int,
        invalid_text: InvalidText | None,
        part: Part | None,
        columns: Collection[str],
        where: str,
    ) -> None:
        self._where = where
        self._invalid_text = invalid_text
        self.abandoned = False
        self._sessions = sessions
        self._watermarks = watermarks
        self._table = table
        #: What is read of it.
        self._shown = table.narrowed(columns) if columns else table
        self._low_watermark = low_watermark
        self._rows = rows
        #: The mean size of the rows that were read; 0 if none were.
        self.row_bytes = 0.0
        self._keyset = Keyset(table, part)
        self._keys = self._keyset.as_table()

    def by_key(self, cursor: str | None, readers: int) -> Iterator[Chunk]:
        """Chunks in key order; up to ``readers`` of them are read at once."""
        after = None if cursor is None else self._keyset.parse(cursor)
        with self._sessions.lease() as lease, self._errors():
            count, length = row_statistics(lease.connection, self._table)
            # How long the values of a few columns are is not known; a long chunk is cut.
            estimate = length if self._shown is self._table else 1
            self.row_bytes = self.row_bytes or max(estimate, 1)
            self._watermarks.wait_until_visible(
                lease.connection, [self._table], self._low_watermark
            )
            self._check_keys(lease.connection)
            self._check_condition(lease.connection)
        start = Range(after, None, self._limit)
        if count < start.limit and not self._where:
            # By the statistics, one read is enough.
            start.is_next.set()
            part = self._read(start)
            yield part.chunk
            if part.rest is None:
                return
            start = part.rest
        # One thread more than readers, for the ends of the ranges.
        pool = ThreadPoolExecutor(readers + 1, thread_name_prefix="tailrace-chunks")
        try:
            yield from self._in_order(pool, start, readers)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def of_keys(self, keys: Sequence[Key], most_bytes: int) -> Chunk:
        """The rows with these keys, in one transaction."""
        found: dict[Key, Row] = {}
        size = 0
        with self._sessions.lease() as lease, self._errors():
            connection, low = lease.connection, self._low_watermark
            self._watermarks.wait_until_visible(connection, [self._table], low)
            self._check_keys(connection)
            self._check_shape(connection, self._watermarks.begin(connection, low))
            for start in range(0, len(keys), self._rows):
                where = self._keyset.among(keys[start : start + self._rows])
                query = self._query(connection, where)
                for rows, received in self._rows_of(connection, self._table, query):
                    found |= {self._key_of(row): row for row in rows}
                    if (size := size + received) > most_bytes:
                        raise TooLarge
            high_watermark = self._watermarks.high(connection)
        return Chunk(self._table, list(found.values()), None, str(high_watermark), size)

    def whole(self) -> Iterator[Chunk]:
        """All rows as of one position in the log, in the order in which the server sends them."""
        exact, lease_another = self._watermarks.exact, self._sessions.lease
        with self._sessions.lease() as lease, self._errors():
            connection = lease.connection
            with exact(
                connection, self._table, self._low_watermark, lease_another
            ) as high_watermark:
                self._check_shape(connection)
                lease.spoiled = True
                rows: list[Row] = []
                size = 0
                query = self._query(connection, "")
                for more, received in self._rows_of(connection, self._table, query):
                    if rows and (size >= _CHUNK_BYTES or len(rows) >= self._rows):
                        yield Chunk(self._table, rows, _NO_PLACE, high_watermark, size)
                        rows, size = [], 0
                    rows += more
                    size += received
                connection.rollback()
                lease.spoiled = False
        yield Chunk(self._table, rows, None, high_watermark, size)

    def _in_order(self, pool: ThreadPoolExecutor, start: Range, readers: int) -> Iterator[Chunk]:
        pending: deque[tuple[Range, Future[RangePart]]] = deque()
        ahead: Future[Split] | None = self._split_ahead(pool, start, readers)
        while ahead is not None or pending:
            ahead = self._fill(pool, pending, ahead, readers)
            piece, future = pending.popleft()
            piece.is_next.set()
            part = future.result()
            if part.chunk.rows:
                self.row_bytes = max(part.chunk.size / len(part.chunk.rows), 1)
            if part.rest is None:
                pass
            elif part.rest.last is None:
                # A range with an open end is the last one, so no other read is pending.
                rest = msgspec.structs.replace(part.rest, limit=self._limit)
                ahead = self._split_ahead(pool, rest, readers)
            else:
                pending.appendleft((part.rest, pool.submit(self._read, part.rest)))
            # Keep reading while the caller works on this chunk.
            ahead = self._fill(pool, pending, ahead, readers)
            yield part.chunk

    def _fill(
        self,
        pool: ThreadPoolExecutor,
        pending: deque[tuple[Range, Future[RangePart]]],
        ahead: Future[Split] | None,
        readers: int,
    ) -> Future[Split] | None:
        """Start reads until all readers are busy; return what is left, with its first range."""
        while ahead is not None and len(pending) < readers:
            piece, rest = ahead.result()
            pending.append((piece, pool.submit(self._read, piece)))
            ahead = None if rest is None else self._split_ahead(pool, rest, readers)
        return ahead

    def _split_ahead(self, pool: ThreadPoolExecutor, ahead: Range, readers: int) -> Future[Split]:
        """Find the range of the next chunk while chunks are read."""
        # With a condition, a read without an end might have to pass over the whole table.
        if readers > 1 or self._where:
            return pool.submit(self._split, ahead)
        whole: Future[Split] = Future()
        whole.set_result((ahead, None))
        return whole

    @property
    def _limit(self) -> int:
        """The number of rows of the next chunk."""
        return max(1, min(self._rows, int(_CHUNK_BYTES / self.row_bytes)))

    def _split(self, ahead: Range) -> Split:
        """The range of the next chunk, and the range after it."""
        limit = self._limit
        query = (
            f"SELECT {select_list(self._keys)} FROM {quote_table(self._table)}"
            f"{self._keyset.between(ahead.after, None)}"
            f" ORDER BY {self._keyset.order} LIMIT 1 OFFSET {limit - 1}"
        )
        with self._sessions.lease() as lease, self._errors():
            pieces = list(self._rows_of(lease.connection, self._keys, query))
        found = [row for rows, _ in pieces for row in rows]
        if not found:
            return Range(ahead.after, None, limit), None
        self._check_progress(ahead.after, found[0])
        return Range(ahead.after, found[0], limit), Range(found[0], None, limit)

    def _read(self, piece: Range) -> RangePart:
        """Read one chunk in a transaction of its own."""
        where = self._keyset.between(piece.after, piece.last, self._where)
        tail = f"{where} ORDER BY {self._keyset.order}"
        if piece.last is None:
            tail += f" LIMIT {piece.limit}"
        high_watermark = None
        with self._sessions.lease() as lease, self._errors():
            connection = lease.connection
            self._check_shape(connection, self._watermarks.begin(connection, self._low_watermark))
            query = self._query(connection, tail)
            rows, size, whole = self._receive(connection, query, piece.is_next)
            lease.spoiled = not whole
            if whole:
                high_watermark = self._watermarks.high(connection)
        if high_watermark is None:
            # The server is still sending rows on that connection, so ask on another one.
            with self._sessions.lease() as lease, self._errors():
                high_watermark = self._watermarks.high(lease.connection)
        return self._part(piece, rows, size, whole, high_watermark)

    def _receive(
        self, connection: Connection[Any], query: str, is_next: threading.Event
    ) -> tuple[list[Row], int, bool]:
        """The rows, their size in bytes, and whether the result was read to its end."""

        def wait() -> None:
            while not (is_next.wait(_ABANDONED_SECONDS) or self.abandoned):
                pass

        rows: list[Row] = []
        size = 0
        for more, received in self._rows_of(connection, self._shown, query, wait):
            rows += more
            size += received
            if self.abandoned:
                raise SourceLost("the read was abandoned by its caller")
            # The rest of a cut chunk begins after its last row, so there must be one.
            if more and size >= _CUT_BYTES:
                return rows, size, False
        return rows, size, True

    def _part(
        self, piece: Range, rows: list[Row], size: int, whole: bool, high_watermark: MySQLPosition
    ) -> RangePart:
        rest = None
        if not whole or (piece.last is None and len(rows) >= piece.limit):
            rest = Range(self._key_of(rows[-1]), piece.last, piece.limit) if rows else None
        if rest is not None:
            self._check_progress(piece.after, rest.after)
        end = piece.last if rest is None else rest.after
        cursor = None if end is None else self._keyset.cursor(end)
        keys = KeyRange(piece.after, end)
        return RangePart(Chunk(self._shown, rows, cursor, high_watermark, size, keys), rest)

    def _key_of(self, row: Row) -> Key:
        return tuple(row[ordinal] for ordinal in self._shown.key)

    def _query(self, connection: Connection[Any], tail: str) -> str:
        mysql_5_7 = server_version(connection).startswith("5.7.")
        columns = select_list(self._shown, raw_line_breaks=mysql_5_7)
        return f"SELECT {columns} FROM {quote_table(self._table)}{tail}"

    def _check_keys(self, connection: Connection[Any]) -> None:
        """Raise TableUnreadable if rows have a key that cannot be told from another key."""
        ambiguous = self._keyset.ambiguous
        if not ambiguous:
            return
        query = f"SELECT 1 FROM {quote_table(self._table)} WHERE {ambiguous} LIMIT 1"
        with connection.cursor() as cursor:
            if cursor.execute(query):
                remedy = f"give the rows a valid value; find them with WHERE {ambiguous}"
                raise TableUnreadable(
                    "rows have an invalid value in an ENUM column of their key, which reads like"
                    " its member ''",
                    hint=and_then(remedy, BACKFILL),
                    table=self._table.id,
                )

    def _check_condition(self, connection: Connection[Any]) -> None:
        """Read all rows if the server cannot evaluate the condition."""
        if self._where:
            self._check_shape(connection)
            if not accepts(connection, self._table, self._where):
                self._where = ""

    def _rows_of(
        self,
        connection: Connection[Any],
        table: Table,
        query: str,
        before_huge: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[list[Row], int]]:
        """The rows of a query for the columns of ``table``, piece by piece, and their bytes."""
        decoder = text_rows(table, self._invalid_text)
        return query_rows(connection, query, decoder, _READ_TIMEOUT_SECONDS, before_huge)

    def _check_progress(self, before: Key | None, after: Key | None) -> None:
        """Raise SourceError if a read does not advance: the backfill would never end."""
        if before is not None and before == after:
            raise TableUnreadable(
                "the backfill does not advance: the source sorts a row's key above that same key",
                hint='add "TABLE" to exclude in [source], or give the table another primary key',
                table=self._table.id,
            )

    def _check_shape(self, connection: Connection[Any], before: Sequence[str] = ()) -> None:
        """Raise ShapeChanged unless the live columns are the table's. The statements of ``before``
        are executed first.

        They cannot change until the transaction ends.
        """
        # Using the table takes the metadata lock that keeps its definition.
        use = f"SELECT 1 FROM {quote_table(self._table)} LIMIT 0"
        if not same_shape(read_columns(connection, self._table.id, [*before, use]), self._table):
            raise self._other_shape()

    def _other_shape(self) -> ShapeChanged:
        return ShapeChanged(
            "the live table has another shape than the log up to here", table=self._table.id
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with translate_errors():
                yield
        except SourceError as error:
            code = error_code(error)
            if code == _RECREATED:
                raise TableRecreated(
                    "the live table was created anew during the read", table=self._table.id
                ) from error
            if code in _OTHER_SHAPE:
                raise self._other_shape() from error
            if isinstance(error, TableUnreadable):
                error.table = str(self._table.id)
            raise
