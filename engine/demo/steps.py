"""
The steps of the demo, in order, with their lines on the screen.

Every server and process is entered into one exit stack. So all of them are stopped, and their files
are removed, however the demo ends, Ctrl-C and SIGTERM included.
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pymysql
from rich.console import Console

from engine.cli.tables import cutover_table, verify_table
from engine.demo.engine_process import LOG_HINT
from engine.demo.mirrored import DIFFERENT, MirroredShop
from engine.demo.proof import Proof
from engine.demo.recording import Recording
from engine.demo.screen import Screen
from engine.demo.shop import load_shop
from engine.demo.workload import SCHEMA_CHANGES
from engine.errors import TailraceError
from engine.handover import Cutover
from engine.ops.status import Status
from engine.ops.words import duration
from engine.sandbox import Server, start_mariadb, start_mysql, start_postgres

__all__ = ["run"]

TRANSACTIONS_PER_SECOND = 300
#: The engine is killed when this part of the backfill is done.
KILL_AT = 0.35
#: The recording shows the live view when this part of the backfill is done, in a large table.
RECORD_AT = 0.5
POLL_SECONDS = 0.05
BACKFILL_DEADLINE_SECONDS = 300.0
STREAM_DEADLINE_SECONDS = 120.0
SWITCH_DEADLINE_SECONDS = 30.0
#: How many transactions the shop runs on the new side before it is counted.
NEW_TRANSACTIONS = 500
PRODUCTS = {"mysql": "MySQL", "mariadb": "MariaDB", "postgres": "PostgreSQL"}
#: The recording shows these, because the ports differ from run to run.
USUAL_PORTS = {"mysql": 3306, "mariadb": 3306, "postgres": 5432}


def run(options: argparse.Namespace) -> int:
    """Run the whole demo. Returns 0 if nothing was lost or repeated, else 3."""
    recording = Recording() if options.record else None
    screen = Screen(Console(), plain=options.plain, recording=recording)
    with ExitStack() as stack:
        stack.enter_context(_sigterm_interrupts())
        stack.enter_context(_sandbox_log_on(screen))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-demo-")))
        demo = _Demo(options, screen, stack, folder)
        try:
            status = demo.run()
            if recording is not None:
                recording.save(options.record)
            return status
        except KeyboardInterrupt:
            screen.failure("interrupted: stopping everything and removing its files")
            raise
        except (pymysql.MySQLError, psycopg.Error) as error:
            raise TailraceError(f"a server of the demo failed: {error}") from error
        finally:
            if options.keep:
                demo.wait_for_enter()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _ScreenHandler(logging.Handler):
    """Prints log records on the screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.INFO)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.note(record.getMessage())


