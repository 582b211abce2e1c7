"""The request to stop: waiting for it ends when it is made."""

from __future__ import annotations

import asyncio
import time

from engine.pipeline.stop_request import StopRequest

LONG_SECONDS = 600.0


def test_a_wait_ends_when_the_stop_is_asked_for() -> None:
    async def work() -> None:
        stop = StopRequest()
        assert not stop
        waiting = asyncio.create_task(stop.wait(LONG_SECONDS))
        await asyncio.sleep(0)
        assert not waiting.done()
        stop.make()
        await waiting
        assert stop
        await stop.wait(LONG_SECONDS)  # a stop is never forgotten

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_wait_ends_after_its_time() -> None:
    async def work() -> None:
        started = time.monotonic()
        await StopRequest().wait(0.05)
        assert time.monotonic() - started >= 0.04
        await StopRequest().wait(0.0)

    asyncio.run(asyncio.wait_for(work(), 20))
