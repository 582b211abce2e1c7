"""
The engine of a pipeline during a cutover: known and ended through the commands in the target.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from engine.cli.inbox import user
from engine.commands import CommandClient, CommandStore, Stop, StoredCommand
from engine.cutover.parts import GONE_SECONDS, Engine
from engine.errors import TailraceError

__all__ = ["end_engine", "engine_of"]

#: How long the engine may take to end.
STOP_SECONDS: Final = 60.0
#: An engine that has executed the command, and is not connected for so long, has ended.
ENDED_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.1
_STOP: Final = msgspec.json.encode(Stop()).decode()


def engine_of(store: CommandStore) -> Engine:
    """The engine of the pipeline."""

    async def runs() -> bool:
        async with store.command_client() as client:
            return await client.engine_runs()

    async def stop() -> str:
        async with store.command_client() as client:
            return await end_engine(client)

    return Engine(runs, stop)


async def end_engine(
    client: CommandClient, *, seconds: float = STOP_SECONDS, gone_seconds: float = GONE_SECONDS
) -> str:
    """Have the engine end, and wait until none is connected any more. Returns what became of it.

    An engine that was started after the command refuses it, and one may be started at any time, so
    the command is given anew as long as one is connected. One that is only reconnecting is away
    for less than ``gone_seconds``. Raises TailraceError if one is still there after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    given: int | None = None
    done: StoredCommand | None = None
    text = "no engine is connected to the target any more"
    seen = time.monotonic()
    while time.monotonic() - seen < (gone_seconds if done is None else ENDED_SECONDS):
        if given is not None and (found := await client.find(given)) is not None:
            done = found if found.outcome is not None and not found.refused else None
            if found.refused:
                given = None
        if await client.engine_runs():
            seen = time.monotonic()
            text = "the engine has ended"
            if given is None:
                given = await client.submit(_STOP, user())
        elif done is not None:
            given = None  # an engine that comes after this one has a command of its own
        if time.monotonic() > deadline:
            raise TailraceError(
                f"the engine has not ended within {seconds:g} s",
                hint="end it, and see that nothing starts it again; then type"
                " `tailrace cutover CONFIG` again",
            )
        await asyncio.sleep(POLL_SECONDS)
    return text
