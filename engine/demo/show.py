"""
The demonstration's script: what happens in which order, and what the person sees of it.

The idea: a list of acts on one stage. Whatever happens on the way, Ctrl-C included, everything that
was started is stopped and removed.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import psycopg
import pymysql
from rich.console import Console

from engine.cli.tables import verify_table
from engine.demo.mirror import LOG_HINT, Mirror
from engine.demo.proof import Proof, count_both
from engine.demo.shop import load_shop
from engine.demo.stage import Stage
from engine.demo.trade import SCHEMA_CHANGES
from engine.demo.writer import ShopWriter
from engine.errors import TailraceError
from engine.ops.status import Status
from engine.ops.terminal import duration
from engine.sandbox import Server, start_mariadb, start_mysql, start_postgres
from engine.verify.report import VerifyReport

__all__ = ["run"]

TRANSACTIONS_PER_SECOND = 300
#: The engine is killed when this much of the snapshot is done.
KILL_AT = 0.35
POLL_SECONDS = 0.05
BACKFILL_DEADLINE_SECONDS = 300.0
STREAM_DEADLINE_SECONDS = 120.0
VERIFY_DEADLINE_SECONDS = 300.0
EQUAL, DIFFERENT = 0, 3

CONFIG = """\
[pipeline]
name = "demo"

[source]
url = "{source}"
tables = ["shop.*"]

[sink]
url = "{target}"

[backfill]
chunk_rows = {chunk_rows}
"""


def run(options: argparse.Namespace) -> int:
    """Run the whole demonstration. Returns 0 if both sides are equal at its end, else 3."""
    stage = Stage(Console(), plain=options.plain)
    with ExitStack() as stack:
        stack.enter_context(_ended_by_sigterm())
        stack.enter_context(_sandbox_told_on(stage))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-demo-")))
        show = _Show(options, stage, stack, folder)
        try:
            return show.play()
        except KeyboardInterrupt:
            stage.alarm("interrupted: everything is stopped and removed")
            raise
        except (pymysql.MySQLError, psycopg.Error) as error:
            raise TailraceError(f"a server of the demonstration failed: {error}") from error
        finally:
            if options.keep:
                show.wait_for_enter()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C: everything is stopped and removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Narrator(logging.Handler):
    """Shows what the sandbox is doing: downloads may take a while."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.INFO)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        self._stage.detail(record.getMessage())


@contextmanager
def _sandbox_told_on(stage: Stage) -> Iterator[None]:
    logger = logging.getLogger("tailrace.sandbox")
    narrator = _Narrator(stage)
    logger.addHandler(narrator)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(narrator)


