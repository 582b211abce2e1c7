"""
One connection to PostgreSQL: every wait has a deadline, and every driver error is translated.

At a deadline the socket is shut down instead of the task being cancelled, so libpq itself reports
the connection as lost, whatever it was waiting for.

Statements that work on many rows have a long deadline. While one runs, TCP detects a server machine
that is gone, and ``watch`` a server process that is gone or waits. A process that hangs cannot be
told from one that works, and is detected only at the deadline. In a COPY, each write has the short
deadline.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from engine.databases.postgres.connect import connect_error, driver_error
from engine.databases.postgres.session_settings import set_statements
from engine.databases.postgres.settings import guard
from engine.databases.side import TARGET
from engine.errors import ApplyError, SinkError, SinkLost, TailraceError
from sinks.postgres.copy_in import CopyIn
from sinks.postgres.settings import PostgresSettings

__all__ = ["Cursor", "Session", "Write", "is_reachable"]

Cursor = psycopg.AsyncCursor[tuple[Any, ...]]

#: Sends data of a COPY.
Write = Callable[[bytes], Awaitable[None]]

#: Settings for a session that writes. By the keepalives the server detects that this client is
#: gone.
_WRITER_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "work_mem": "64MB",
    "maintenance_work_mem": "256MB",
    "temp_buffers": "32MB",
    "jit": "off",
    "default_statistics_target": "10",  # ANALYZE of a staging table samples 3,000 rows
    # The rows that staged rows refer to are found through the index of the key. The planner would
    # read the whole table for each batch instead, which costs more, the larger the table is.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

#: Bounds of the number of rows that statements for single rows apply; how many more round trips
#: staging takes, and the time of a single row's statement.
LEAST_SINGLE_ROWS, MOST_SINGLE_ROWS = 50, 2000
STAGING_ROUND_TRIPS = 5
SINGLE_ROW_SECONDS = 100e-6
#: How long the server may take to accept a connection when it is probed.
PROBE_SECONDS = 2
#: The release that introduced ``client_connection_check_interval``.
CONNECTION_CHECK_VERSION = 140_000
#: How often the server looks whether this client is gone, while it executes a statement.
_CONNECTION_CHECK = "5s"

#: The classes of SQLSTATEs for which the values of rows are the reason: data errors, violated
#: constraints, and the limits of the program, such as the length of an index entry. Not class 21,
#: equal keys in one statement: alone, each of these rows would replace the one before.
_OF_ROWS = ("22", "23", "54")

#: A slow network can send this much within the deadline of a small statement.
MAX_WRITE_BYTES = 1 << 20


class Session:
    """A connection in autocommit mode, with explicit BEGIN, COMMIT and ROLLBACK."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._begun = False
        #: Statements without a result, to be sent with the next one.
        self._later: list[str] = []
        #: The open blocks of ``translate_errors``, and when one was last entered or left.
        self._open = 0
        self._since = 0.0
        #: Why the connection was shut down here.
        self._given_up = ""
        #: Whether the target's triggers and foreign keys are off in this session.
        self.replica_role = False
        #: The time of a round trip, measured by ``connect``.
        self.round_trip_seconds = 0.0
        #: Up to this many rows, statements for single rows are faster than staging.
        self.single_rows = LEAST_SINGLE_ROWS

    @property
    def connection(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """The open connection; SinkLost if there is none."""
        if self._connection is None:
            raise SinkLost("the connection to PostgreSQL is closed")
        return self._connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection, which may be broken."""
        return self._connection is not None

    @property
    def broken(self) -> bool:
        """Whether there is no connection that works."""
        connection = self._connection
        return connection is None or connection.closed or connection.broken

    async def connect(self) -> None:
        """Open a new connection. Raises ``SinkLost``, or ``SinkError`` if a retry cannot help."""
        await self.close()
        settings = self._settings
        seconds = settings.timeout_seconds
        self._given_up = ""
        try:
            self._connection = await psycopg.AsyncConnection.connect(
                settings.url,
                autocommit=True,
                cursor_factory=psycopg.AsyncRawCursor,
                connect_timeout=max(2, int(seconds)),
                application_name=settings.application_name,
                keepalives=1,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=4,
                tcp_user_timeout=int(seconds * 1000),
                **guard(settings.url),
            )
        except psycopg.Error as error:
            raise connect_error(error, TARGET) from error
        self._connection.prepared_max = 500
        # The server stops waiting for a lock before the statement's deadline here.
        more = {**_WRITER_SETTINGS, "lock_timeout": f"{int(seconds * 800)}ms"}
        version = self._connection.info.server_version
        if version >= CONNECTION_CHECK_VERSION:
            more["client_connection_check_interval"] = _CONNECTION_CHECK
        await self.execute(set_statements(version, more))
        started = time.perf_counter()
        self.replica_role = await self._switch_off_triggers()
        self.round_trip_seconds = time.perf_counter() - started
        self.single_rows = _single_rows(self.round_trip_seconds)

    async def _switch_off_triggers(self) -> bool:
        try:
            await self.connection.execute("SET session_replication_role = replica")
        except pg.InsufficientPrivilege:
            return False
        except psycopg.Error as error:
            raise self._translate(error, None) from error
        return True

    async def close(self) -> None:
        """Close the connection if there is one. An open transaction is lost."""
        connection, self._connection, self._begun = self._connection, None, False
        self._later.clear()
        if connection is not None:
            await connection.close()

    # Transactions

    async def begin(self) -> None:
        """Open a transaction if none is open. BEGIN is sent with the next statement."""
        if not self._begun:
            self._later.append("BEGIN")
            self._begun = True

    async def begin_in_pipeline(self) -> None:
        """The same in an open pipeline, where everything that waits to be sent goes first."""
        await self.begin()
        self._before = []
        for query in self._later:
            cursor = self.connection.cursor()
            self._before.append(cursor)
            await cursor.execute(query, prepare=False)
        self._later.clear()

    @property
    def began_in_pipeline(self) -> bool:
        """Whether all that ``begin_in_pipeline`` has sent was executed, when the pipeline has
        ended. If not, its error concerns none of the statements that follow."""
        return all(cursor.statusmessage is not None for cursor in self._before)

    async def commit(self) -> None:
        """Commit. After ``SinkLost`` the outcome is unknown."""
        async with self.translate_errors(), self.connection.pipeline():
            await self.begin_in_pipeline()
            cursor = await self.commit_in_pipeline()
        self.committed(cursor)

    async def commit_in_pipeline(self) -> Cursor:
        """Execute COMMIT in a pipeline. When that has ended, call ``committed``."""
        return await self.connection.execute("COMMIT")

    def committed(self, cursor: Cursor) -> None:
        """The pipeline with the COMMIT has ended without an error."""
        self._begun = False
        if cursor.statusmessage != "COMMIT":
            raise SinkError("PostgreSQL rolled the transaction back at its COMMIT")

    async def rollback(self) -> None:
        """Roll the open transaction back. The connection is closed if a statement still runs on it
        or its state is unknown."""
        if not self._begun:
            return
        self._begun = False
        self._later.clear()
        connection = self._connection
        if connection is None or connection.closed:
            return
        status = connection.info.transaction_status
        if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
            await self.close()
        elif status != TransactionStatus.IDLE:
            async with self.translate_errors():
                await connection.execute("ROLLBACK")

    # Statements

    def later(self, *statements: str) -> None:
        """Execute statements without a result in the open transaction, in the round trip of the
        next one."""
        self._later += statements

    async def execute(
        self,
        query: str,
        parameters: Sequence[Any] | None = None,
        *,
        table: object = None,
        prepare: bool | None = None,
    ) -> Cursor:
        """Execute one small statement; ``prepare`` is psycopg's."""
        async with self.translate_errors(table), self._with_later():
            return await self.connection.execute(query, parameters, prepare=prepare)

    @asynccontextmanager
    async def _with_later(self) -> AsyncIterator[None]:
        """A block whose statement is sent in one round trip with those that wait to be sent."""
        if not self._later:
            yield
            return
        async with self.connection.pipeline():
            await self.begin_in_pipeline()
            yield

    async def execute_many(self, query: str, rows: Sequence[Sequence[Any]]) -> Cursor:
        """Execute one statement for each row. To be called inside ``translate_errors``; in a
        pipeline, the cursor's row count is known when the pipeline has ended."""
        cursor = self.connection.cursor()
        await cursor.executemany(query, rows)
        return cursor

    async def execute_bulk(
        self, query: str, parameters: Sequence[Any] | None = None, *, table: object = None
    ) -> int:
        """Execute one statement that may work on many rows; returns their number.

        It is planned each time: the best plan for many staged rows would read the whole table for
        few.
        """
        seconds = self._settings.statement_timeout_seconds
        async with self.translate_errors(table, seconds), self._with_later():
            cursor = await self.connection.execute(query, parameters, prepare=False)
        return max(0, cursor.rowcount)

    async def execute_bulk_all(self, statements: Sequence[tuple[str, object]]) -> None:
        """Execute statements that may work on many rows, each given with its table, in one round
        trip. An error names the table of the statement that failed.
        """
        cursors: list[Cursor] = []
        seconds = self._settings.statement_timeout_seconds * max(1, len(statements))
        try:
            async with self.translate_errors(None, seconds), self.connection.pipeline():
                await self.begin_in_pipeline()
                for query, _ in statements:
                    cursors.append(await self.connection.execute(query, prepare=False))
        except TailraceError as error:
            reached = sum(cursor.statusmessage is not None for cursor in cursors)
            if self.began_in_pipeline:
                for _, table in statements[reached : reached + 1]:
                    error.table = str(table)
            raise

    async def copy(self, query: str, pieces: Iterable[bytes], *, table: object = None) -> int:
        """Execute COPY … FROM STDIN; returns the number of rows."""

        async def all_pieces(write: Write) -> None:
            for piece in pieces:
                await write(piece)

        return await self.copy_from(query, all_pieces, table=table)

    async def copy_from(
        self, query: str, send: Callable[[Write], Awaitable[None]], *, table: object = None
    ) -> int:
        """Execute COPY … FROM STDIN of what ``send`` writes; returns the number of rows. ``send``
        may wait for something else than the server, for as long as it likes.
        """
        seconds = self._settings.statement_timeout_seconds
        before, self._later = self._later, []

        async def write(data: bytes) -> None:
            for start in range(0, len(data), MAX_WRITE_BYTES):
                async with self.translate_errors(table):
                    await copy.write(data[start : start + MAX_WRITE_BYTES])

        copy = CopyIn(self.connection)
        async with self.connection.lock:
            async with self.translate_errors(table, seconds):
                await copy.begin(before, query)
            complete = False
            try:
                await send(write)
                complete = True
            finally:
                if not complete:
                    await self._give_copy_up(copy)
            async with self.translate_errors(table, seconds):
                await copy.end()
        return copy.rows

    async def _give_copy_up(self, copy: CopyIn) -> None:
        with suppress(TailraceError):
            async with self.translate_errors():
                await copy.end(b"the client has given the COPY up")

    async def in_savepoint(
        self, execute: Callable[[], Awaitable[int]], expected: tuple[type[psycopg.Error], ...]
    ) -> bool:
        """Call ``execute`` in a savepoint. Returns False, with nothing changed, if it fails with
        one of the ``expected`` errors; raises any other."""
        self.later("SAVEPOINT tailrace")
        try:
            await execute()
        except TailraceError as error:
            if not isinstance(error.__cause__, expected):
                raise
            self.later("ROLLBACK TO SAVEPOINT tailrace", "RELEASE SAVEPOINT tailrace")
            return False
        self.later("RELEASE SAVEPOINT tailrace")
        return True

    @asynccontextmanager
    async def translate_errors(
        self, table: object = None, timeout_seconds: float | None = None, *, sent_bytes: int = 0
    ) -> AsyncIterator[None]:
        """Run the body with a deadline, and raise its driver errors as ``TailraceError``.

        The default deadline is that of a small statement, longer if much is sent.
        """
        scale = max(1.0, sent_bytes / MAX_WRITE_BYTES)
        seconds = timeout_seconds or self._settings.timeout_seconds * scale
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(seconds, self._expire, seconds, timeout_seconds is not None)
        self._open += 1
        self._since = loop.time()
        try:
            yield
        except psycopg.Error as error:
            raise self._translate(error, table) from error
        finally:
            deadline.cancel()
            self._open -= 1
            self._since = loop.time()

    @property
    def waits_since(self) -> float | None:
        """The event loop's time at which the present wait for the server began; None if there is
        no wait.
        """
        return self._since if self._open else None

    def give_up(self, reason: str) -> None:
        """Shut the socket down, so that whatever waits for it fails at once, with the reason."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        self._given_up = self._given_up or reason
        # An error means that the peer is gone already, and libpq notices by itself.
        with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)

    def _expire(self, seconds: float, many_rows: bool) -> None:
        setting = "statement_timeout_seconds" if many_rows else "timeout_seconds"
        self.give_up(f"no answer within {seconds:g} s, the deadline of [sink] {setting}")

    def _translate(self, error: psycopg.Error, table: object) -> TailraceError:
        broken = self.broken
        if broken and self._given_up:
            return SinkLost(
                f"the connection to PostgreSQL was given up: {self._given_up}",
                hint="Look into the server's log, and at the network between this host and the"
                " server.",
                table=table,
            )
        translated = driver_error(error, TARGET, broken=broken, table=table)
        if translated.retryable or isinstance(error, pg.InsufficientPrivilege):
            return translated
        refused = ApplyError(translated.message, hint=_apply_hint(error), table=table)
        refused.of_rows = (error.sqlstate or "").startswith(_OF_ROWS)
        return refused


def _single_rows(round_trip_seconds: float) -> int:
    rows = int(STAGING_ROUND_TRIPS * round_trip_seconds / SINGLE_ROW_SECONDS)
    return min(max(rows, LEAST_SINGLE_ROWS), MOST_SINGLE_ROWS)


def is_reachable(url: str, application_name: str) -> bool:
    """Whether the server accepts a connection. Blocks for a few seconds at most."""
    try:
        psycopg.connect(
            url,
            connect_timeout=PROBE_SECONDS,
            application_name=application_name,
            **guard(url),
        ).close()
    except psycopg.Error:
        return False
    return True


def _apply_hint(error: psycopg.Error) -> str:
    """The hint for an error that stops the pipeline."""
    match error:
        case pg.ProgramLimitExceeded():
            return (
                "A value is too long for the key or an index on the target. Shorten it in the"
                " source, drop the index there; `tailrace check CONFIG` lists such"
                " keys and indexes."
            )
        case pg.UniqueViolation() | pg.CardinalityViolation():
            return (
                "Two rows of the source have the same key or unique value in PostgreSQL, or another"
                " client changed the target. `tailrace verify CONFIG --table TABLE` compares it."
            )
        case pg.UndefinedTable() | pg.UndefinedColumn():
            return "Another client changed the target's table."
        case pg.RaiseException() | pg.TriggeredActionException():
            return (
                "A trigger or an event trigger of the target refuses the statement. Disable it, or"
                " exempt the role in its function."
            )
    return "`tailrace verify CONFIG --table TABLE` compares the table."
