"""
The true lag of a target, measured without the engine: commits by the writer's clock, and rows as a
reader of the target sees them.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psycopg

from engine.sandbox.proxy import Proxy
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

__all__ = ["INSERT", "Followed", "Reported", "Rig", "SteadyWriter", "TrueLag", "lag_of"]

HEARTBEAT_SECONDS = 2.0
COMMIT_SECONDS = 0.02
INSERT = "INSERT INTO t (v) VALUES (repeat('x', 200))"
POLL_SECONDS = 0.002
REPORT_SECONDS = 0.03
#: What the measurement itself may be wrong by: the distance of two commits, and what passes until
#: the engine knows that the target has committed.
UNSURE_SECONDS = 0.15
SHARE = 0.1


class Thread:
    """Calls ``step`` again and again on a thread of its own while it is entered."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self) -> None:
        """One step."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self.step()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the step in progress."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(10)


class SteadyWriter(Thread):
    """Commits a row with the next number at intervals. ``commits`` has the times before and after
    each commit, the first for the number 1.
    """

    def __init__(self, writer: Writer, interval: float, statement: str) -> None:
        super().__init__(interval)
        self._writer, self._statement = writer, statement
        self.commits: list[tuple[float, float]] = []

    def step(self) -> None:
        """Commit a row."""
        before = time.time()
        self._writer(self._statement)
        self.commits.append((before, time.time()))


class Reported(NamedTuple):
    """A lag that the engine has reported between two times."""

    begun: float
    ended: float
    lag_seconds: float | None


def lag_of(port: int) -> float | None:
    """The lag that the engine of this port reports, without asking its source; None if it does not
    follow the log. Raises OSError if there is no engine.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        found = json.load(connection.getresponse())
    finally:
        connection.close()
    lag: float | None = found["lag_seconds"]
    return lag if found["state"] == "streaming" else None


def _is_level(engine: EngineProcess) -> bool:
    assert engine.process.poll() is None, engine.tail()
    with suppress(OSError):
        return lag_of(engine.port) == 0
    return False


class _Reader(Thread):
    """Asks the engine for its lag, at an address that needs no answer of the source."""

    def __init__(self, port: int) -> None:
        super().__init__(REPORT_SECONDS)
        self._port = port
        self.found: list[Reported] = []

    def step(self) -> None:
        """Ask once."""
        with suppress(OSError):
            begun = time.time()
            lag = lag_of(self._port)
            self.found.append(Reported(begun, time.time(), lag))


