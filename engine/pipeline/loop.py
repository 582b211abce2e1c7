"""
The loop: open source and sink, let an attempt run, close both, retry.

One attempt (``engine.pipeline.attempt``) runs from the target's checkpoint until the end, a stop,
or an error. After a retryable error both sides are closed, and the next attempt reads the
checkpoint back from the target. So a lost source, a lost target and a COMMIT whose outcome is
unknown are handled alike.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from engine.contract import Interruptible, Sink, Source
from engine.errors import SinkError, TailraceError, UnloggedChange
from engine.log_status import TellsHeartbeat, clock_ahead_of, now_at
from engine.mapping.changes import Mapping
from engine.ops.log_fields import error_fields
from engine.ops.metrics import Metrics
from engine.ops.recent_errors import RecentErrors
from engine.ops.status import PipelineState, Status, TableStatuses
from engine.ops.tracing import NO_TRACING, Tracing
from engine.pipeline.attempt import Attempt, Shared
from engine.pipeline.counters import Counters
from engine.pipeline.events import Events
from engine.pipeline.retries import Deadline, Retries
from engine.pipeline.selection import follow_selection, refuse_wrong_configuration
from engine.pipeline.stop_request import StopRequest
from engine.pipeline.stored_commands import StoredCommands
from engine.pipeline.unlogged import UnloggedChanges
from engine.schema import TableId
from engine.settings.loader import (
    BackfillSettings,
    BatchSettings,
    ErrorSettings,
    RetrySettings,
)

__all__ = ["Pipeline"]

log = logging.getLogger("tailrace.pipeline")

#: How long a stop waits for what is in progress, and then for the end of all waits.
STOP_SECONDS = 6.0
ABORT_SECONDS = 2.0


class Pipeline:
    """Mirrors ``source`` into ``sink`` until it is stopped. ``name`` identifies the checkpoint in
    the target.

    ``errors`` is the policy for trouble with one table. ``config`` is the configuration's path as
    the user typed it, for the command lines in messages. ``mapping`` maps the tables. ``counters``
    are those of the pipeline before, if this one ``continues`` its work in this process. ``reload``
    reads the configuration again, as ``StoredCommands`` describes.

    Guarantee: every committed transaction of a followed table is applied in commit order, exactly
    once or at least once, as the sink's ``capabilities`` say.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        sink: Sink,
        *,
        batch: BatchSettings,
        backfill: BackfillSettings,
        retry: RetrySettings,
        metrics: Metrics,
        errors: ErrorSettings | None = None,
        config: str = "",
        mapping: Mapping | None = None,
        counters: Counters | None = None,
        reload: Callable[[], str] | None = None,
        continues: bool = False,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.name, self.source, self.sink = name, source, sink
        self._continues = continues
        self._stop = stop = StopRequest()
        events = Events(name, config)
        unlogged = UnloggedChanges(
            *(name, source, sink, backfill), errors or ErrorSettings(), events
        )
        self._shared = shared = Shared(
            *(name, source, sink, mapping or Mapping(), batch, backfill, metrics),
            unlogged=unlogged,
            stored=StoredCommands(name, source, sink, unlogged, stop, reload, tracing),
            stop=stop,
            counters=counters or Counters(),
            events=events,
            tracing=tracing,
        )
        self.counters, self.metrics = shared.counters, metrics
        if isinstance(source, TellsHeartbeat):
            self.counters.expect_heartbeats(source.heartbeat_seconds)
        self._retries = Retries(name, source, sink, retry, stop, config)
        self._patience: asyncio.Timeout | None = None
        self._epoch: int | None = None
        self._goal: str | None = None
        self._attempt: Attempt | None = None
        self._ended = False
        self._selection_done = False
        self._tables = TableStatuses(config)
        self._errors = RecentErrors(config)

    @property
    def state(self) -> PipelineState:
        """What the pipeline does now."""
        if self._ended:
            return "stopped"
        return "connecting" if self._attempt is None else self._attempt.state

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self._stop)

    @property
    def reloading(self) -> bool:
        """Whether ``run`` has returned so that a pipeline with another configuration can start."""
        return self._shared.stored.reloading

    @property
    def has_worked(self) -> bool:
        """Whether source and target were connected, and the log was read from the checkpoint."""
        attempt = self._attempt
        return self._retries.has_worked or (attempt is not None and attempt.reads)

    async def run(
        self, *, until_caught_up: bool = False, deadline_seconds: float | None = None
    ) -> None:
        """Run until ``stop``, the end of a finite log, or an error that retrying cannot fix.

        With ``until_caught_up``, run until everything that the source holds at the start is applied
        and every table is live. ``DeadlineExceeded`` is raised if the run has not ended by itself
        after ``deadline_seconds``. Raises ``TailraceError``.
        """
        self._ended = False
        deadline = Deadline(deadline_seconds, self.stop)
        try:
            async with asyncio.timeout(None) as self._patience:
                await self._run(until_caught_up)
        except TimeoutError:
            if self._patience is None or not self._patience.expired():
                raise  # of a source or a sink, which is a bug there
            self._note_abort({"error": "no answer from source or target"})
        finally:
            self._ended, self._patience = True, None
            self._shared.events.state("stopped", self._shared.place(self.counters.position))
            deadline.cancel()
        deadline.check(self._retries.last_error)

    async def _run(self, until_caught_up: bool) -> None:
        if self.sink.capabilities.guarantee == "at least once":
            log.warning(
                "the sink stores each change at least once, a restart may repeat changes",
                extra={"pipeline": self.name},
            )
        while not self._stop:
            self._shared.events.state("connecting")
            try:
                with self._shared.tracing.span("attempt"):
                    if await self._run_attempt(until_caught_up):
                        return
            except TailraceError as error:
                attempt, self._attempt = self._attempt, None
                # What the source commits from here on is not known.
                self.counters.silent = False
                if error.position is not None:
                    error.position = self._shared.place(error.position)
                self.note(error)
                id = self._table_of(error, attempt)
                if attempt is not None and id is not None:
                    self._shared.unlogged.take(error, id, attempt.tracker.stored_id(id))
                else:
                    await self._retry(error, attempt)

    async def _retry(self, error: TailraceError, attempt: Attempt | None) -> None:
        """Wait before the next attempt. Raises an error that retrying cannot fix."""
        retries = self._retries
        if attempt is not None:
            if attempt.reads:
                retries.worked(fully=bool(attempt.start) or attempt.tracker.live)
            if attempt.writer.commits:
                retries.progressed()
            if attempt.writer.committed != attempt.start:
                retries.advanced()
        retries.take(error)
        self._errors.retried()
        self.counters.reconnects += 1
        self.metrics.reconnected("sink" if isinstance(error, SinkError) else "source")
        if self._stop:
            self._note_abort(error_fields(error))
        else:
            await retries.wait(error, connected=attempt is not None and attempt.reads)

    def stop(self) -> None:
        """Read no more of the log, apply and commit whole transactions, then let ``run`` return.

        If that takes longer than STOP_SECONDS, the waits for source and target are ended. What was
        not committed then is read again by the next run.
        """
        if self._patience is not None and not self._stop:
            loop = asyncio.get_running_loop()
            if isinstance(self.sink, Interruptible):
                loop.call_later(STOP_SECONDS, self.sink.interrupt)
            self._patience.reschedule(loop.time() + STOP_SECONDS + ABORT_SECONDS)
        self._stop.make()
        if self._attempt is not None:
            self._attempt.drain()
        self.source.stop()

    def status(self) -> Status:
        """The status now. ``lag_bytes`` is unknown: only the source can tell it."""
        attempt, counters, letters = self._attempt, self.counters, self._shared.unlogged.letters
        position = counters.position if attempt is None else attempt.writer.position
        return Status(
            pipeline=self.name,
            state=self.state,
            epoch=self._epoch,
            position=position or None,
            place=self._shared.place(position) if position else "",
            committed_position=(counters.position if attempt is None else attempt.writer.committed)
            or None,
            rows=counters.rows,
            backfilled_rows=counters.backfilled_rows,
            reconnects=counters.reconnects,
            lag_seconds=counters.lag_seconds(
                now_at(self.source), 0.0 if attempt is None else attempt.waiting_since
            ),
            clock_ahead_seconds=clock_ahead_of(self.source),
            queued_bytes=0 if attempt is None else attempt.queued_bytes,
            checkpoint_age_seconds=counters.checkpoint_age_seconds,
            dead_letters=letters.count,
            errors=self._errors.shown(),
            tables=self._tables.of(
                None if attempt is None else attempt.writer.committed_progress,
                letters.counts,
                self.metrics.tables,
            ),
        )

    def note(self, error: TailraceError) -> None:
        """Show an error in the status, and count it."""
        if not self._stop:
            self._errors.add(error)
            self.metrics.failed(error)

    def _table_of(self, error: TailraceError, attempt: Attempt | None) -> TableId | None:
        """The table to leave out after an error, so that the others can go on; None if there is
        none. Before the first checkpoint the error ends the pipeline, as `tailrace check` says.
        """
        if attempt is None or error.retryable or not error.of_one_table:
            return None
        id = error.id if isinstance(error, UnloggedChange) else attempt.find(error.table)
        return None if id is None or attempt.ignores(id) else id

    def _note_abort(self, fields: dict[str, str]) -> None:
        log.warning(
            "stopped before everything that was read is applied, the next run resumes from the"
            " checkpoint",
            extra={"pipeline": self.name, **fields},
        )

    async def _run_attempt(self, until_caught_up: bool) -> bool:
        """Run from the checkpoint on. False if the next attempt has to start at once."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self.source.close)
            stack.push_async_callback(self.sink.close)
            if self._epoch is None:
                await refuse_wrong_configuration(self.source, self.sink, self._shared.mapping)
            state = await self.sink.open(self._epoch)
            self._epoch = state.epoch
            await self._shared.stored.begin(continues=self._continues)
            if until_caught_up and self._goal is None:
                self._goal = await asyncio.to_thread(self.source.position)
            self._attempt = attempt = Attempt(self._shared, state)
            writer, tracker = attempt.writer, attempt.tracker
            if state.checkpoint is not None and not self._selection_done:
                await follow_selection(self.source, self._shared.mapping, writer, tracker)
            self._selection_done = True
            await self._shared.unlogged.record(writer, tracker, attempt.outdated)
            executes = state.checkpoint is not None
            if executes and not await self._shared.stored.execute(writer, tracker):
                return False
            if self._stop:
                return True
            if writer.paused:
                return await attempt.pause()
            await attempt.prepare(first=state.checkpoint is None)
            return await attempt.run(self._goal)
