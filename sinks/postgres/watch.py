"""
A second connection to the target, which tells whether the first one still works.

A proxy, a tunnel or a balancer may lose a connection to the server and keep the one to this client
open. TCP shows nothing of that, and the answer never comes. So while the sink waits for one, the
server is asked over another connection what the sink's own process does. The wait ends if the
process is gone, if it waits itself, or if the server cannot be reached any more.

"The Cumulative Statistics System", pg_stat_activity, in PostgreSQL's manual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from engine.errors import SinkError, SinkLost
from sinks.postgres.session import Session
from sinks.postgres.settings import PostgresSettings

__all__ = ["Watch"]

#: How often the server is asked, and how long the sink must have waited before.
PROBE_SECONDS = 1.0
#: How long a question may take.
ANSWER_SECONDS = 5.0
#: How long the server's process may wait for a statement that was sent already.
QUIET_SECONDS = 10.0

_PROCESS = """
SELECT state, wait_event, state_change::text FROM pg_stat_activity
WHERE pid = $1 AND backend_start = $2::timestamptz"""
_OWN = """
SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"""


class Watch:
    """Watches the waits of a ``session``, between ``start`` and ``close``."""

    def __init__(self, session: Session, settings: PostgresSettings) -> None:
        self._watched = session
        self._timeout_seconds = settings.timeout_seconds
        seconds = min(ANSWER_SECONDS, settings.timeout_seconds)
        name = f"{settings.application_name} watch"
        more = msgspec.structs.replace(settings, timeout_seconds=seconds, application_name=name)
        self._session = Session(more)
        self._lock = asyncio.Lock()
        self._connected = False
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: tuple[Any, ...] = ()

    async def start(self) -> None:
        """Watch the connection that the session has now."""
        await self.close()
        connection = self._watched.connection
        self._process = await (await self._watched.execute(_OWN)).fetchone() or ()
        # A pooler names a process of its own at the connection. It may serve a transaction with any
        # of its connections, so nothing follows from what one of them does.
        if self._process and self._process[0] == connection.info.backend_pid:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop watching, and close the second connection."""
        task, self._task = self._task, None
        if task is not None:
            self._closing.set()
            if self._session.connected:
                # A cancelled query would wait for the server.
                self._session.give_up("the pipeline's connection is closed")
            else:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._closing.clear()
        self._connected = False
        await self._session.close()

    async def ask(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a small query, over the second connection; it is opened when it is needed.

        Raises ``SinkLost`` after a few seconds without an answer.
        """
        async with self._lock:
            try:
                if not self._connected:
                    await self._session.connect()
                    self._connected = True
                cursor = await self._session.execute(query, parameters)
                return await cursor.fetchall()
            except SinkError:
                self._connected = False
                await self._session.close()
                raise

    async def _watch(self) -> None:
        """End each wait that lasts for no good reason, until ``close``."""
        loop, session = asyncio.get_running_loop(), self._watched
        #: The wait, what the process did in it, and since when.
        seen: tuple[object, ...] = ()
        since = loop.time()
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._closing.wait()
            wait = session.waits_since
            if wait is None or loop.time() - wait < PROBE_SECONDS:
                continue
            does, limit, reason = await self._look()
            if (wait, does) != seen:
                seen, since = (wait, does), loop.time()
            if loop.time() - since >= limit and session.waits_since == wait:
                session.give_up(reason)

    async def _look(self) -> tuple[object, float, str]:
        """What the process does, how long it may do that, and the reason if it takes longer."""
        try:
            rows = await self.ask(_PROCESS, self._process)
        except SinkError as error:
            # The server has answered, perhaps that it has too many clients.
            if not isinstance(error, SinkLost) or "FATAL:" in error.message:
                return "refused", float("inf"), ""
            return "unreachable", self._timeout_seconds, f"the server cannot be reached: {error}"
        if not rows:
            return "gone", 0.0, "the server has ended its process, and this side was not told"
        ((state, waits_for, since),) = rows
        reason = "the server's process waits for a statement that was sent already"
        if str(state).startswith("idle"):
            return ("idle", since), QUIET_SECONDS, reason
        if waits_for == "ClientRead":
            return "reads", max(QUIET_SECONDS, self._timeout_seconds), reason
        return "works", float("inf"), ""
