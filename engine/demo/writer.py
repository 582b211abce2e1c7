"""
The shop's software as a process of its own: it writes at a steady rate until it is told to stop.

The idea: it is no child of the engine, so nothing that happens to the engine touches it. It ends on
SIGTERM, when told so, and when whoever started it is gone (its standard input ends).

    python -m engine.demo.writer mysql://root@127.0.0.1:3306/shop --rate 300 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from engine.demo.shop import connect
from engine.demo.trade import SCHEMA_CHANGES, Trade
from engine.errors import TailraceError

__all__ = ["ShopWriter", "WriterCounts", "main"]

REPORT_SECONDS = 0.25
STOP_DEADLINE_SECONDS = 30.0
#: A writer that fell behind this far (a lock, a stopped server) does not catch up.
FORGIVEN_SECONDS = 1.0
#: Commands on standard input are one byte each; its end is a command to stop.
STOP, MIGRATE, END = b"s", b"m", b""


class WriterCounts(msgspec.Struct, frozen=True):
    """What a writer has done: committed transactions (each has one row in ``ledger``), the same by
    kind, and schema changes.
    """

    transactions: int = 0
    schema_changes: int = 0
    kinds: dict[str, int] = msgspec.field(default_factory=dict)


class ShopWriter:
    """A writer process on the shop at ``url``; a context manager that starts and stops it."""

    def __init__(self, url: str, transactions_per_second: float = 300.0, seed: int = 1) -> None:
        self.url = url
        self._words = [url, "--rate", str(transactions_per_second), "--seed", str(seed)]
        self._counts = WriterCounts()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap(self._process)

    @property
    def counts(self) -> WriterCounts:
        """What it has done, at most a moment ago; exact after ``stop``."""
        return self._counts

    def start(self) -> None:
        """Start writing."""
        # A session of its own: Ctrl-C in the terminal is for us, not for the writer.
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.demo.writer", *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        self._reader = threading.Thread(target=self._read_counts, args=[process], daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raises ``TailraceError`` if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise TailraceError(
                f"the shop's writer ended by itself, with status {self._process.returncode}"
            )

    def migrate(self) -> None:
        """Have it change the schema soon, between two of its transactions; does not wait."""
        self._tell(MIGRATE)

    def stop(self) -> WriterCounts:
        """Have it finish its transaction and end.  Raises ``TailraceError`` if it had failed."""
        process = self._process
        if process is None:
            return self._counts
        self._tell(STOP)
        try:
            status = process.wait(STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TailraceError("the shop's writer did not stop") from error
        self._reap(process)
        if status:
            raise TailraceError(f"the shop's writer ended with status {status}")
        return self._counts

    def _tell(self, command: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            # One that has ended by itself is found by its status.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(command)
                self._process.stdin.flush()

    def _read_counts(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            self._counts = msgspec.json.decode(line, type=WriterCounts)

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        """Take the last counts of one that ends, and free what it used."""
        process.wait(STOP_DEADLINE_SECONDS)
        if self._reader is not None:
            self._reader.join(STOP_DEADLINE_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Write until told to stop; the counts go to standard output, a JSON line each."""
    parser = argparse.ArgumentParser(description="Keep changing a shop database.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=300.0, help="transactions per second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with connect(options.url) as connection:
        trade = Trade(connection, options.seed)
        _write(trade, 1 / options.rate, stopping)


def _write(trade: Trade, interval_seconds: float, stopping: threading.Event) -> None:
    schema_changes = 0
    due = reported = time.monotonic()
    while not stopping.is_set():
        command = _command(max(0.0, due - time.monotonic()))
        if command in (STOP, END):
            break
        if command == MIGRATE:
            trade.migrate()
            schema_changes += len(SCHEMA_CHANGES)
        trade.next()
        now = time.monotonic()
        due = max(due + interval_seconds, now - FORGIVEN_SECONDS)
        if now - reported >= REPORT_SECONDS:
            reported = now
            _report(trade, schema_changes)
    _report(trade, schema_changes)


def _command(timeout_seconds: float) -> bytes | None:
    """The next command, or None if none comes in time."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout_seconds)
    return os.read(sys.stdin.fileno(), 1) if ready else None


def _report(trade: Trade, schema_changes: int) -> None:
    counts = WriterCounts(sum(trade.counts.values()), schema_changes, trade.counts)
    sys.stdout.buffer.write(msgspec.json.encode(counts) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
