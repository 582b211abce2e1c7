"""
The snapshot's reads: a table in key order, chunk by chunk, over several connections.

A chunk is one range of keys, read in one statement that proves when it read (``moments``). Ranges
are found by counting along the key, so several can be read at once; they are delivered in order,
with no more than a chunk per reader ahead. Rows are counted so that a chunk stays within a few
megabytes, and a chunk that grows beyond all the same is cut: the rest of its range is read next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from pymysql.connections import Connection
from pymysql.err import MySQLError

from engine.change import Chunk, Row
from engine.errors import ShapeChanged, SourceError, SourceLost
from engine.schema import Table
from sources.mysql.catalog import read_table, row_length
from sources.mysql.connection import translated
from sources.mysql.keyset import Key, Keyset
from sources.mysql.moments import Flavour, Moments, quote_table
from sources.mysql.native import same_type
from sources.mysql.position import MySQLPosition, parse_position
from sources.mysql.resultset import packets
from sources.mysql.text_rows import select_list, text_row_decoder

__all__ = ["ChunkReader"]

_CHUNK_BYTES = 8 << 20
_CUT_BYTES = 2 * _CHUNK_BYTES
_READ_TIMEOUT_SECONDS = 60.0
_WHOLE_TABLE = "[]"
# What the server says when the table is not the one that was asked for: no such table or column,
# a definition that has changed since the snapshot.
_OTHER_SHAPE = frozenset((1146, 1054, 1412, 1356, 1109))

# Dates that are none must be comparable, CHAR must come without its padding, and text as it is
# stored: no conversion can then lose what it cannot convert.
_SESSION = (
    "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00', max_sort_length = 8192,"
    " character_set_results = NULL"
)


class _Range(msgspec.Struct, frozen=True):
    """Keys above ``after`` up to ``last`` (None: no bound); ``limit`` rows if there is no ``last``."""

    after: Key | None
    last: Key | None
    limit: int


class _Part(msgspec.Struct, frozen=True):
    """What a read of a range gave; ``rest`` is what is left to read of it."""

    chunk: Chunk
    rest: _Range | None


class ChunkReader:
    """Reads tables in chunks for ``Source.chunks``; keeps its connections between calls.

    ``connect`` opens an ordinary session in UTC. ``gtid`` says whether the server's GTIDs are on
    (MySQL; MariaDB always has them). ``chunks`` may run on one thread at a time; ``stop`` and
    ``close`` may be called from any.
    """

    def __init__(
        self, connect: Callable[[], Connection[Any]], flavour: Flavour, *, gtid: bool
    ) -> None:
        self._connect = connect
        self._moments = Moments(flavour, gtid)
        self._idle: list[Connection[Any]] = []
        self._busy: set[Connection[Any]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def chunks(
        self, table: Table, cursor: str | None, since: str, *, rows: int, readers: int
    ) -> Iterator[Chunk]:
        """See ``engine.contract.Source.chunks``.

        A table without a key is read whole, from its beginning whatever ``cursor`` says, and the
        cursors of its chunks are no places to go on from.
        """
        self._stopped = False
        reading = _Reading(self, table, parse_position(since), rows)
        try:
            if table.key:
                yield from reading.by_key(cursor, readers)
            else:
                yield from reading.whole()
        except SourceLost:
            if not self._stopped:
                raise

    def stop(self) -> None:
        """Make ``chunks`` end soon; idempotent."""
        with self._lock:
            self._stopped = True
            busy = list(self._busy)
        for connection in busy:
            _break(connection)

    def close(self) -> None:
        """Free all connections; idempotent."""
        self.stop()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called since ``chunks`` began."""
        return self._stopped

    @property
    def moments(self) -> Moments:
        """How reads prove when they happened."""
        return self._moments

    def open(self) -> Connection[Any]:
        """A connection of its own, with the session that reads need."""
        connection = self._connect()
        with translated(), connection.cursor() as statement:
            statement.execute(_SESSION)
        return connection

    @contextmanager
    def session(self) -> Iterator[Connection[Any]]:
        """A connection for one read; thrown away if the read does not end well."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self.open()
        with self._lock:
            self._busy.add(connection)
            if self._stopped:
                _break(connection)
        well = False
        try:
            yield connection
            well = True
        finally:
            with self._lock:
                self._busy.discard(connection)
                if well and not self._stopped:
                    self._idle.append(connection)
            if not well or self._stopped:
                _close(connection)


class _Reading:
    """One run through one table."""

    def __init__(
        self, reader: ChunkReader, table: Table, since: MySQLPosition, rows: int
    ) -> None:
        self._reader = reader
        self._table = table
        self._since = since
        self._wanted = rows
        self._row_bytes = 1.0
        self._decode = text_row_decoder(table)
        self._select = f"SELECT {select_list(table)} FROM {quote_table(table)}"
        self._keyset = Keyset(table)

    def by_key(self, cursor: str | None, readers: int) -> Iterator[Chunk]:
        """Chunks in key order, ``readers`` of them being read at once."""
        after = None if cursor is None else self._keyset.parse(cursor)
        with self._reader.session() as connection, self._errors():
            self._row_bytes = max(row_length(connection, self._table), 1)
            self._reader.moments.prove(connection, self._table, self._since)
        pool = ThreadPoolExecutor(readers, thread_name_prefix="tailrace-chunks")
        try:
            yield from self._in_order(pool, _Range(after, None, self._limit()), readers)
        finally:
            self._cancel(pool)

    def _in_order(
        self, pool: ThreadPoolExecutor, range: _Range | None, readers: int
    ) -> Iterator[Chunk]:
        pending: deque[Future[_Part]] = deque()
        while range is not None or pending:
            while range is not None and len(pending) < readers:
                piece, range = self._split(range) if readers > 1 else (range, None)
                pending.append(pool.submit(self._read, piece))
            part = pending.popleft().result()
            if part.rest is not None and part.rest.last is None and not pending:
                range = msgspec.structs.replace(part.rest, limit=self._limit())
                if readers == 1:
                    # Read on while this chunk is being worked on.
                    pending.append(pool.submit(self._read, range))
                    range = None
            elif part.rest is not None:
                pending.appendleft(pool.submit(self._read, part.rest))
            if self._reader.stopped:
                return
            self._learn(part.chunk)
            yield part.chunk

    def _cancel(self, pool: ThreadPoolExecutor) -> None:
        """Wait for nobody's rows any more."""
        pool.shutdown(wait=False, cancel_futures=True)

    def _limit(self) -> int:
        return max(1, min(self._wanted, int(_CHUNK_BYTES / self._row_bytes)))

    def _learn(self, chunk: Chunk) -> None:
        if chunk.rows:
            self._row_bytes = max(chunk.size / len(chunk.rows), 1)

    def _split(self, range: _Range) -> tuple[_Range, _Range | None]:
        """The next chunk's range, and what comes after it."""
        keys = self._keyset.as_table()
        where = self._keyset.between(range.after, range.last)
        limit = self._limit()
        query = (
            f"SELECT {select_list(keys)} FROM {quote_table(self._table)}{where}"
            f" ORDER BY {self._keyset.order} LIMIT 1 OFFSET {limit - 1}"
        )
        with self._reader.session() as connection, self._errors():
            found = [row for rows in packets(connection, query, _READ_TIMEOUT_SECONDS) for row in rows]
        if not found:
            # Fewer rows than a chunk; read on at the end, there may be more by then.
            return _Range(range.after, None, limit), None
        last = text_row_decoder(keys)(found)[0]
        return _Range(range.after, last, limit), _Range(last, None, limit)

    def _read(self, range: _Range) -> _Part:
        """One chunk in one transaction."""
        query = (
            f"{self._select}{self._keyset.between(range.after, range.last)}"
            f" ORDER BY {self._keyset.order}"
        )
        if range.last is None:
            query += f" LIMIT {range.limit}"
        with self._reader.session() as connection, self._errors():
            place = self._reader.moments.begin(connection, self._since)
            raw, size, whole = _up_to(packets(connection, query, _READ_TIMEOUT_SECONDS), _CUT_BYTES)
            if not whole:
                # The rest is on its way; a connection is quicker opened anew than read empty.
                connection = self._reader.replace(connection)
        rows = self._decode(raw)
        return self._part(range, rows, size, whole, seen)

    def whole(self) -> Iterator[Chunk]:
        raise NotImplementedError

    @contextmanager
    def _errors(self) -> Iterator[None]:
        yield


def _break(connection: Any) -> None:
    """End what another thread waits for on this connection."""


def _close(connection: Any) -> None:
    """"""
