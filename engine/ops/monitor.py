"""
What watches a running pipeline: its status with what the source has to be asked for, and its
metrics.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

import msgspec

from engine.errors import TailraceError
from engine.ops.metrics import Metrics
from engine.ops.status import Status

__all__ = ["Monitor"]

#: How often the source is asked for its backlog, and how often before the first checkpoint.
BACKLOG_SECONDS = 5.0
FIRST_SECONDS = 0.25
#: How long a reader of the status waits for the source's answer, how long an answer counts as the
#: present one, and how long it counts at all.
ANSWER_SECONDS = 1.0
FRESH_SECONDS = 0.5
STALE_SECONDS = 15.0


class Log(Protocol):
    """The part of a source that tells the backlog."""

    def backlog(self, position: str) -> int | None: ...


class Running(Protocol):
    """A running pipeline: ``engine.pipeline.loop.Pipeline``."""

    @property
    def source(self) -> Log: ...
    def status(self) -> Status: ...


class Monitor:
    """The status of a running pipeline, with the backlog, which the source has to be asked for."""

    def __init__(self, pipeline: Running, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._lag_bytes: int | None = None
        self._known_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    def status(self) -> Status:
        """The status now. ``lag_bytes`` may be some seconds old; an older one is unknown."""
        known = time.monotonic() - self._known_at < STALE_SECONDS
        lag_bytes = self._lag_bytes if known else None
        return msgspec.structs.replace(self._pipeline.status(), lag_bytes=lag_bytes)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics, with the gauges of the status now; see ``Metrics.render``."""
        return self._metrics.render(accept, self.status())

    async def refresh(self) -> None:
        """Ask the source for its backlog unless it has just answered. Waits for the answer, but not
        long: it counts when it comes.
        """
        if time.monotonic() - self._known_at >= FRESH_SECONDS:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
            await asyncio.wait((self._asking,), timeout=ANSWER_SECONDS)

    async def _ask(self) -> None:
        status = self._pipeline.status()
        if not status.position or status.state == "stopped":
            return
        # Between two attempts, too: a target that is away does not stop the source's log.
        with suppress(TailraceError):
            self._lag_bytes = await asyncio.to_thread(
                self._pipeline.source.backlog, status.position
            )
            self._known_at = time.monotonic()

    async def watch(self) -> None:
        """Refresh every few seconds. Never returns."""
        while True:
            await self.refresh()
            position = self._pipeline.status().position
            await asyncio.sleep(BACKLOG_SECONDS if position else FIRST_SECONDS)
