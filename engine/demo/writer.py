"""
The shop's writer: a process that runs the workload at a steady rate until it is stopped.

It is a process of its own, so a killed engine does not affect it. It ends on SIGTERM, on the stop
command, and at the end of its standard input, because then the process that started it is gone.

It behaves as the shop's software in a cutover: where the server refuses to be written, it tries
again, until the file ``--address`` names the new side. From then on it writes there.

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
from pathlib import Path
from typing import Any, Self

import msgspec
import psycopg
import pymysql

from engine.demo.new_side import NewSide
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
#: The server refuses a statement because it is read only.
READ_ONLY = (1290, 1836)
REFUSED_SECONDS = 0.05


class WriterCounts(msgspec.Struct, frozen=True):
    """The number of committed transactions, each with a row in ``ledger``, and of schema changes.

    ``kinds`` is the number of transactions by kind. ``new`` is the number of transactions on the
    new side, and ``rows`` that of the rows that they have inserted, by table. ``refused``: the old
    side refuses to be written. ``away_seconds`` is the time between the last transaction on the old
    side and the first one on the new side.
    """

    transactions: int = 0
    schema_changes: int = 0
    kinds: dict[str, int] = msgspec.field(default_factory=dict)
    new: int = 0
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    refused: bool = False
    away_seconds: float | None = None


class ShopWriter:
    """A writer process on the shop at ``url``. The context manager starts it, and kills it at its
    end. After a cutover it writes to the database whose URL is in the file ``address``.
    """

    def __init__(
        self,
        url: str,
        transactions_per_second: float = 300.0,
        seed: int = 1,
        address: Path | None = None,
    ) -> None:
        self.url = url
        self._command = [url, "--rate", str(transactions_per_second), "--seed", str(seed)]
        self._command += [] if address is None else ["--address", str(address)]
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
    parser.add_argument("--address", type=Path, help="the file that names the new side")
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    writing = _Writing(1 / options.rate, stopping, options.address)
    with connect(options.url) as connection:
        address = writing.old_side(Workload(connection, options.seed), connection)
    if address:
        schema = options.url.rpartition("/")[2]
        with psycopg.connect(address) as there:
            writing.new_side(NewSide(there, schema, options.seed))
    writing.report()


class _Writing:
    """The counts of a writer, and its pace."""

    def __init__(
        self, interval_seconds: float, stopping: threading.Event, address: Path | None
    ) -> None:
        self._interval_seconds = interval_seconds
        self._stopping = stopping
        self._address = address
        self._counts = WriterCounts()
        self._due = self._reported = self._committed = time.monotonic()

    def old_side(self, workload: Workload, connection: pymysql.Connection[Any]) -> str:
        """Write to the old side. Returns the URL of the new side, or nothing if it was stopped."""
        schema_changes, refused = 0, False
        while (command := self._next_command(refused)) not in (STOP, END):
            if command == MIGRATE:
                workload.migrate()
                schema_changes += len(SCHEMA_CHANGES)
            try:
                workload.next()
                refused = False
            except pymysql.MySQLError as error:
                refused = error.args[0] in READ_ONLY and self._address is not None
                if not refused:
                    raise
                connection.rollback()
            else:
                self._committed = time.monotonic()
            counts = WriterCounts(
                sum(workload.counts.values()), schema_changes, workload.counts, refused=refused
            )
            self._done(counts)
            if refused and (address := self._new_address()):
                return address
        return ""

    def new_side(self, workload: NewSide) -> None:
        """Write to the new side until the writer is stopped."""
        away, old = None, self._counts
        while self._next_command(refused=False) not in (STOP, END):
            workload.next()
            away = time.monotonic() - self._committed if away is None else away
            self._done(
                msgspec.structs.replace(
                    old, new=sum(workload.counts.values()), rows=workload.rows, away_seconds=away
                )
            )

    def report(self) -> None:
        """Print the counts."""
        sys.stdout.buffer.write(msgspec.json.encode(self._counts) + b"\n")
        sys.stdout.buffer.flush()

    def _next_command(self, refused: bool) -> bytes | None:
        """The command that has come before the next transaction is due."""
        if self._stopping.is_set():
            return STOP
        return _command(REFUSED_SECONDS if refused else max(0.0, self._due - time.monotonic()))

    def _done(self, counts: WriterCounts) -> None:
        """A transaction is done, or refused."""
        now, before = time.monotonic(), self._counts
        self._counts = counts
        self._due = max(self._due + self._interval_seconds, now - MAX_BEHIND_SECONDS)
        if now - self._reported >= REPORT_SECONDS or counts.refused != before.refused:
            self._reported = now
            self.report()

    def _new_address(self) -> str:
        """The URL in the file, if it is there."""
        try:
            return "" if self._address is None else self._address.read_text().strip()
        except FileNotFoundError:
            return ""


def _command(timeout_seconds: float) -> bytes | None:
    """The next command, or None if there is none before the timeout."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout_seconds)
    return os.read(sys.stdin.fileno(), 1) if ready else None


if __name__ == "__main__":
    main()
