"""
The interface of a peer: its input, its runs and its result.

A peer is prepared once, for example by starting a publisher with the same changes. The measured run
is separate from that, so that it can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import msgspec
import psycopg

from benchmarks.harness import target
from benchmarks.harness.source import Backlog, connect
from benchmarks.harness.target import Target
from benchmarks.workloads import DATABASE, Workload
from engine.errors import TailraceError

__all__ = [
    "STREAMS",
    "CannotRun",
    "Peer",
    "PeerResult",
    "PreparedPeer",
    "Scenario",
    "PeerRun",
    "address",
    "wait_for_last_change",
    "start_position",
]

#: The names of the results in which a backlog is applied.
STREAMS = frozenset(f"stream-{name}" for name in ("insert", "update", "single", "delete", "orders"))
ARRIVAL_DEADLINE_SECONDS = 1800.0
POLL_SECONDS = 0.01


class CannotRun(TailraceError):
    """A peer cannot run here, or not on this workload; the message says why."""


@dataclass(frozen=True)
class Scenario:
    """The source, target and workload of one of the engine's results, for a peer to repeat.

    ``base`` is the URL of the target database that the engine's repetitions started from: the table
    before the workload. ``make_base`` brings an empty database at a URL to the same state. Both are
    None for results in which nothing is applied. ``rows`` is a file for COPY with the rows of a
    backlog of inserts, exported from a target whose sums were correct.
    """

    result: str
    workload: Workload
    source_url: str
    backlog: Backlog
    target: Target
    folder: Path
    base: str | None = None
    make_base: Callable[[str], None] | None = None
    rows: Path | None = None

    def is_right(self, url: str) -> bool:
        """Whether the target database at ``url`` has the sums of the source after the workload."""
        return target.sums(url, self.workload.table) == self.backlog.after

    def is_equal(self, url: str) -> bool:
        """Whether it holds the same values after a backlog of inserts, in any text form of JSON."""
        assert self.rows is not None
        rows, expected = f"SELECT to_jsonb(t) FROM {self.table} t", "SELECT to_jsonb(e) FROM e"
        with psycopg.connect(url, options=target.TIMEOUT) as connection:
            cursor = connection.execute(f"CREATE TEMP TABLE e (LIKE {self.table})".encode())
            with self.rows.open("rb") as file, cursor.copy("COPY e FROM STDIN") as copy:
                while data := file.read(1 << 20):
                    copy.write(data)
            query = (
                f"SELECT (SELECT count(*) FROM ({rows} EXCEPT ALL {expected}) x)"
                f" + (SELECT count(*) FROM ({expected} EXCEPT ALL {rows}) x)"
            )
            return cursor.execute(query.encode()).fetchone() == (0,)

    @property
    def table(self) -> str:
        """The table's qualified name, which is the same on both sides."""
        return f"{DATABASE}.{self.workload.table.name}"


class PeerRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a peer.

    ``seconds`` is the time of its work. It leaves out the peer's start where that can be separated,
    as it does for the engine.
    """

    seconds: float
    wall_seconds: float
    correct: bool
    cpu_seconds: float | None = None
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class PreparedPeer:
    """A prepared peer; each call of ``run`` is one run from the same starting state."""

    version: str
    run: Callable[[], PeerRun]
    note: str = ""


class Peer(Protocol):
    """Another program that can do the work of some of the engine's measurements."""

    name: str
    #: The names of the results that it takes part in.
    results: frozenset[str]

    def prepare(self, scenario: Scenario) -> AbstractContextManager[PreparedPeer]:
        """Do what all runs share. Raises ``TailraceError``, with the reason, if it cannot run."""


class PeerResult(msgspec.Struct, kw_only=True):
    """All runs of one peer. If runs are missing, ``reason`` says why."""

    name: str
    version: str | None = None
    note: str | None = None
    runs: list[PeerRun] = []
    reason: str | None = None

    def median(self, field: str) -> float | None:
        """The median of a field over the runs; None if a run does not know it."""
        found = [getattr(run, field) for run in self.runs]
        return None if not found or None in found else float(median(found))

    def to_json(self, rows: int, engine_rate: float | None) -> dict[str, Any]:
        """The fields in the results file; null where one does not apply."""
        seconds = self.median("seconds")
        rate = rows / seconds if seconds else None
        return {
            "name": self.name,
            "version": self.version,
            "seconds": _rounded(seconds, 3),
            "rows_per_second": _rounded(rate, 0),
            "cpu_seconds": _rounded(self.median("cpu_seconds"), 2),
            "peak_memory_mb": _rounded(self.median("peak_memory_mb"), 0),
            "engine_is_faster": _rounded(engine_rate / rate if engine_rate and rate else None, 2),
            "correct": all(run.correct for run in self.runs) if self.runs else None,
            "reason": self.reason,
            "wall_seconds": _rounded(self.median("wall_seconds"), 3),
            "note": self.note,
        }


def address(url: str) -> dict[str, Any]:
    """The parts of a server's URL by name: host, port, user, password and database."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or (5432 if parts.scheme.startswith("postgres") else 3306),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.removeprefix("/")),
    }


def start_position(backlog: Backlog) -> dict[str, Any]:
    """The position before the workload: ``file``, ``offset`` and, if the source has them, ``gtid``.

    If the engine's position holds GTIDs only, the file is the log's first one. A reader that starts
    by GTID does not use it.
    """
    position = msgspec.json.decode(backlog.position, type=dict[str, Any])
    return {"file": backlog.files[0], "offset": 4} | position


def wait_for_last_change(scenario: Scenario, url: str, check: Callable[[], None]) -> None:
    """Wait until the workload's last change is visible in the target database at ``url``.

    ``check`` is called between the queries and may raise to stop waiting. Raises ``TailraceError``
    after half an hour.
    """
    query = f"SELECT {_last_change(scenario)}".encode()
    deadline = time.monotonic() + ARRIVAL_DEADLINE_SECONDS
    with psycopg.connect(url, autocommit=True, options=target.TIMEOUT) as connection:
        while connection.execute(query, prepare=True).fetchone() != (True,):
            check()
            if time.monotonic() > deadline:
                raise TailraceError("the last change did not arrive in the target in time")
            time.sleep(POLL_SECONDS)


def _last_change(scenario: Scenario) -> str:
    """An SQL condition that is true once the workload's last change is applied."""
    workload, row = scenario.workload, f"SELECT FROM {scenario.table} WHERE id = "
    if workload.kind == "insert":
        return f"EXISTS ({row} {workload.changes})"
    last = workload.touched()[-1]
    if workload.kind == "delete":
        return f"NOT EXISTS ({row} {last})"
    with closing(connect(scenario.source_url)) as session, session.cursor() as cursor:
        cursor.execute(f"SELECT k, c FROM {scenario.table} WHERE id = {last}")
        k, c = cursor.fetchone() or (0, "")
    return f"EXISTS ({row} {last} AND k = {k} AND c = '{c}')"


def _rounded(number: float | None, digits: int) -> float | None:
    if number is None:
        return None
    return round(number, digits) if digits else round(number)
