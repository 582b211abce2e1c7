"""
A steady load for the measurement of latency: ``python -m benchmarks.writer CONFIG RATE SECONDS``.

The idea: one row a transaction, at moments that were fixed beforehand, so a slow moment does not
make the load lighter. It prints, for each row, when its statement was sent and when the source had
committed it, in nanoseconds of the system's monotonic clock, which all processes share. The source
is that of an engine's configuration: a URL among its words would show a password to everybody.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from contextlib import closing
from pathlib import Path

from benchmarks.kept import connect
from benchmarks.workloads import DATABASE, SBTEST
from engine.cli.wiring import load_settings

__all__ = ["read_times"]


def read_times(data: bytes) -> tuple[array[int], array[int]]:
    """When each row was sent, and when it was committed, by what a writer has printed."""
    times = array("q", data)
    return times[0::2], times[1::2]


def write(url: str, rate: int, seconds: float) -> array[int]:
    """Offer the load."""
    count = int(rate * seconds)
    statements = [
        f"INSERT INTO {DATABASE}.{SBTEST.name} (k, c, pad) VALUES ({row[1]},{row[2]},{row[3]})"
        for row in SBTEST.rows(count)
    ]
    times = array("q")
    gc.disable()
    with closing(connect(url)) as session, session.cursor() as cursor:
        start = time.monotonic_ns()
        for number, statement in enumerate(statements):
            wait = start + number * 1_000_000_000 // rate - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            times.append(time.monotonic_ns())
            cursor.execute(statement)
            times.append(time.monotonic_ns())
    return times


def main() -> None:
    """The three arguments are those of the module's docstring."""
    config, rate, seconds = sys.argv[1:4]
    url = load_settings(Path(config)).source.url
    sys.stdout.buffer.write(write(url, int(rate), float(seconds)).tobytes())


if __name__ == "__main__":
    main()
