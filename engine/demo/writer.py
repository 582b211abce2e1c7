"""
The shop's writer: a process that runs the workload at a steady rate until it is stopped.

It is a process of its own, so a killed engine does not affect it. It ends on SIGTERM, on the stop
command, and at the end of its standard input, because then the process that started it is gone.

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
from typing import Self

import msgspec

from engine.demo.shop import connect
from engine.demo.workload import SCHEMA_CHANGES, Workload
from engine.errors import TailraceError

__all__ = ["ShopWriter", "WriterCounts", "main"]

REPORT_SECONDS = 0.25
STOP_DEADLINE_SECONDS = 30.0
#: After a delay (a lock, a stopped server) the writer makes up for this much at most.
MAX_BEHIND_SECONDS = 1.0
#: The commands on standard input, one byte each. Its end is a command to stop.
STOP, MIGRATE, END = b"s", b"m", b""


class WriterCounts(msgspec.Struct, frozen=True):
    """The number of committed transactions, each with a row in ``ledger``, and of schema changes.

    ``kinds`` is the number of transactions by kind.
    """

    transactions: int = 0
    schema_changes: int = 0
    kinds: dict[str, int] = msgspec.field(default_factory=dict)


class ShopWriter:
    """A writer process on the shop at ``url``. The context manager starts it, and kills it at its
    end.
    """

    def __init__(self, url: str, transactions_per_second: float = 300.0, seed: int = 1) -> None:
        self.url = url
        self._command = [url, "--rate", str(transactions_per_second), "--seed", str(seed)]
        self._counts = WriterCounts()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap(self._process)

    @property
    def counts(self) -> WriterCounts:
        """The counts, up to ``REPORT_SECONDS`` old. They are exact after ``stop``."""
        return self._counts

    def start(self) -> None:
        """Start the process."""
        # In a session of its own the writer gets no Ctrl-C.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.demo.writer", *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        self._reader = threading.Thread(target=self._read_counts, args=[process], daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raise ``TailraceError`` if the writer has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise TailraceError(
                f"the shop's writer ended by itself, with status {self._process.returncode}"
            )

    def migrate(self) -> None:
        """Have the writer migrate the schema before its next transaction. Does not wait for it."""
        self._tell(MIGRATE)

    def stop(self) -> WriterCounts:
        """Have the writer finish its transaction and end. Returns its counts.

        Raises ``TailraceError`` if the writer failed.
        """
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
            # If the writer has ended, ``check`` and ``stop`` find its exit status.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(command)
                self._process.stdin.flush()

    def _read_counts(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            self._counts = msgspec.json.decode(line, type=WriterCounts)

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the process, read its last counts, and close its pipes."""
        process.wait(STOP_DEADLINE_SECONDS)
        if self._reader is not None:
            self._reader.join(STOP_DEADLINE_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the writer. It prints its counts to standard output, as JSON lines."""
    parser = argparse.ArgumentParser(description="Run transactions on a shop database.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=300.0, help="transactions per second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with connect(options.url) as connection:
        workload = Workload(connection, options.seed)
        _write(workload, 1 / options.rate, stopping)


def _write(workload: Workload, interval_seconds: float, stopping: threading.Event) -> None:
    schema_changes = 0
    due = reported = time.monotonic()
    while not stopping.is_set():
        command = _command(max(0.0, due - time.monotonic()))
        if command in (STOP, END):
            break
        if command == MIGRATE:
            workload.migrate()
            schema_changes += len(SCHEMA_CHANGES)
        workload.next()
        now = time.monotonic()
        due = max(due + interval_seconds, now - MAX_BEHIND_SECONDS)
        if now - reported >= REPORT_SECONDS:
            reported = now
            _report(workload, schema_changes)
    _report(workload, schema_changes)


def _command(timeout_seconds: float) -> bytes | None:
    """The next command, or None if there is none before the timeout."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout_seconds)
    return os.read(sys.stdin.fileno(), 1) if ready else None


def _report(workload: Workload, schema_changes: int) -> None:
    counts = WriterCounts(sum(workload.counts.values()), schema_changes, workload.counts)
    sys.stdout.buffer.write(msgspec.json.encode(counts) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