@contextmanager
def _sandbox_log_on(screen: Screen) -> Iterator[None]:
    """Show the sandbox's log, because the first start downloads the servers."""
    logger = logging.getLogger("tailrace.sandbox")
    handler = _ScreenHandler(screen)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Demo:
    """The steps. Each server and process that they start is entered into ``stack``."""

    def __init__(
        self, options: argparse.Namespace, screen: Screen, stack: ExitStack, folder: Path
    ) -> None:
        self._options = options
        self._screen = screen
        self._stack = stack
        self._folder = folder
        self._kills = 0
        self._kept: list[str] = []

    def run(self) -> int:
        """Run all steps. Returns the exit status."""
        started = time.monotonic()
        self._screen.title("Tailrace mirrors an old shop's database into PostgreSQL, live")
        self._start_servers()
        self._load()
        opened = time.monotonic()
        self._start_engine()
        self._backfill_with_a_kill()
        self._stream_with_a_migration(opened)
        self._complete_schema()
        equal = self._verify()
        cutover = self._cut_over() if equal else None
        if cutover is not None:
            self._write_to_the_new_side()
        written = self._shop.writer.stop()
        total = written.transactions + written.new
        self._screen.done(f"writer stopped after {total:,} transactions")
        proof = self._shop.count()
        self._show_result(proof, cutover, equal=equal, seconds=time.monotonic() - started)
        return 0 if equal and not proof.differences else DIFFERENT

    def wait_for_enter(self) -> None:
        """Keep the servers, the configuration and the log until the person presses Enter."""
        if not self._kept:
            return
        for what in self._kept:
            self._screen.note(what)
        self._screen.ask("Everything is kept. Press Enter to stop the servers and remove it.")

    # -- before ------------------------------------------------------------------------------------

    def _start_servers(self) -> None:
        begun = time.monotonic()
        start_source = start_mysql if self._options.source == "mysql" else start_mariadb
        with self._screen.working("starting private servers"):
            self._source: Server = self._stack.enter_context(start_source())
            self._target: Server = self._stack.enter_context(start_postgres())
        self._kept += [f"{self._source.url}shop", self._target.url]
        source, target = (
            f"{PRODUCTS[server.kind]} {server.version}" for server in (self._source, self._target)
        )
        self._screen.done(f"servers started: {source}, {target}", begun)

    def _load(self) -> None:
        begun = time.monotonic()
        url = f"{self._source.url}shop"
        with self._screen.working("loading the shop"):
            loaded = load_shop(url, self._options.rows)
        total = sum(loaded.values())
        self._screen.done(f"shop loaded: {len(loaded)} tables, {total:,} rows", begun)
        # Small chunks, so that the kill comes in the middle of the backfill and the stream runs in
        # between.
        chunk_rows = max(100, self._options.rows // 100)
        self._shop = MirroredShop(
            *(url, self._target.url, self._folder),
            chunk_rows=chunk_rows,
            rate=TRANSACTIONS_PER_SECOND,
        )
        self._kept += [str(self._shop.config), str(self._shop.log)]
        self._stack.enter_context(self._shop)
        self._screen.done(f"writer started: {TRANSACTIONS_PER_SECOND} transactions/s")

    def _start_engine(self) -> None:
        config = self._shop.config
        self._shop.engine.start()
        self._screen.done(f"engine started: tailrace run {config.name}")
        for line in filter(None, config.read_text().splitlines()):
            self._screen.detail(line, recorded=self._with_usual_ports(line))

    def _with_usual_ports(self, line: str) -> str:
        for server in (self._source, self._target):
            line = line.replace(f":{server.port}/", f":{USUAL_PORTS[server.kind]}/")
        return line

    # -- the engine at work ------------------------------------------------------------------------

    def _backfill_with_a_kill(self) -> None:
        at_kill = self._watch(lambda now: now.fraction >= KILL_AT, BACKFILL_DEADLINE_SECONDS)
        self._shop.engine.kill()
        self._kills += 1
        self._screen.failure(
            f"engine killed with SIGKILL at {at_kill.fraction:.0%} of the backfill,"
            f" {at_kill.backfilled:,} rows"
        )
        self._shop.engine.start()
        resumed = self._watch(lambda now: bool(now.tables), STREAM_DEADLINE_SECONDS)
        begun = time.monotonic()
        kept = resumed.backfilled - (resumed.backfilled_rows or 0)
        self._screen.done(
            f"engine started again: the backfill resumes after {kept:,} committed rows"
        )
        middle = self._watch(lambda now: now.fraction >= RECORD_AT, BACKFILL_DEADLINE_SECONDS)
        self._screen.record_frame(middle)
        done = self._watch(_is_backfilled, BACKFILL_DEADLINE_SECONDS)
        self._screen.done(
            f"backfill complete: {done.backfilled_rows:,} more rows, all tables live", begun
        )

    def _stream_with_a_migration(self, opened: float) -> None:
        """Stream until the shop has been open for ``--seconds``. Migrate at half the time left."""
        closing = max(opened + self._options.seconds, time.monotonic() + 2)
        half = (time.monotonic() + closing) / 2
        self._watch(lambda now: time.monotonic() >= half, self._options.seconds + 30)
        self._shop.writer.migrate()
        self._screen.done("schema migration, while the writer runs")
        for change in SCHEMA_CHANGES:
            self._screen.detail(change)
        last = self._watch(lambda now: time.monotonic() >= closing, self._options.seconds + 30)
        self._screen.record_frame(last)

    def _watch(self, until: Callable[[Status], bool], deadline_seconds: float) -> Status:
        """Show the live view until ``until`` holds. Returns the status for which it does."""
        deadline = time.monotonic() + deadline_seconds
        with self._screen.live() as draw:
            while time.monotonic() < deadline:
                self._shop.writer.check()
                now = self._shop.engine.status()
                if now is not None:
                    draw(now)
                    if until(now):
                        return now
                time.sleep(POLL_SECONDS)
        raise TailraceError(
            f"a step of the demo took longer than {deadline_seconds:.0f} seconds", hint=LOG_HINT
        )

    # -- the cutover -------------------------------------------------------------------------------

    def _complete_schema(self) -> None:
        begun = time.monotonic()
        with self._screen.working("creating what the target lacks"):
            made = self._shop.complete_schema()
        self._screen.done(f"tailrace schema apply: {made} differences removed", begun)

    def _verify(self) -> bool:
        """Run ``tailrace verify`` and show its result. Returns whether both sides are equal."""
        begun = time.monotonic()
        with self._screen.working("comparing every row and column"):
            report = self._shop.verify()
        self._screen.done("every row and column compared: tailrace verify shop.toml", begun)
        self._screen.show(verify_table(report))
        return report.equal

    def _cut_over(self) -> Cutover:
        begun = time.monotonic()
        with self._screen.working("rehearsing the cutover"):
            self._shop.rehearse()
        self._screen.done("cutover rehearsed: tailrace cutover shop.toml --rehearse", begun)
        begun, report = time.monotonic(), self._options.report
        options = () if report is None else ("--report", str(report.absolute()))
        with self._screen.working("switching the shop to the new side"):
            cutover = self._shop.cut_over(*options)
            self._shop.engine.wait_ended()
        self._screen.done("shop switched: tailrace cutover shop.toml", begun)
        self._screen.show(cutover_table(cutover))
        return cutover

    def _write_to_the_new_side(self) -> None:
        writer = self._shop.writer
        deadline = time.monotonic() + SWITCH_DEADLINE_SECONDS
        with self._screen.working("the shop writes to the new side"):
            while writer.counts.new < NEW_TRANSACTIONS:
                writer.check()
                if time.monotonic() > deadline:
                    raise TailraceError("the shop's writer has not reached the new side")
                time.sleep(POLL_SECONDS)
        away = writer.counts.away_seconds or 0.0
        self._screen.done(f"the shop writes to the new side: it could not write for {away:.1f} s")

    # -- after -------------------------------------------------------------------------------------

    def _show_result(
        self, proof: Proof, cutover: Cutover | None, *, equal: bool, seconds: float
    ) -> None:
        counts, report = self._shop.writer.counts, self._options.report
        summary = [
            ("rows", f"{proof.rows:,} in {len(proof.source)} tables, counted on both sides"),
            ("written", f"{counts.transactions:,} transactions + {counts.new:,} on the new side"),
            ("in the ledger", f"{proof.applied:,} there, {proof.distinct:,} different"),
            ("schema changes", f"{counts.schema_changes} followed live"),
            ("kills", f"{self._kills} SIGKILL to the engine"),
        ]
        if cutover is not None:
            predicted = cutover.predicted_seconds
            said = "" if predicted is None else f", {predicted:.1f} s predicted"
            summary.append(("downtime", f"{cutover.downtime_seconds or 0.0:.1f} s{said}"))
        summary.append(("time", duration(seconds)))
        equal = equal and not proof.differences
        self._screen.result(summary, proof.differences, equal=equal)
        if cutover is not None and report is not None:
            self._screen.detail(f"report: {report}", recorded=f"report: {report.name}")


def _is_backfilled(status: Status) -> bool:
    return bool(status.tables) and all(table.state == "live" for table in status.tables)
