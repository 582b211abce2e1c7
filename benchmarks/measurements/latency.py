"""
Latency: from the commit on the source until the row is visible on the target, under a steady load.

A query on the target reads the largest key every half millisecond, so a row's time is late by about
half a millisecond at most, and never early. The target's commit timestamps would be early: the
server takes them before the commit is on disk.
"""

from __future__ import annotations

import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.harness import target
from benchmarks.harness.processes import MeasuredProcess, cpu_seconds, difference
from benchmarks.harness.source import (
    SOURCE_OPTIONS,
    connect,
    source_info,
    table_sums,
    write_backlog,
)
from benchmarks.measurements.bench import Bench, engine_command, write_config
from benchmarks.measurements.latency_writer import read_times
from benchmarks.reporting.result import Repetition, Result, percentiles
from benchmarks.workloads import DATABASE, SBTEST, Workload
from engine.errors import TailraceError
from engine.sandbox import start_mysql

__all__ = ["measure_latency"]

RATE = 1_000
LONGEST_SECONDS = 15.0
SHORTEST_SECONDS = 1.0
POLL_SECONDS = 0.0005
DEADLINE_SECONDS = 60.0
#: The last key of an empty table.
NO_KEY = 0


def measure_latency(bench: Bench, name: str, rows: int) -> Result:
    """Measure latency under single-row transactions at a steady rate; ``rows`` scales the time."""
    seconds = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, LONGEST_SECONDS * rows / 1_000_000))
    workload = Workload("latency", SBTEST, "insert", 0, 1)
    result = Result(name=name, rows=int(RATE * seconds), workload=workload.shape())
    for number in range(1, bench.repeat + 1):
        bench.notify(f"{name}: {number} of {bench.repeat}")
        with _source(bench) as (source_url, process_id):
            bench.source_info.update(source_info(source_url))
            write_backlog(source_url, workload)
            with bench.target.database() as url:
                run = _Run(bench, source_url, process_id, url)
                result.repetitions.append(run.measure(seconds))
                result.latencies_ms += run.latencies_ms
    result.percentiles_ms = percentiles(result.latencies_ms)
    return result


@contextmanager
def _source(bench: Bench) -> Iterator[tuple[str, int | None]]:
    if bench.source_url is not None:
        with bench.own_database(bench.source_url):
            yield bench.source_url, None
        return
    with start_mysql(options=SOURCE_OPTIONS) as server:
        yield server.url, server.process_id


class _Run:
    """One run of the engine under the load."""

    def __init__(self, bench: Bench, source: str, process_id: int | None, url: str) -> None:
        self._bench = bench
        self._source = source
        self._source_process = process_id
        self._url = url
        self.latencies_ms: list[float] = []

    def measure(self, seconds: float) -> Repetition:
        """Start the engine, wait until it follows, offer the load and record the latencies."""
        with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
            folder = Path(name)
            config = write_config(folder, self._source, self._url)
            engine = MeasuredProcess(engine_command(config), folder / "engine.log")
            try:
                last = self._wait_until_following(engine)
                source_before = cpu_seconds(self._source_process)
                target_before = cpu_seconds(self._bench.target.process_id)
                self._offer(engine, config, seconds, last)
                source_used = difference(source_before, lambda: cpu_seconds(self._source_process))
                target_used = difference(
                    target_before, lambda: cpu_seconds(self._bench.target.process_id)
                )
                usage = engine.stop()
            finally:
                engine.kill()
            self._check()
        return Repetition(
            seconds=seconds,
            wall_seconds=usage.wall_seconds,
            engine_cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            source_cpu_seconds=source_used,
            target_cpu_seconds=target_used,
        )

    def _wait_until_following(self, engine: MeasuredProcess) -> int:
        """Insert rows until the last one has arrived; return its key."""
        table = f"{DATABASE}.{SBTEST.name}"
        exists, largest = (
            f"SELECT to_regclass('{table}') IS NOT NULL",
            f"SELECT max(id) FROM {table}",
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        with connect(self._source) as session, session.cursor() as cursor:
            while time.monotonic() < deadline and engine.running:
                cursor.execute(f"INSERT INTO {table} (k) VALUES (1)")
                written = int(cursor.lastrowid or NO_KEY)
                time.sleep(0.1)
                present = target.fetch_row(self._url, exists)[0]
                if present and target.fetch_row(self._url, largest)[0] == written:
                    return written
        raise TailraceError("the engine does not follow the source", hint=engine.output_tail())

    def _offer(self, engine: MeasuredProcess, config: Path, seconds: float, last: int) -> None:
        output = config.with_name("times")
        program = (sys.executable, "-P", "-m", "benchmarks.measurements.latency_writer")
        writer = MeasuredProcess((*program, config, str(RATE), str(seconds)), output)
        try:
            visible = self._poll(engine, last, int(RATE * seconds), DEADLINE_SECONDS + seconds)
            writer.wait(DEADLINE_SECONDS)
        finally:
            writer.kill()
        _, committed = read_times(output.read_bytes())
        self.latencies_ms = [(at - then) / 1e6 for at, then in zip(visible, committed, strict=True)]

    def _poll(
        self, engine: MeasuredProcess, last: int, count: int, longest_seconds: float
    ) -> array[int]:
        """The monotonic nanoseconds at which each of the ``count`` keys after ``last`` was visible.

        Raises TailraceError if no new key is visible after ``longest_seconds``.
        """
        visible = array("q")
        query = f"SELECT max(id) FROM {DATABASE}.{SBTEST.name}".encode()
        deadline = time.monotonic() + longest_seconds
        with psycopg.connect(self._url, autocommit=True) as connection:
            wire = connection.pgconn
            wire.prepare(b"poll", query)
            while len(visible) < count:
                largest = wire.exec_prepared(b"poll", []).get_value(0, 0)
                now = time.monotonic_ns()
                arrived = int(largest or NO_KEY) - last - len(visible)
                visible.extend([now] * arrived)
                if not arrived and now / 1e9 > deadline:
                    raise TailraceError(
                        "rows do not arrive in the target", hint=engine.output_tail()
                    )
                time.sleep(POLL_SECONDS)
        return visible

    def _check(self) -> None:
        with connect(self._source) as session:
            expected = table_sums(session, SBTEST)
        found = target.sums(self._url, SBTEST)
        if found != expected:
            raise TailraceError(f"the target holds {found}, the source {expected}")