class TrueLag(Thread):
    """When each number was visible in ``table`` of the target at ``url``."""

    def __init__(self, url: str, table: str) -> None:
        super().__init__(POLL_SECONDS)
        self._connection = psycopg.connect(url, autocommit=True)
        self._query = f"SELECT coalesce(max(id), 0) FROM {table}"
        #: The largest visible number, and between which times it became that.
        self._seen: list[tuple[int, float, float]] = [(0, 0.0, 0.0)]
        self._polled = 0.0

    def step(self) -> None:
        """Look once."""
        begun = time.time()
        row = self._connection.execute(self._query).fetchone()
        assert row is not None
        if row[0] > self._seen[-1][0]:
            self._seen.append((row[0], self._polled, time.time()))
        self._polled = begun

    @property
    def largest(self) -> int:
        """The largest visible number."""
        return self._seen[-1][0]

    def visible(self, at: float, *, surely: bool) -> int:
        """The largest number that was surely, or possibly, visible at a time."""
        times = [seen[2 if surely else 1] for seen in self._seen]
        return self._seen[bisect_right(times, at) - 1][0]

    def appeared(self, number: int) -> float:
        """When a number became visible."""
        seen = next(it for it in self._seen if it[0] >= number)
        return (seen[1] + seen[2]) / 2

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Rig:
    """Watches an engine, its target, and the writer of its source."""

    def __init__(self, port: int, target: str, table: str, steady: SteadyWriter) -> None:
        self._reader = _Reader(port)
        self.truth = TrueLag(target, table)
        self.steady = steady

    def __enter__(self) -> Rig:
        self.truth.start()
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for thread in (self.steady, self._reader, self.truth):
            thread.stop()
        self.truth.close()

    @property
    def level(self) -> bool:
        """Whether everything that was committed is visible."""
        return self.truth.largest >= len(self.steady.commits)

    def bounds(self, begun: float, ended: float) -> tuple[float, float]:
        """The least and the greatest true lag between two times."""
        commits = self.steady.commits
        first = self.truth.visible(ended, surely=False)
        least = max(0.0, begun - commits[first][1]) if first < len(commits) else 0.0
        last = self.truth.visible(begun - UNSURE_SECONDS, surely=True)
        greatest = max(0.0, ended - commits[last][0]) if last < len(commits) else 0.0
        return least, greatest

    def reported(self, since: float, until: float) -> list[Reported]:
        """What the engine has reported between two times."""
        return [it for it in self._reader.found if since <= it.begun and it.ended <= until]

    def wrong(
        self,
        since: float,
        until: float,
        *,
        unknown_until: float = 0.0,
        early_seconds: float = 0.0,
    ) -> list[tuple[Any, ...]]:
        """What was reported and is not true. Until ``unknown_until`` the source may seem idle. The
        times in its log may be too early by ``early_seconds``.
        """
        wrong: list[tuple[Any, ...]] = []
        for it in self.reported(since, until):
            least, greatest = self.bounds(it.begun, it.ended)
            low = least * (1 - SHARE) - UNSURE_SECONDS
            high = greatest * (1 + SHARE) + UNSURE_SECONDS + early_seconds
            if it.lag_seconds == 0 and it.begun < unknown_until:
                continue
            if it.lag_seconds is None or not low <= it.lag_seconds <= high:
                wrong.append((round(it.begun - since, 2), it.lag_seconds, least, greatest))
        return wrong

    def latencies(self) -> list[float]:
        """The true time from commit to commit, of each row."""
        return [
            self.truth.appeared(number) - sum(self.steady.commits[number - 1]) / 2
            for number in range(1, len(self.steady.commits) + 1)
        ]

    def lasting(self, seconds: float) -> Callable[[], bool]:
        """A condition that holds after so many seconds."""
        end = time.monotonic() + seconds
        return lambda: time.monotonic() >= end


class Followed:
    """Two tables of a database, one of which an engine mirrors, with a proxy before each side."""

    def __init__(self, server: AnyServer, target: AnyServer, database: str, url: str) -> None:
        self.source, self.target = Proxy(server.host, server.port), Proxy(target.host, target.port)
        self.writer, self.other = Writer(server, database), Writer(server, database)
        self.writer(
            "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v TEXT)", "CREATE TABLE u (id INT)"
        )
        self.source_url = server.url.replace(f":{server.port}", f":{self.source.port}")
        self.target_url = url.replace(f":{target.port}/", f":{self.target.port}/")
        self.url, self.table = url, f'"{database}".t'
        self.database = database

    def engine(self, folder: Path, more: str = "") -> EngineProcess:
        """An engine that is level."""
        config = write_config(
            folder, self.source_url, self.target_url, f"{self.database}.t", more=more
        )
        text = config.read_text()
        config.write_text(
            text.replace("[sink]", f"heartbeat_seconds = {HEARTBEAT_SECONDS}\n[sink]")
        )
        engine = EngineProcess(config)
        wait_until(lambda: _is_level(engine), timeout=60, what="an engine that is level")
        return engine

    def rig(self, engine: EngineProcess, interval: float = COMMIT_SECONDS) -> Rig:
        """What watches the engine."""
        steady = SteadyWriter(self.writer, interval, INSERT)
        return Rig(engine.port, self.url, self.table, steady)

    def close(self) -> None:
        """Close the proxies and the connections."""
        for each in (self.source, self.target, self.writer.connection, self.other.connection):
            each.close()
