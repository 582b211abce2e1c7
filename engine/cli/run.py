"""
The commands that move data: ``run``, ``tail``, ``demo`` and ``bench``.

Modules that only some runs need (the terminal, the HTTP server) are imported where they are used,
so that the others start faster.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    closing,
    suppress,
)
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

import benchmarks as bench_command
from engine import demo as demo_command
from engine.cli.command import Command, seconds
from engine.cli.continuous import ContinuousVerify
from engine.cli.engine import Engine
from engine.cli.output import write_records
from engine.cli.stored import stored_state
from engine.cli.verify import require_comparable
from engine.cli.wiring import load_settings, make_sink, make_source, version_and_codecs
from engine.contract import Finding, SnapshotSource, Source
from engine.errors import ConfigError, TailraceError
from engine.ops import log
from engine.ops.background import meanwhile
from engine.ops.free_memory import give_back_memory
from engine.ops.metrics import Metrics
from engine.ops.monitor import Monitor
from engine.ops.repeats import PROGRESS
from engine.ops.service_manager import as_service
from engine.ops.status import Status
from engine.ops.telemetry import start_metrics, start_tracing
from engine.ops.words import headline
from engine.remedies import rendered
from engine.schema import Table
from engine.settings.api import ApiSettings, parse_listen
from engine.settings.loader import Settings

if TYPE_CHECKING:
    from engine.ops.server import HttpServer

__all__ = ["BENCH", "DEMO", "RUN", "TAIL"]

#: How often the terminal view is drawn.
VIEW_SECONDS = 0.25
#: How often the status is logged where there is no terminal.
REPORT_SECONDS = 10.0
IDLE_REPORT_SECONDS = 600.0

#: The thresholds of ``gc.set_threshold``.
COLLECTOR_THRESHOLDS = (20_000, 20, 100)

#: The exit status of a run that has left out changes.
EXIT_DIFFERENCES = 3

#: The fields of a status that are logged.
REPORTED = (
    *("pipeline", "state", "rows", "backfilled_rows"),
    *("lag_seconds", "lag_bytes", "reconnects"),
)

logger = logging.getLogger("tailrace.run")
progress = logging.getLogger(PROGRESS)


def run(options: argparse.Namespace) -> int:
    """Backfill every table that matches, and follow the log until stopped.

    The process may be killed at any moment: the next run resumes from the checkpoint in the target,
    and loses or repeats nothing. SIGTERM and Ctrl-C commit whole transactions and stop. A second
    Ctrl-C stops at once, which is just as safe.

    A run that ends by itself, at the end of log files or with --until-caught-up, has exit status 3
    if tables are quarantined, because the target lacks their changes. Exit status 4: a newer engine
    has taken over.

    CONFIG may be a directory. Each configuration in it (*.toml) is a pipeline then, in a process of
    its own, which is started again when it fails. One server has the API of all. docs/deploy.md
    describes it.
    """
    if options.deadline is not None and not options.until_caught_up:
        raise ConfigError("--deadline needs --until-caught-up", hint="add --until-caught-up")
    if options.config.is_dir():
        from engine.cli.supervise import supervise

        return supervise(options)
    settings = load_settings(options.config)
    require_comparable(settings)
    name = settings.pipeline.name
    log.configure(options.log_format or settings.log.format, settings.log.level, name)
    version, codecs = version_and_codecs()
    logger.info("starting", extra={"version": version, "codecs": codecs})
    _tune_garbage_collection()
    try:
        return uvloop.run(_run(settings, options))
    except TailraceError as error:
        if options.supervised is not None:
            from engine.cli.supervised import tell_supervisor

            tell_supervisor(error, options.config)
        raise


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--until-caught-up",
        action="store_true",
        help="stop at the source's present position, when every table is live",
    )
    parser.add_argument(
        "--deadline",
        type=seconds,
        metavar="SECONDS",
        help="with --until-caught-up: fail if the pipeline has not caught up after this time",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="serve the API: /metrics, /health, /status, /commands"
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), help="the format of the log (stderr)"
    )
    parser.add_argument("--no-progress", action="store_true", help="do not draw the terminal view")
    parser.add_argument("--supervised", type=Path, metavar="SOCKET", help=argparse.SUPPRESS)


RUN = Command("run", "backfill the tables and follow the log", run, _add_run_options)


def _tune_garbage_collection() -> None:
    """Collect cycles less often. Rows are many objects without cycles; with the default thresholds
    the collector takes 6 to 10 % of the time.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    metrics = Metrics(settings.pipeline.name)
    telemetry = settings.telemetry.endpoint, settings.pipeline.name
    tracing, sender = start_tracing(*telemetry), start_metrics(*telemetry)
    engine = Engine(settings, options.config, metrics, tracing)
    _stop_on_signals(engine)
    async with AsyncExitStack() as stack:
        monitor = Monitor(engine, metrics)
        await stack.enter_async_context(meanwhile(monitor.watch()))
        await stack.enter_async_context(meanwhile(monitor.watch_proofs(engine.proofs)))
        comparing = ContinuousVerify(engine, metrics).run()
        await stack.enter_async_context(meanwhile(comparing))
        if (server := _make_server(settings, options, engine, monitor)) is not None:
            await stack.enter_async_context(server)
        if settings.notify:
            await stack.enter_async_context(_notifying(settings, options.config, monitor, metrics))
        await stack.enter_async_context(meanwhile(_warn(settings, str(options.config))))
        visible = sys.stderr.isatty() and not options.no_progress
        shown = _draw(monitor) if visible else _report(monitor)
        await stack.enter_async_context(meanwhile(shown))
        await stack.enter_async_context(meanwhile(log.write_repeats()))
        await stack.enter_async_context(meanwhile(give_back_memory()))
        stack.callback(log.write_held)
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        stack.push_async_callback(asyncio.to_thread, sender.close)
        await stack.enter_async_context(meanwhile(sender.run(monitor.refresh, monitor.samples)))
        if options.supervised is None:
            await stack.enter_async_context(as_service(lambda: _in_words(monitor)))
        await engine.run(until_caught_up=options.until_caught_up, deadline_seconds=options.deadline)
    return 0 if engine.pipeline.stopping else _conclude(engine.status(), str(options.config))


