"""
The request to stop a pipeline.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["StopRequest"]


class StopRequest:
    """Whether the pipeline was asked to stop. Not thread-safe: use it on the event loop."""

    def __init__(self) -> None:
        self._made = asyncio.Event()

    def __bool__(self) -> bool:
        return self._made.is_set()

    def make(self) -> None:
        """Ask for the stop: read no more of the log, commit what was read whole, and end."""
        self._made.set()

    async def wait(self, seconds: float) -> None:
        """Return when the stop is asked for, or after ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._made.wait()
