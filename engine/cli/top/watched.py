"""
One pipeline, whose API is asked again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from engine.cli.api_address import ApiAddress
from engine.cli.inbox import outcome_of, user
from engine.commands import PipelineCommand, in_words
from engine.errors import ApiError
from engine.ops.history import History
from engine.ops.status import Status

__all__ = ["Watched"]

#: How often the status is asked for; less often if the response takes more than a tenth of it.
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 15.0
#: How often the history is asked for: its finest slots have this length.
HISTORY_SECONDS = 5.0
#: How long the outcome of a command is awaited.
OUTCOME_SECONDS = 60.0


class Watched:
    """The last that is known of a pipeline. ``name`` is shown until its status tells its own."""

    def __init__(self, name: str, address: ApiAddress, *, config: str = "") -> None:
        self.name = name
        self.address = address
        self.config = config
        self.status: Status | None = None
        self.history: History | None = None
        #: Why the API does not answer, and since when (Unix seconds); None while it does.
        self.problem: ApiError | None = None
        self.since: float | None = None
        #: What became of the last command.
        self.outcome = ""
        #: Whether its history is needed.
        self.opened = False
        self._history_at = 0.0

    async def watch(self, changed: Callable[[], None]) -> None:
        """Ask until cancelled, and call ``changed`` after each response, or each failure."""
        # It takes a fifth of a second to import, and the command line has other commands.
        from engine.cli.api_client import connect

        async with connect(self.address, user()) as client:
            while True:
                started = time.monotonic()
                try:
                    self.status = await client.status()
                    if self.opened and started - self._history_at >= HISTORY_SECONDS:
                        self.history = await client.history()
                        self._history_at = started
                except ApiError as error:
                    if self.problem is None:
                        self.since = time.time()
                    self.problem = error
                else:
                    self.problem = self.since = None
                    self.name = self.status.pipeline or self.name
                changed()
                took = time.monotonic() - started
                await asyncio.sleep(min(LONGEST_POLL_SECONDS, max(POLL_SECONDS, 10 * took)))

    async def give(self, command: PipelineCommand, changed: Callable[[], None]) -> None:
        """Give a command, and wait for its outcome, which ``outcome`` has then."""
        from engine.cli.api_client import connect

        text = msgspec.json.encode(command).decode()
        words = in_words(text)

        def tell(outcome: str) -> None:
            self.outcome = f"{words}: {outcome}"
            changed()

        tell("it is given …")
        try:
            async with connect(self.address, user()) as client:
                id = await client.submit(text)
                tell(f"command {id} waits for the engine …")
                done = await outcome_of(client, id, OUTCOME_SECONDS)
        except ApiError as error:
            tell(f"{error.message}. {error.hint}")
            return
        if done is None:
            tell(f"command {id} has no outcome yet; the engine executes it when it can")
        else:
            tell(f"refused: {done.outcome}" if done.refused else f"{done.outcome}")
