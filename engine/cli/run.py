"""
The commands that move data: ``run``, ``tail``, ``demo`` and ``bench``.

What only some runs need (the terminal, the HTTP server) is imported where it is used, so that a
start costs no more than it must.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    suppress,
)
from typing import Any

import uvloop

import benchmarks as bench_command
from engine import demo as demo_command
from engine.cli.command import Command
from engine.cli.wiring import load_settings, make_sink, make_source
from engine.contract import Source
from engine.errors import ConfigError, TailraceError
from engine.ops import log
from engine.ops.metrics import Metrics
from engine.pipeline.loop import Pipeline
from engine.schema import Table
from engine.settings.loader import Settings

__all__ = ["BENCH", "DEMO", "RUN", "TAIL"]

#: How often the live view is drawn, and how often the source is asked how much log is left.
VIEW_SECONDS = 0.25
BACKLOG_SECONDS = 5.0
#: How often the log says how it goes where there is no terminal.
REPORT_SECONDS = 10.0

#: Net allocations of containers, and collections of the generation before, per collection.
COLLECTOR_THRESHOLDS = (20_000, 20, 100)

logger = logging.getLogger("tailrace.run")


def run(options: argparse.Namespace) -> int:
    """Copy every followed table, then follow the log for ever.

    It may be killed at any moment: the next run goes on from the checkpoint in the target and loses
    or repeats nothing. SIGTERM and Ctrl-C finish what is whole and commit; a second Ctrl-C stops at
    once, still exact.
    """
    settings = load_settings(options.config)
    log.configure(options.log_format or settings.log.format, settings.log.level)
    _collect_seldom()
    uvloop.run(_run(settings, options))
    return 0


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--until-caught-up",
        action="store_true",
        help="stop at the position that the source has now, with every table copied",
    )
    parser.add_argument(
        "--metrics-listen", metavar="HOST:PORT", help="serve /metrics, /health and /status"
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), help="how to write the log (stderr)"
    )
    parser.add_argument(
        "--no-progress", action="store_true", help="no live view, even in a terminal"
    )


RUN = Command("run", "copy the tables and follow the log", run, _add_run_options)


def _collect_seldom() -> None:
    """Rows are many objects without cycles, which the collector of cycles would look through again
    and again: without this it takes 6 to 10 % of the time.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def _run(settings: Settings, options: argparse.Namespace) -> None:
    metrics = Metrics(settings.pipeline.name)
    pipeline = Pipeline(
        settings.pipeline.name,
        make_source(settings),
        make_sink(settings),
        batch=settings.batch,
        backfill=settings.backfill,
        retry=settings.retry,
        metrics=metrics,
    )
    _stop_on_signals(pipeline)
    async with AsyncExitStack() as stack:
        monitor = Monitor(pipeline, metrics)
        await stack.enter_async_context(monitor.watch())
        if listen := options.metrics_listen or settings.metrics.listen:
            from engine.ops.server import StatusServer

            limit = settings.metrics.max_lag_seconds
            server = StatusServer(listen, metrics, monitor.status, max_lag_seconds=limit)
            await stack.enter_async_context(server)
        await stack.enter_async_context(_meanwhile(_warn(settings)))
        visible = sys.stderr.isatty() and not options.no_progress
        shown = _draw(monitor) if visible else _report(monitor)
        await stack.enter_async_context(_meanwhile(shown))
        await pipeline.run(until_caught_up=options.until_caught_up)


def _stop_on_signals(pipeline: Pipeline) -> None:
    """The first signal finishes and commits. A second interrupt ends the process where it is: what
    was not committed is not there, so that is as exact.
    """
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if pipeline.stopping.is_set():
            if sys.stderr.isatty():
                from rich.console import Console

                Console(stderr=True).show_cursor()
            logger.warning("stopped at once", extra={"pipeline": pipeline.name})
            os._exit(1)
        pipeline.stop()

    loop.add_signal_handler(signal.SIGTERM, pipeline.stop)
    loop.add_signal_handler(signal.SIGINT, interrupted)


