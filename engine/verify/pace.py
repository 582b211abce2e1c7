"""
The budget of a comparison that goes on beside other work.

All reads of both databases share one ``Pace``. After each read it rests for so long that reads take
no more than a share of the time, and before a read of further rows it waits until there is no other
work. A database that answers slowly, because it is busy itself, is asked less often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

__all__ = ["Pace"]


async def _at_once() -> None:
    """There is never other work."""


class Pace:
    """Lets reads take ``share`` of the time, 0 to 1, and at most ``rows_per_second`` (0: any).

    ``until_idle`` returns when there is no other work.
    """

    def __init__(
        self,
        share: float = 1.0,
        rows_per_second: float = 0.0,
        until_idle: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        self._resting = 1 / share - 1
        self._rows_per_second = rows_per_second
        self._until_idle = until_idle
        #: When the next read may begin (monotonic clock).
        self._free_at = 0.0
        self._lock = asyncio.Lock()
        #: When the wait for other work began that goes on, and how long the earlier ones lasted.
        self._waits_since: float | None = None
        self._waited = 0.0
        #: The reads that go on.
        self._reads: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        """Cancel the reads for which nobody waits any more, because another one has failed."""
        for task in self._reads:
            task.cancel()

    def clock(self) -> float:
        """``time.monotonic`` without the waits for other work, for deadlines."""
        now = time.monotonic() if self._waits_since is None else self._waits_since
        return now - self._waited

    @contextmanager
    def read(self) -> Iterator[None]:
        """The body is a read with all that it waits for."""
        task = asyncio.current_task()
        assert task is not None
        self._reads.add(task)
        try:
            yield
        finally:
            self._reads.discard(task)

    async def until_idle(self) -> None:
        """Return when there is no other work, before a read of further rows."""
        await self._rest()
        async with self._lock:
            self._waits_since = since = time.monotonic()
            try:
                await self._until_idle()
            finally:
                self._waits_since = None
                self._waited += time.monotonic() - since

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The body is a statement. Rests before it, as the statements before demand."""
        await self._rest()
        started = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + (now - started) * self._resting

    async def _rest(self) -> None:
        while (left := self._free_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def count(self, rows: int) -> None:
        """Note that so many rows have been compared."""
        if self._rows_per_second and rows > 0:
            self._free_at = max(time.monotonic(), self._free_at) + rows / self._rows_per_second
