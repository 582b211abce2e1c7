"""
What follows an error that ends an attempt: the end of the pipeline, or a wait and the next attempt.

A lost connection is retried for as long as the settings say. A rejected one (a wrong password, an
unknown host) ends the pipeline at its start, because the configuration is wrong. A pipeline that
has worked retries it for a while, because a server may be in maintenance. The same holds for a
missing right; but the first backfill is part of the start, because only that uses all rights. A log
that cannot be read is read again a few times, because a connection may have damaged it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from engine.contract import Reachable, Sink, Source
from engine.errors import (
    DeadlineExceeded,
    DecodeError,
    SinkDenied,
    SinkError,
    SinkRejected,
    SourceDenied,
    SourceRejected,
    TailraceError,
)
from engine.ops.log_fields import error_fields
from engine.pipeline.stop_request import StopRequest
from engine.settings.loader import RetrySettings

__all__ = ["Deadline", "Retries"]

log = logging.getLogger("tailrace.pipeline")

#: How long a pipeline that has worked retries a rejected connection or a missing right.
REJECTED_SECONDS = 600.0
#: How often in a row a log that cannot be read is read again.
READINGS = 3
#: How often the lost side is probed during a wait.
PROBE_SECONDS = 1.0


class Deadline:
    """Calls ``stop`` after some seconds; never if they are None."""

    def __init__(self, seconds: float | None, stop: Callable[[], None]) -> None:
        self._seconds = seconds
        self._stop = stop
        self._expired = False
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self._expire)

    def cancel(self) -> None:
        """The work has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self, last_error: str) -> None:
        """Raise ``DeadlineExceeded`` if ``stop`` was called."""
        if self._expired:
            hint = f"The last lost connection: {last_error}." if last_error else ""
            raise DeadlineExceeded(
                f"the pipeline has not caught up within {self._seconds:g} seconds",
                hint=f"{hint} Everything that is committed stays; the next run goes on.".lstrip(),
            )

    def _expire(self) -> None:
        self._expired = True
        self._stop()


class Retries:
    """Decides about the errors of one pipeline, and waits before the next attempt."""

    def __init__(
        self,
        pipeline: str,
        source: Source,
        sink: Sink,
        settings: RetrySettings,
        stop: StopRequest,
        config: str = "",
    ) -> None:
        self._pipeline = pipeline
        self._config = config
        self._source = source
        self._sink = sink
        self._settings = settings
        self._stop = stop
        self._delay = settings.first_seconds
        self._failing_since: float | None = None
        self._readings = 0
        #: Whether source and target were connected, and the log was read from the checkpoint.
        self.has_worked = False
        #: Whether the first backfill does not count any more.
        self._has_worked_fully = False
        #: Whether the lost side may not have been reachable when it was probed at last.
        self._was_away = True
        #: The text of the last error, without its hint.
        self.last_error = ""

    def worked(self, *, fully: bool) -> None:
        """Source and target were connected, and the log was read from the checkpoint; ``fully``:
        the pipeline has resumed at a stored checkpoint, or has finished the first backfill.
        """
        self.has_worked = True
        self._has_worked_fully |= fully

    def progressed(self) -> None:
        """Something was committed."""
        self._delay, self._failing_since = self._settings.first_seconds, None
        self._was_away = True

    def advanced(self) -> None:
        """The stored position has moved."""
        self._readings = 0

    def take(self, error: TailraceError) -> None:
        """Note an error that is retried, and log it. Raises any other."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        self._readings += isinstance(error, DecodeError)
        if not self._may_retry(error, now - self._failing_since):
            raise error
        self.last_error = str(error)
        if self._stop:
            return
        log.log(
            logging.WARNING if error.retryable else logging.ERROR,
            _meaning(error),
            extra={
                "pipeline": self._pipeline,
                **error_fields(error, self._config),
                "delay_seconds": round(self._delay, 3),
            },
        )

    def _may_retry(self, error: TailraceError, failing_seconds: float) -> bool:
        limit = self._settings.give_up_seconds
        if isinstance(error, SourceRejected | SinkRejected | SourceDenied | SinkDenied):
            limit = min(limit, REJECTED_SECONDS) if limit else REJECTED_SECONDS
            denied = isinstance(error, SourceDenied | SinkDenied)
            has_worked = self._has_worked_fully if denied else self.has_worked
            return has_worked and failing_seconds <= limit
        if isinstance(error, DecodeError):
            return error.table is None and self._readings < READINGS
        return error.retryable and not (limit and failing_seconds > limit)

    async def wait(self, error: TailraceError, *, connected: bool) -> None:
        """Wait before the next attempt. ``connected``: the attempt that failed had connected both
        sides. Otherwise the wait ends when the lost side can be reached again.
        """
        until = time.monotonic() + self._delay * random.uniform(0.7, 1.0)
        self._delay = min(self._delay * 2, self._settings.max_seconds)
        while (left := until - time.monotonic()) > 0 and not self._stop:
            await self._stop.wait(min(left, PROBE_SECONDS))
            if left > PROBE_SECONDS and not connected and await self._is_back(error):
                return

    async def _is_back(self, error: TailraceError) -> bool:
        """Whether the lost side can be reached again. If it can, and the next attempt fails all the
        same, that was not the reason, and the next waits have their full length.
        """
        reachable = await self._reachable(error)
        was_away, self._was_away = self._was_away, not reachable
        return reachable and was_away

    async def _reachable(self, error: TailraceError) -> bool:
        """Whether the lost side can be reached again; False if it cannot tell."""
        side = self._sink if isinstance(error, SinkError) else self._source
        return isinstance(side, Reachable) and await asyncio.to_thread(side.reachable)


def _meaning(error: TailraceError) -> str:
    if error.retryable:
        return "the connection was lost, the pipeline resumes from the checkpoint"
    if isinstance(error, DecodeError):
        return "the log cannot be read, it is read again from the checkpoint"
    if isinstance(error, SourceDenied | SinkDenied):
        return "a right is missing, the pipeline tries it again for some minutes"
    return "the connection is rejected, the pipeline tries it again for some minutes"
