"""
COPY FROM STDIN on a connection, with the statements before it in the same round trip.

psycopg's ``AsyncCursor.copy`` sends COPY alone, and libpq's pipeline mode has no COPY. The protocol
allows several statements in one message, of which COPY is the last. So the message is sent and its
results are read with psycopg's generators, as ``AsyncCursor.copy`` does it.

Protocol: PostgreSQL manual, "Message Flow", "Simple Query" and "COPY Operations".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.generators import copy_end, copy_to, execute
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

__all__ = ["CopyIn"]


class CopyIn:
    """A COPY on a connection whose lock the caller holds; ``rows`` is the number of copied rows
    when it has ended. The methods raise psycopg's errors.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self.rows = 0

    async def begin(self, before: Sequence[str], query: str) -> None:
        """Execute the statements of ``before``, then begin COPY … FROM STDIN."""
        connection = self._connection
        connection.pgconn.send_query("; ".join([*before, query]).encode())
        for result in await connection.wait(execute(connection.pgconn)):
            _raise_if_failed(result)

    async def write(self, data: bytes) -> None:
        """Send data, and wait until the network has taken it."""
        await self._connection.wait(copy_to(self._connection.pgconn, data))

    async def end(self, reason: bytes | None = None) -> None:
        """End the data. With a ``reason`` the server raises it as an error."""
        result = await self._connection.wait(copy_end(self._connection.pgconn, reason))
        self.rows = result.command_tuples or 0


def _raise_if_failed(result: PGresult) -> None:
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.COPY_IN):
        raise error_from_result(result)
