"""The inbox of commands: order, waiting, and the mark that a stop leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from engine.pipeline.commands import CommandInbox, Stop

LONG_SECONDS = 600.0


class Other(msgspec.Struct, frozen=True):
    """A command that is not a stop."""

    number: int


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


def test_take_returns_the_commands_in_order_and_removes_them() -> None:
    async def work() -> None:
        inbox = CommandInbox()
        assert not inbox
        assert inbox.take() == []
        for command in (Other(1), Stop(), Other(2)):
            inbox.put(command)  # type: ignore[arg-type]
        assert inbox
        assert inbox.take() == [Other(1), Stop(), Other(2)]
        assert not inbox
        assert inbox.take() == []

    run(work)


def test_wait_returns_at_once_if_a_command_waits() -> None:
    async def work() -> None:
        inbox = CommandInbox()
        inbox.put(Stop())
        await inbox.wait(LONG_SECONDS)
        await inbox.wait(LONG_SECONDS)
        assert inbox.take() == [Stop()]

    run(work)


def test_wait_returns_when_a_command_is_put() -> None:
    async def work() -> None:
        inbox = CommandInbox()
        waiting = asyncio.create_task(inbox.wait(LONG_SECONDS))
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.put(Stop())
        await waiting

    run(work)


def test_wait_returns_after_its_time() -> None:
    async def work() -> None:
        inbox = CommandInbox()
        started = time.monotonic()
        await inbox.wait(0.05)
        assert time.monotonic() - started >= 0.04
        await inbox.wait(0.0)

    run(work)


def test_wait_waits_again_after_take() -> None:
    async def work() -> None:
        inbox = CommandInbox()
        inbox.put(Other(1))  # type: ignore[arg-type]
        inbox.take()
        waiting = asyncio.create_task(inbox.wait(LONG_SECONDS))
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.put(Stop())
        await waiting
        inbox.take()
        await inbox.wait(LONG_SECONDS)  # a stop is never forgotten

    run(work)


def test_only_a_stop_sets_stopping_and_take_does_not_reset_it() -> None:
    async def work() -> None:
        inbox = CommandInbox()
        inbox.put(Other(1))  # type: ignore[arg-type]
        assert not inbox.stopping
        inbox.put(Stop())
        assert inbox.stopping
        inbox.take()
        assert inbox.stopping
        inbox.put(Other(2))  # type: ignore[arg-type]
        assert inbox.stopping

    run(work)
