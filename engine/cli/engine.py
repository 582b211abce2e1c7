"""
The engine of this process: the pipeline of a configuration, which a reload replaces.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from engine.cli.verify import require_comparable
from engine.cli.wiring import load_settings, make_mapping, make_sink, make_source
from engine.commands import CommandStore
from engine.contract import Source
from engine.errors import ConfigError, TailraceError
from engine.ops.log_fields import error_fields
from engine.ops.metrics import Metrics
from engine.ops.status import Status
from engine.ops.tracing import NO_TRACING, Tracing
from engine.pipeline.counters import Counters
from engine.pipeline.loop import Pipeline
from engine.proof import TableProof, read_proofs
from engine.schema import TableId
from engine.settings.loader import Settings

__all__ = ["Engine"]

log = logging.getLogger("tailrace.run")

#: The parts of a configuration that a reload does not change.
_AT_START = ("api", "log", "notify", "telemetry")


class Engine:
    """Runs the pipeline of ``settings``, which were read from ``config``.

    After the command `tailrace reload` a new pipeline takes over, with what the file says then. If
    it cannot work, because the tables do not fit a mapping or a password is wrong, the
    configuration before is used again.
    """

    def __init__(
        self, settings: Settings, config: Path, metrics: Metrics, tracing: Tracing = NO_TRACING
    ) -> None:
        self._tracing = tracing
        self.settings = settings
        self.config = config
        self._metrics = metrics
        self._next = settings
        self._counters = Counters()
        #: Whether a stop was asked for in this process.
        self.ending = False
        self.pipeline = self._make_pipeline()

    @property
    def source(self) -> Source:
        """The source that is followed now."""
        return self.pipeline.source

    def status(self) -> Status:
        """The status now, as ``Pipeline.status``."""
        return self.pipeline.status()

    def commands(self) -> CommandStore | None:
        """The store of commands in the target, if it keeps any."""
        sink = make_sink(self.settings)
        return sink if isinstance(sink, CommandStore) else None

    async def proofs(self) -> Mapping[TableId, TableProof]:
        """The last comparisons of tables that the target holds."""
        return await read_proofs(make_sink(self.settings))

    def stop(self) -> None:
        """Stop the pipeline as ``Pipeline.stop`` does, and start no other one."""
        self.ending = True
        self.pipeline.stop()

    async def run(
        self, *, until_caught_up: bool = False, deadline_seconds: float | None = None
    ) -> None:
        """Run as ``Pipeline.run`` does, with another pipeline after each reload."""
        started = time.monotonic()
        before: Settings | None = None
        failed: TailraceError | None
        while True:
            left = deadline_seconds
            if left is not None:
                left = max(0.001, started + left - time.monotonic())
            try:
                await self.pipeline.run(until_caught_up=until_caught_up, deadline_seconds=left)
            except TailraceError as error:
                if self.ending:
                    return
                if before is None or self.pipeline.has_worked:
                    raise
                log.error(
                    "the pipeline cannot work with the new configuration, the one before is used",
                    extra={"pipeline": before.pipeline.name, **error_fields(error)},
                )
                failed, self.settings, before = error, before, None
            else:
                if self.ending or not self.pipeline.reloading:
                    return
                failed, before, self.settings = None, self.settings, self._next
                log.info(
                    "the pipeline goes on by the new configuration",
                    extra={"pipeline": before.pipeline.name},
                )
            self.pipeline = self._make_pipeline(continues=True)
            if failed is not None:
                self.pipeline.note(failed)

    def _reload(self) -> str:
        """Read the configuration again. Raises ConfigError if the engine cannot go on by it."""
        settings = load_settings(self.config)
        if settings.pipeline != self.settings.pipeline:
            raise ConfigError(
                "the name of the pipeline has changed", hint="start another engine for it"
            )
        for make in (make_source, make_sink, make_mapping):
            make(settings)
        require_comparable(settings)
        self._next = settings
        outcome = "the configuration is read again"
        if any(getattr(settings, it) != getattr(self.settings, it) for it in _AT_START):
            outcome += "; [api], [log], [notify] and [telemetry] take effect at the next start"
        return outcome

    def _make_pipeline(self, *, continues: bool = False) -> Pipeline:
        settings = self.settings
        return Pipeline(
            settings.pipeline.name,
            make_source(settings),
            make_sink(settings),
            batch=settings.batch,
            backfill=settings.backfill,
            retry=settings.retry,
            metrics=self._metrics,
            mapping=make_mapping(settings),
            errors=settings.errors,
            config=str(self.config),
            counters=self._counters,
            reload=self._reload,
            continues=continues,
            tracing=self._tracing,
        )