def _in_words(monitor: Monitor) -> str:
    return headline(monitor.status(), datetime.now().astimezone()).text


def _make_server(
    settings: Settings, options: argparse.Namespace, engine: Engine, monitor: Monitor
) -> HttpServer | None:
    """The server of the API; None if there is to be none. Raises ConfigError if the address needs
    protection.
    """
    access, listen = settings.api, options.listen or settings.api.listen
    address: str | Path = listen
    if options.supervised is not None:
        from engine.cli.supervised import stop_with_supervisor

        stop_with_supervisor(engine.stop)
        access, listen, address = ApiSettings(), "localhost:0", options.supervised
    if not listen:
        return None
    from engine.ops.access import Access
    from engine.ops.api import Api
    from engine.ops.dashboard import Dashboard
    from engine.ops.server import HttpServer

    host, _ = parse_listen(listen)
    api = Api(
        Access(access, host),
        monitor,
        monitor.status,
        max_lag_seconds=settings.api.max_lag_seconds,
        refresh=monitor.refresh,
        commands=engine.commands,
        dashboard=Dashboard(monitor.status, monitor.history, str(engine.config)),
        config=str(engine.config),
    )
    return HttpServer(address, api.app(), tls=access.secure(host))


def _notifying(
    settings: Settings, config: Path, monitor: Monitor, metrics: Metrics
) -> AbstractAsyncContextManager[None]:
    """Tell the receivers of ``[notify]`` what happens to the pipeline."""
    from engine.ops.notifications import Notifications
    from engine.ops.notify import notifying

    notifications = Notifications(settings.api.max_lag_seconds, str(config))
    return notifying(settings.notify, monitor.status, notifications, metrics.notifications)


def _conclude(status: Status, config: str) -> int:
    """Log what a run that ended by itself has done. Returns its exit status."""
    counts = {name: getattr(status, name) for name in ("pipeline", "rows", "backfilled_rows")}
    logger.info("finished", extra=counts)
    quarantined = [table for table in status.tables if table.state == "quarantined"]
    for table in quarantined:
        logger.error(
            "the table is quarantined, the target lacks its changes",
            extra={"table": table.table, "reason": table.reason, "hint": table.remedy},
        )
    if status.dead_letters:
        logger.error(
            "rows that the target refused are dead letters, the target lacks them",
            extra={
                "count": status.dead_letters,
                "hint": rendered("`tailrace dead-letters CONFIG list`", config=config),
            },
        )
    return EXIT_DIFFERENCES if quarantined or status.dead_letters else 0


