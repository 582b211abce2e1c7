"""
What watches a running pipeline: its status with what the source has to be asked for, with estimates
and rates; its history; its metrics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from engine.errors import TailraceError
from engine.log_status import DescribesLog, LogAhead
from engine.ops.history import History, HistoryRecorder, Work
from engine.ops.metric_list import Metric
from engine.ops.metrics import Metrics, Sampled
from engine.ops.status import StageStatus, Status, Throughput
from engine.ops.trend import Sample, Trend
from engine.proof import TableProof
from engine.schema import TableId

__all__ = ["Monitor"]

#: How often the source is asked for its backlog, and how often before the first checkpoint.
BACKLOG_SECONDS = 5.0
FIRST_SECONDS = 0.25
#: How long a reader of the status waits for the source's answer, how long an answer counts as the
#: present one, and how long it counts at all.
ANSWER_SECONDS = 1.0
FRESH_SECONDS = 0.5
STALE_SECONDS = 15.0
#: How often the target is asked for the last comparisons of tables.
PROOF_SECONDS = 30.0


class Log(Protocol):
    """The part of a source that tells the backlog. It may be a ``DescribesLog``, too."""

    def backlog(self, position: str) -> int | None: ...


class Running(Protocol):
    """A running pipeline: ``engine.pipeline.loop.Pipeline``."""

    @property
    def source(self) -> Log: ...
    def status(self) -> Status: ...


class Monitor:
    """Watches a pipeline. ``status`` and ``history`` show what it has seen."""

    def __init__(self, pipeline: Running, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._recorder = HistoryRecorder()
        self._trend = Trend()
        self._lag_bytes: int | None = None
        self._ahead = LogAhead()
        self._known_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    def status(self) -> Status:
        """The status now. What the source was asked for may be some seconds old; what is older is
        unknown, except how long the source keeps its log.
        """
        status = self._pipeline.status()
        known = time.monotonic() - self._known_at < STALE_SECONDS
        ahead = self._ahead if known else LogAhead()
        unfinished = status.tables and status.fraction < 1
        return msgspec.structs.replace(
            status,
            lag_bytes=self._lag_bytes if known else None,
            lag_transactions=ahead.transactions,
            log_kept_seconds=self._log_kept_seconds(),
            catch_up_seconds=self._trend.catch_up_seconds(status.lag_seconds, time.monotonic()),
            backfill_left_seconds=(
                self._trend.backfill_left_seconds(status.total - status.backfilled)
                if unfinished
                else None
            ),
            throughput=self._throughput(),
            stages=self._stages(),
        )

    def _log_kept_seconds(self) -> float | None:
        """The last answer of the source, less its age: the log at a position only gets older, and
        the source deletes it by its age. So this holds while the source is away, too.
        """
        kept_seconds = self._ahead.kept_seconds
        if kept_seconds is None:
            return None
        return max(0.0, kept_seconds - (time.monotonic() - self._known_at))

    def history(self) -> History:
        """The lag and the throughput of the last 24 hours."""
        return self._recorder.history()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics, with the gauges of the status now; see ``Metrics.render``."""
        return self._metrics.render(accept, self.status())

    def samples(self) -> Iterator[tuple[Metric, Sequence[Sampled]]]:
        """The metrics now, each with its samples, and those of the process; see ``Metrics``."""
        yield from self._metrics.samples(self.status())
        yield from self._metrics.of_process()

    def _throughput(self) -> Throughput | None:
        if (found := self._trend.interval()) is None:
            return None
        first, last = found
        seconds = last.at - first.at
        counts = zip(
            msgspec.structs.astuple(first.work), msgspec.structs.astuple(last.work), strict=True
        )
        return Throughput(*(round((after - before) / seconds, 3) for before, after in counts))

    def _stages(self) -> tuple[StageStatus, ...]:
        found = self._trend.interval()
        shown = []
        for number, (stage, histogram) in enumerate(self._metrics.stages.items()):
            share = None
            if found is not None:
                first, last = found
                spent = last.stages[number] - first.stages[number]
                share = round(min(1.0, spent / (last.at - first.at)), 3)
            shown.append(StageStatus(stage, round(histogram.total, 3), share))
        return tuple(shown)

    # -- asking and recording ----------------------------------------------------------------------

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
        position = status.committed_position
        if not position or status.state == "stopped":
            return
        # Between two attempts, too: a target that is away does not stop the source's log.
        with suppress(TailraceError):
            self._lag_bytes, self._ahead = await asyncio.to_thread(
                _ask, self._pipeline.source, position, status.lag_seconds
            )
            self._known_at = time.monotonic()

    async def watch(self) -> None:
        """Refresh and record every few seconds. Never returns."""
        while True:
            await self.refresh()
            status = self._pipeline.status()
            self._record(status)
            # At whole intervals of the clock, so that each slot of the history has a value.
            left = BACKLOG_SECONDS - time.time() % BACKLOG_SECONDS
            await asyncio.sleep(left if status.committed_position else min(left, FIRST_SECONDS))

    async def watch_proofs(
        self, proofs: Callable[[], Awaitable[Mapping[TableId, TableProof]]]
    ) -> None:
        """Read ``proofs`` now and then, which other processes may have stored. Never returns."""
        while True:
            with suppress(TailraceError):
                self._metrics.tables.proven(await proofs())
            await asyncio.sleep(PROOF_SECONDS)

    def _record(self, status: Status) -> None:
        metrics = self._metrics
        work = Work(
            status.rows or 0, metrics.size, metrics.transactions, status.backfilled_rows or 0
        )
        self._recorder.add(time.time(), status.lag_seconds, work)
        known = time.monotonic() - self._known_at < BACKLOG_SECONDS
        sample = Sample(
            time.monotonic(),
            work,
            status.lag_seconds,
            self._lag_bytes if known else None,
            tuple(stage.total for stage in metrics.stages.values()),
        )
        self._trend.add(sample)


def _ask(source: Log, position: str, lag_seconds: float | None) -> tuple[int | None, LogAhead]:
    """What the source has after a position. Blocks."""
    ahead = LogAhead()
    if isinstance(source, DescribesLog) and lag_seconds is not None:
        ahead = source.log_ahead(position, lag_seconds)
    return source.backlog(position), ahead
