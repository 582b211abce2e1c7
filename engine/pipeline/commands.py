"""
Commands for a running pipeline.

Commands wait in one inbox; ``Pipeline.stop`` puts a ``Stop`` there. The loop takes them between two
batches, never between the pieces of one source transaction.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

import msgspec

__all__ = ["Command", "CommandInbox", "Stop"]


class Stop(msgspec.Struct, frozen=True):
    """Read no more of the log, apply and commit the transactions that were read whole, and end."""


Command = Stop


class CommandInbox:
    """The commands that wait for the loop, in order. Not thread-safe: use it on the event loop."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._arrived = asyncio.Event()
        #: Whether a ``Stop`` was ever put in. Work in slices ends early when it is set.
        self.stopping = False

    def __bool__(self) -> bool:
        return bool(self._commands)

    def put(self, command: Command) -> None:
        """Add a command."""
        self.stopping = self.stopping or isinstance(command, Stop)
        self._commands.append(command)
        self._arrived.set()

    def take(self) -> list[Command]:
        """Remove and return the commands that wait."""
        taken = list(self._commands)
        self._commands.clear()
        self._arrived.clear()
        return taken

    async def wait(self, seconds: float) -> None:
        """Return when a command waits, or after ``seconds``; at once if a ``Stop`` was put in."""
        if self.stopping:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
