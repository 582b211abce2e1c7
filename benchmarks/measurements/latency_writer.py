"""
The load of the latency measurement, as a process:
``python -m benchmarks.measurements.latency_writer CONFIG RATE SECONDS``.

It inserts one row a transaction on a fixed schedule, so a slow moment does not reduce the load. For
each row it prints when the statement was sent and when the source had committed it, both as binary
nanoseconds of the monotonic clock, which all processes of a machine share. The source's URL comes
from an engine's configuration, because command lines are visible to all users of the machine.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from contextlib import closing
from pathlib import Path

from benchmarks.harness.source import connect
from benchmarks.workloads import DATABASE, SBTEST
from engine.cli.wiring import load_settings

__all__ = ["read_times"]


def read_times(data: bytes) -> tuple[array[int], array[int]]:
    """The times at which the rows were sent and committed, from a writer's output."""
    times = array("q", data)
    return times[0::2], times[1::2]


def write(url: str, rate: int, seconds: float) -> array[int]:
    """Insert the rows; return the pairs of times."""
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
    """The module's docstring names the three arguments."""
    config, rate, seconds = sys.argv[1:4]
    url = load_settings(Path(config)).source.url
    sys.stdout.buffer.write(write(url, int(rate), float(seconds)).tobytes())


if __name__ == "__main__":
    main()