def _stop_on_signals(engine: Engine) -> None:
    """The first signal commits and stops. A second interrupt ends the process at once; what was not
    committed is read again by the next run.
    """
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if engine.ending:
            if sys.stderr.isatty():
                from rich.console import Console

                Console(stderr=True).show_cursor()
            log.write_held()
            logger.warning("stopped at once")
            os._exit(1)
        engine.stop()

    loop.add_signal_handler(signal.SIGTERM, engine.stop)
    loop.add_signal_handler(signal.SIGINT, interrupted)


async def _warn(settings: Settings, config: str) -> None:
    """Log what ``tailrace check`` finds wrong with the source and the target, apart from tables of
    the target. Some of it cannot be noticed later, such as foreign keys whose cascades are not in
    the log, or connections whose other end is not verified.
    """
    with closing(make_source(settings)) as source, suppress(TailraceError):
        _log_findings(await asyncio.to_thread(source.check), config)
    with suppress(TailraceError):
        _log_findings(await make_sink(settings).check([]), config)


def _log_findings(findings: Sequence[Finding], config: str) -> None:
    for finding in findings:
        if finding.level != "ok":
            extra = {
                "code": finding.code,
                "subject": finding.subject,
                "hint": rendered(finding.action, config=config),
            }
            logger.warning(finding.message, extra=extra)


async def _draw(monitor: Monitor) -> None:
    """Draw the terminal view. Log lines scroll above it."""
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
    """Log the status now and then, where there is no terminal; seldom while nothing happens."""
    last: tuple[object, ...] = ()
    logged = 0.0
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        status, now = monitor.status(), time.monotonic()
        present = (status.state, status.rows, status.backfilled_rows, status.reconnects)
        if present != last or now - logged >= IDLE_REPORT_SECONDS:
            last, logged = present, now
            progress.info("progress", extra={name: getattr(status, name) for name in REPORTED})


def tail(options: argparse.Namespace) -> int:
    """Print every change to a table that matches as a JSON line. Read-only.

    docs/records.md describes the fields. Ctrl-C ends the command.
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
            records = list(islice(encoder.encode(changes), left))
            write_records(records)
            left -= len(records)
            if not left:
                return 0
    return 0


def _add_tail_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="start",
        default="now",
        metavar="POSITION",
        help="now (default), checkpoint (the target's position), or the text of a position",
    )
    parser.add_argument(
        "--envelope",
        choices=("plain", "debezium"),
        default="plain",
        help="the form of a record (default plain)",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N records")


TAIL = Command("tail", "print the log as change records, a JSON line each", tail, _add_tail_options)


async def _start_of_tail(
    settings: Settings, source: Source, start: str
) -> tuple[str, Sequence[Table]]:
    """The position to start at, and the tables at that position."""
    if start != "checkpoint":
        if not isinstance(source, SnapshotSource):
            return ("" if start == "now" else start), ()
        return (source.position() if start == "now" else start), source.catalog()
    state, checkpoint = await stored_state(make_sink(settings))
    return checkpoint.position, [it for table in state.tables for it in table.sources]


def demo(options: argparse.Namespace) -> int:
    """Mirror a small live shop database, kill the engine in between, and prove both sides equal.

    Starts temporary MySQL and PostgreSQL servers. The first run downloads them (about 120 MB) into
    ~/.cache/tailrace, or $TAILRACE_CACHE.
    """
    return demo_command.run(options)


DEMO = Command(
    "demo",
    "try it on temporary servers, in a minute",
    demo,
    demo_command.add_options,
    takes_config=False,
)


def bench(options: argparse.Namespace) -> int:
    """Measure the engine against the databases' own limits, on temporary servers.

    The logs that are measured are written once, and kept in ~/.cache/tailrace, or $TAILRACE_CACHE:
    about 3 GB for the default size. The README of the benchmarks describes the method.
    """
    return bench_command.run(options)


BENCH = Command(
    "bench",
    "measure the engine's speed, against the databases' own limits",
    bench,
    bench_command.add_options,
    takes_config=False,
)
