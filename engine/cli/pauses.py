"""
The pauses of the comparison that an engine makes by itself.

It waits while the pipeline has work to do, and while the source has: no more than ``busy_threads``
threads of the source's server may be at work. Both are asked for before each read of further rows,
but not more often than the constants here say, so a read costs no question.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Final

from engine.cli.engine import Engine
from engine.errors import SourceError
from engine.log_status import TellsLoad
from engine.settings.loader import Settings

__all__ = ["Pauses"]

log = logging.getLogger("tailrace.verify")

#: A pipeline that is farther behind has work to do.
BUSY_LAG_SECONDS: Final = 5.0
#: How often the status of the pipeline is asked for.
STATUS_SECONDS: Final = 0.25
#: How often the source is asked for its load.
LOAD_SECONDS: Final = 1.0
#: How often it is seen whether a pause is over.
LOOK_SECONDS: Final = 0.5
#: An error that may pass is raised when the source has answered nothing else for so long.
FAILING_SECONDS: Final = 60.0
#: A line of the log says why, when the source was busy for so long within twice this time …
LONG_SECONDS: Final = 600.0
#: … and not more often than this.
TOLD_SECONDS: Final = 3600.0


class Pauses:
    """Tells when the comparison of ``engine`` may go on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._status_at = self._load_at = -math.inf
        self._pipeline_busy = self._source_busy = True
        #: Since when the pauses for the source are summed up, and their sum.
        self._since = -math.inf
        self._waited = 0.0
        self._told_at: float | None = None

    def pipeline_is_busy(self) -> bool:
        """Whether the pipeline has work to do."""
        if time.monotonic() - self._status_at > STATUS_SECONDS:
            status = self._engine.status()
            lag = status.lag_seconds or 0.0
            self._pipeline_busy = status.state != "streaming" or lag > BUSY_LAG_SECONDS
            self._status_at = time.monotonic()
        return self._pipeline_busy

    async def until_idle(self, settings: Settings, source: object) -> None:
        """Return when neither the pipeline nor ``source`` is busy. A source that cannot be asked is
        asked again for ``FAILING_SECONDS``.
        """
        failing_since: float | None = None
        while True:
            if self.pipeline_is_busy():
                failing_since = None
            else:
                try:
                    busy = await self._is_busy(source, settings.verify.busy_threads)
                except SourceError as error:
                    now = time.monotonic()
                    failing_since = now if failing_since is None else failing_since
                    if not error.retryable or now - failing_since >= FAILING_SECONDS:
                        raise
                else:
                    if not busy:
                        return
                    failing_since = None
                    self._note(LOOK_SECONDS, settings)
            await asyncio.sleep(LOOK_SECONDS)

    async def _is_busy(self, source: object, most: int) -> bool:
        """Whether more threads than ``most`` are at work on the source."""
        if not most or not isinstance(source, TellsLoad):
            return False
        if time.monotonic() - self._load_at > LOAD_SECONDS:
            self._source_busy = await asyncio.to_thread(source.threads_running) > most
            self._load_at = time.monotonic()
        return self._source_busy

    def _note(self, seconds: float, settings: Settings) -> None:
        """Sum up the pauses for the source, and say so when they are long."""
        now = time.monotonic()
        if now - self._since > 2 * LONG_SECONDS:
            self._since, self._waited = now - seconds, 0.0
        self._waited += seconds
        told = self._told_at is not None and now - self._told_at < TOLD_SECONDS
        if self._waited < LONG_SECONDS or told:
            return
        self._told_at = now
        extra = {
            "pipeline": settings.pipeline.name,
            "reason": f"more than {settings.verify.busy_threads} threads of the source were at work"
            f" for {self._waited / 60:.0f} of the last {(now - self._since) / 60:.0f} minutes",
            "hint": "raise busy_threads in [verify] if this is the usual load of the source",
        }
        log.warning("the comparison of tables waits for a busy source", extra=extra)
