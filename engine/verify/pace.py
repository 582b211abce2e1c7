"""
The budget of a comparison that goes on beside other work.

All reads of both databases share one ``Pace``. After each read it rests for so long that reads take
no more than a share of the time, and before each one it waits while the pipeline has work to do.
A database that answers slowly, because it is busy itself, is asked less often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["Pace"]

#: How often it is asked whether the pipeline still has work to do.
BUSY_SECONDS: Final = 0.5


class Pace:
    """Lets reads take ``share`` of the time, 0 to 1, and at most ``rows_per_second`` (0: any),
    while ``busy`` is false.
    """

    def __init__(
        self,
        share: float = 1.0,
        rows_per_second: float = 0.0,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rest = 1 / share - 1
        self._rows_per_second = rows_per_second
        self._busy = busy
        #: When the next read may begin (monotonic clock).
        self._free_at = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The body is one read. Waits before it."""
        while (left := self._free_at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        while self._busy():
            await asyncio.sleep(BUSY_SECONDS)
        started = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + (now - started) * self._rest

    def count(self, rows: int) -> None:
        """Note that so many rows have been compared."""
        if self._rows_per_second:
            self._free_at = max(time.monotonic(), self._free_at) + rows / self._rows_per_second
