"""
From the commit on the source to the row being visible in the target, under a steady load.

The idea: a query on the target asks for the largest key every half millisecond, all the time. So a
row's moment is late by half a millisecond at most, and never early, as a look at the target's own
commit times would be: it takes them before the commit is on disk.
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

from benchmarks import target
from benchmarks.kept import SOURCE_OPTIONS, connect, form_sums, source_facts, write_backlog
from benchmarks.processes import Started, cpu_seconds, difference
from benchmarks.result import Repetition, Result, percentiles
from benchmarks.stream import Bench, engine_words, write_config
from benchmarks.workloads import DATABASE, SBTEST, Workload
from benchmarks.writer import read_times
from engine.errors import TailraceError
from engine.sandbox import start_mysql

__all__ = ["measure_latency"]

RATE = 1_000
LONGEST_SECONDS = 15.0
SHORTEST_SECONDS = 1.0
LOOK_SECONDS = 0.0005
DEADLINE_SECONDS = 60.0
#: The last key of nothing.
NOTHING = 0


def measure_latency(bench: Bench, name: str, rows: int) -> Result:
    """Offer single-row transactions at a steady rate; ``rows`` scales for how long."""
    seconds = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, LONGEST_SECONDS * rows / 1_000_000))
    workload = Workload("latency", SBTEST, "insert", 0, 1)
    result = Result(name=name, rows=int(RATE * seconds), workload=workload.shape())
    for number in range(1, bench.repeat + 1):
        bench.tell(f"{name}: {number} of {bench.repeat}")
        with _source(bench) as (source_url, process_id):
            bench.facts.update(source_facts(source_url))
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
    """One engine, one load."""

    def __init__(self, bench: Bench, source: str, process_id: int | None, url: str) -> None:
        self._bench = bench
        self._source = source
        self._source_process = process_id
        self._url = url
        self.latencies_ms: list[float] = []

    def measure(self, seconds: float) -> Repetition:
        """Start the engine, wait until it follows, offer the load, and look."""
        with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
            folder = Path(name)
            config = write_config(folder, self._source, self._url)
            engine = Started(engine_words(config), folder / "engine.log")
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

    def _wait_until_following(self, engine: Started) -> int:
        """Write rows until one has arrived; the last key that was given."""
        table = f"{DATABASE}.{SBTEST.name}"
        deadline = time.monotonic() + DEADLINE_SECONDS
        with connect(self._source) as session, session.cursor() as cursor:
            while time.monotonic() < deadline and engine.running:
                cursor.execute(f"INSERT INTO {table} (k) VALUES (1)")
                written = int(cursor.lastrowid or NOTHING)
                time.sleep(0.1)
                present = target.ask(self._url, f"SELECT to_regclass('{table}') IS NOT NULL")[0]
                if present and target.ask(self._url, f"SELECT max(id) FROM {table}")[0] == written:
                    return written
        raise TailraceError("the engine does not follow the source", hint=engine.last_words())

    def _offer(self, engine: Started, config: Path, seconds: float, last: int) -> None:
        output = config.with_name("times")
        program = (sys.executable, "-m", "benchmarks.writer")
        writer = Started((*program, config, str(RATE), str(seconds)), output)
        try:
            seen = self._look(engine, last, int(RATE * seconds), DEADLINE_SECONDS + seconds)
            writer.wait(DEADLINE_SECONDS)
        finally:
            writer.kill()
        _, committed = read_times(output.read_bytes())
        self.latencies_ms = [(at - then) / 1e6 for at, then in zip(seen, committed, strict=True)]

    def _look(self, engine: Started, last: int, count: int, longest_seconds: float) -> array[int]:
        """When each of the next ``count`` keys was seen first, on the monotonic clock."""
        seen = array("q")
        query = f"SELECT max(id) FROM {DATABASE}.{SBTEST.name}".encode()
        deadline = time.monotonic() + longest_seconds
        with psycopg.connect(self._url, autocommit=True) as connection:
            wire = connection.pgconn
            wire.prepare(b"look", query)
            while len(seen) < count:
                answer = wire.exec_prepared(b"look", []).get_value(0, 0)
                now = time.monotonic_ns()
                news = int(answer or NOTHING) - last - len(seen)
                seen.extend([now] * news)
                if not news and now / 1e9 > deadline:
                    raise TailraceError("rows do not arrive", hint=engine.last_words())
                time.sleep(LOOK_SECONDS)
        return seen

    def _check(self) -> None:
        with connect(self._source) as session:
            expected = form_sums(session, SBTEST)
        found = target.sums(self._url, SBTEST)
        if found != expected:
            raise TailraceError(f"the target holds {found}, the source {expected}")