class _Show:
    """The acts, in order; what is started is entered into ``stack``."""

    def __init__(
        self, options: argparse.Namespace, stage: Stage, stack: ExitStack, folder: Path
    ) -> None:
        self._options = options
        self._stage = stage
        self._stack = stack
        self._config = folder / "shop.toml"
        self._log = folder / "engine.log"
        self._kills = 0
        self._kept: list[str] = []

    def play(self) -> int:
        """All acts; returns the exit status."""
        started = time.monotonic()
        self._stage.title("Tailrace: an old shop's database, mirrored live into PostgreSQL")
        self._start_servers()
        self._load()
        self._configure()
        self._writer = self._stack.enter_context(ShopWriter(self._shop, TRANSACTIONS_PER_SECOND))
        self._stage.say(f"the shop is open: {TRANSACTIONS_PER_SECOND} transactions a second")
        opened = time.monotonic()
        self._mirror = self._stack.enter_context(Mirror(self._config, self._log))
        self._backfill_with_a_kill()
        self._stream_with_a_migration(opened)
        self._drain()
        proof = count_both(self._shop, self._target.url, self._writer.counts)
        verified = self._verify()
        self._verdict(proof, verified, time.monotonic() - started)
        return DIFFERENT if proof.faults or not verified else EQUAL

    def wait_for_enter(self) -> None:
        """Leave everything as it is until the person has seen enough."""
        if not self._kept:
            return
        for what in (*self._kept, str(self._log)):
            self._stage.detail(what)
        self._stage.ask("All of it is still there. Press Enter to remove it.")

    # -- before ------------------------------------------------------------------------------------

    def _start_servers(self) -> None:
        begun = time.monotonic()
        start_source = start_mysql if self._options.source == "mysql" else start_mariadb
        with self._stage.working("starting private servers"):
            self._source: Server = self._stack.enter_context(start_source())
            self._shop = f"{self._source.url}shop"
            self._target: Server = self._stack.enter_context(start_postgres())
        self._kept += [self._shop, self._target.url]
        names = " and ".join(
            f"{name} {server.version}"
            for name, server in (
                ("MySQL" if self._source.kind == "mysql" else "MariaDB", self._source),
                ("PostgreSQL", self._target),
            )
        )
        self._stage.say(f"{names} are running", begun)

    def _load(self) -> None:
        begun = time.monotonic()
        with self._stage.working("loading the shop"):
            loaded = load_shop(self._shop, self._options.rows)
        total = sum(loaded.values())
        self._stage.say(f"the shop is loaded: {len(loaded)} tables, {total:,} rows", begun)

    def _configure(self) -> None:
        text = CONFIG.format(
            source=self._source.url,
            target=self._target.url,
            # Small enough that the snapshot can be seen, and killed, in its middle.
            chunk_rows=max(100, self._options.rows // 100),
        )
        self._config.write_text(text)
        self._kept.append(str(self._config))
        self._stage.say(f"tailrace run {self._config}")
        for line in text.splitlines():
            if line:
                self._stage.detail(line)

    # -- the mirror at work ------------------------------------------------------------------------

    def _backfill_with_a_kill(self) -> None:
        self._mirror.start()
        at_kill = self._watch(lambda now: now.fraction >= KILL_AT, BACKFILL_DEADLINE_SECONDS)
        self._mirror.kill()
        self._kills += 1
        where = f"{at_kill.fraction:.0%} of the backfill, {at_kill.backfilled:,} rows"
        self._stage.alarm(f"SIGKILL to the engine, at {where}")
        self._mirror.start()
        resumed = self._watch(lambda now: bool(now.tables), STREAM_DEADLINE_SECONDS)
        goes_on = resumed.backfilled - (resumed.backfilled_rows or 0)
        self._stage.say(f"started again: it goes on after {goes_on:,} rows")
        begun = time.monotonic()
        done = self._watch(_is_backfilled, BACKFILL_DEADLINE_SECONDS)
        self._stage.say(
            f"the backfill is complete, after {done.backfilled_rows:,} more rows", begun
        )

    def _stream_with_a_migration(self, opened: float) -> None:
        """Stream until the shop has been open for the wanted time; migrate at half the time."""
        closing = max(opened + self._options.seconds, time.monotonic() + 2)
        half = (time.monotonic() + closing) / 2
        self._watch(lambda now: time.monotonic() >= half, self._options.seconds + 30)
        self._writer.migrate()
        self._stage.say("the shop changes its schema, and stays open")
        for change in SCHEMA_CHANGES:
            self._stage.detail(change)
        self._watch(lambda now: time.monotonic() >= closing, self._options.seconds + 30)

    def _drain(self) -> None:
        begun = time.monotonic()
        written = self._writer.stop()
        self._stage.say(f"the shop is closed after {written.transactions:,} transactions")
        self._mirror.finish()
        self._mirror.catch_up()
        self._stage.say("the mirror has caught up", begun)

    def _watch(self, until: Callable[[Status], bool], deadline_seconds: float) -> Status:
        """Show the engine live until ``until`` holds; returns the status at which it did."""
        deadline = time.monotonic() + deadline_seconds
        with self._stage.live() as draw:
            while time.monotonic() < deadline:
                self._writer.check()
                now = self._mirror.status()
                if now is not None:
                    draw(now)
                    if until(now):
                        return now
                time.sleep(POLL_SECONDS)
        raise TailraceError(
            f"the demonstration did not get on within {deadline_seconds:.0f} seconds",
            hint=LOG_HINT,
        )

    # -- after -------------------------------------------------------------------------------------

    def _verify(self) -> bool:
        """Show ``tailrace verify``; returns whether it found both sides equal."""
        begun = time.monotonic()
        words = [sys.executable, "-m", "engine.cli", "verify", str(self._config)]
        with self._stage.working("comparing every row and column"):
            done = subprocess.run(
                [*words, "--json"],
                capture_output=True,
                timeout=VERIFY_DEADLINE_SECONDS,
                check=False,
            )
        if done.returncode not in (EQUAL, DIFFERENT):
            raise TailraceError(
                f"tailrace verify ended with status {done.returncode}",
                hint=done.stderr.decode(errors="replace").strip()[-1000:],
            )
        self._stage.say("tailrace verify has compared every row and column", begun)
        self._stage.show(verify_table(msgspec.json.decode(done.stdout, type=VerifyReport)))
        return done.returncode == EQUAL

    def _verdict(self, proof: Proof, verified: bool, seconds: float) -> None:
        counts = self._writer.counts
        facts = (
            ("rows", f"{proof.rows:,} in {len(proof.source)} tables, counted on both sides"),
            ("transactions", f"{counts.transactions:,} written, {proof.ledger:,} applied"),
            ("schema changes", f"{counts.schema_changes} followed live"),
            ("kills", f"{self._kills} SIGKILL to the engine"),
            ("time", duration(seconds)),
        )
        self._stage.verdict(facts, proof.faults, equal=verified and not proof.faults)


def _is_backfilled(status: Status) -> bool:
    return bool(status.tables) and all(table.state == "live" for table in status.tables)