class Monitor:
    """What a running pipeline looks like from outside: the status of ``/status`` and the live
    view.
    """

    def __init__(self, pipeline: Pipeline, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._backlog: int | None = None

    def status(self) -> dict[str, Any]:
        """The status as one JSON object."""
        progress = self._pipeline.progress()
        return {
            "pipeline": self._pipeline.name,
            "state": progress.state,
            "rows": progress.rows,
            "backfilled_rows": progress.backfilled_rows,
            "reconnects": progress.reconnects,
            "position": progress.position,
            "lag_seconds": progress.lag_seconds,
            "lag_bytes": self._backlog,
            "tables": [
                {"table": str(id), "state": t.state, "rows": t.rows, "estimate": t.estimate}
                for id, t in sorted(progress.tables.items())
            ],
        }

    def watch(self) -> AbstractAsyncContextManager[None]:
        """Ask the source how far behind we are, now and then, and keep the gauges true."""
        return _meanwhile(self._watch())

    async def _watch(self) -> None:
        while True:
            progress = self._pipeline.progress()
            if progress.position and progress.state != "connecting":
                with suppress(TailraceError):
                    self._backlog = await asyncio.to_thread(
                        self._pipeline.source.backlog, progress.position
                    )
            self._metrics.progress(progress, self._backlog)
            await asyncio.sleep(BACKLOG_SECONDS if progress.position else VIEW_SECONDS)


async def _warn(settings: Settings) -> None:
    """Say at the start what `tailrace check` finds wrong with the source: some of it, such as
    foreign keys whose cascades are not in the log, cannot be seen later.
    """
    with closing(make_source(settings)) as source, suppress(TailraceError):
        for finding in await asyncio.to_thread(source.check):
            if finding.level != "ok":
                extra = {"subject": finding.subject, "action": finding.action}
                logger.warning(finding.message, extra=extra)


async def _draw(monitor: Monitor) -> None:
    """Draw the status in the terminal; log lines scroll above it."""
    from rich.console import Console
    from rich.live import Live

    from engine.ops.terminal import TerminalView

    view = TerminalView()
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        try:
            while True:
                live.update(view.render(monitor.status()), refresh=True)
                await asyncio.sleep(VIEW_SECONDS)
        finally:
            live.update(view.render(monitor.status()), refresh=True)


async def _report(monitor: Monitor) -> None:
    """Where there is no terminal, say in the log how it goes."""
    shown = (
        "pipeline",
        "state",
        "rows",
        "backfilled_rows",
        "lag_seconds",
        "lag_bytes",
        "reconnects",
    )
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        status = monitor.status()
        logger.info("progress", extra={name: status[name] for name in shown})


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Do ``work``, at most as long as this is entered."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def tail(options: argparse.Namespace) -> int:
    """Print every change to a followed table as a JSON line; writes nothing anywhere.

    The fields are described in docs/records.md. Ctrl-C ends it.
    """
    from engine.toolkit.record import RecordEncoder

    settings = load_settings(options.config)
    log.configure("text", "warning")
    source = make_source(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: source.stop())
    encoder = RecordEncoder(envelope=options.envelope)
    left = options.limit or sys.maxsize
    with closing(source):
        start, tables = asyncio.run(_start_of_tail(settings, source, options.start))
        for changes in source.stream(start or None, tables):
            for record in encoder.encode(changes):
                sys.stdout.buffer.write(record)
                left -= 1
                if not left:
                    return 0
            sys.stdout.buffer.flush()
    return 0


def _add_tail_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="start",
        default="now",
        metavar="POSITION",
        help="now (default), checkpoint (where the target is), or a position's text",
    )
    parser.add_argument("--envelope", choices=("plain", "debezium"), default="plain")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="end after N records")


TAIL = Command("tail", "print the log as change records, a JSON line each", tail, _add_tail_options)


async def _start_of_tail(
    settings: Settings, source: Source, start: str
) -> tuple[str, Sequence[Table]]:
    """Where to start, and the tables as they are there."""
    if start != "checkpoint":
        position = source.position() if start == "now" and source.can_snapshot else start
        return ("" if start == "now" and not source.can_snapshot else position), source.catalog()
    state = await make_sink(settings).state()
    if state is None or state.checkpoint is None:
        raise ConfigError(
            "the target holds no checkpoint of this pipeline yet",
            hint="run the pipeline first, or leave out --from",
        )
    return state.checkpoint.position, state.tables


def demo(options: argparse.Namespace) -> int:
    """Mirror a small live shop database, kill the engine in the middle, prove both sides equal.

    Starts throw-away MySQL and PostgreSQL servers; the first time it downloads them (about 120 MB)
    into ~/.cache/tailrace, or $TAILRACE_CACHE.
    """
    return demo_command.run(options)


DEMO = Command(
    "demo",
    "everything on throw-away servers, in a minute",
    demo,
    demo_command.add_options,
    takes_config=False,
)


def bench(options: argparse.Namespace) -> int:
    """Measure the engine against the limits of the databases themselves, on throw-away servers.

    The logs that are measured are written once and kept in ~/.cache/tailrace, or $TAILRACE_CACHE:
    about 3 GB for the default size. benchmarks/README.md tells what is measured and how.
    """
    return bench_command.run(options)


BENCH = Command(
    "bench",
    "how fast it is, against what the target can",
    bench,
    bench_command.add_options,
    takes_config=False,
)
