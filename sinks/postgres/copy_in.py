"""
COPY FROM STDIN on a connection, with the statements before it in the same round trip.

psycopg's ``AsyncCursor.copy`` sends COPY alone, and libpq's pipeline mode has no COPY. The protocol
allows several statements in one message, of which COPY is the last. So the message is sent and its
results are read with psycopg's generators, as ``AsyncCursor.copy`` does it.

Protocol: PostgreSQL manual, "Message Flow", "Simple Query" and "COPY Operations".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.generators import copy_end, copy_to, execute
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

__all__ = ["CopyIn", "copy_in"]


class CopyIn:
    """A COPY that has begun; ``rows`` is the number of copied rows when it has ended."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self.rows = 0

    async def write(self, data: bytes) -> None:
        """Send data, and wait until the network has taken it."""
        await self._connection.wait(copy_to(self._connection.pgconn, data))

    async def end(self, reason: bytes | None = None) -> None:
        """End the data. With a ``reason`` the server raises it as an error."""
        result = await self._connection.wait(copy_end(self._connection.pgconn, reason))
        self.rows = result.command_tuples or 0


@asynccontextmanager
async def copy_in(
    connection: psycopg.AsyncConnection[Any], before: Sequence[str], query: str
) -> AsyncIterator[CopyIn]:
    """Execute the statements of ``before``, then COPY … FROM STDIN, whose data the block writes.

    Raises psycopg's errors, at the latest at the end of the block.
    """
    async with connection.lock:
        connection.pgconn.send_query("; ".join([*before, query]).encode())
        for result in await connection.wait(execute(connection.pgconn)):
            _raise_if_failed(result)
        copy, complete = CopyIn(connection), False
        try:
            yield copy
            complete = True
        finally:
            if not complete:
                with suppress(psycopg.Error):
                    await copy.end(b"the client has given the COPY up")
        await copy.end()


def _raise_if_failed(result: PGresult) -> None:
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.COPY_IN):
        raise error_from_result(result)
