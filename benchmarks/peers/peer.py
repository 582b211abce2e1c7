"""
What a peer is, what it is given, and what is told of it.

The idea: what is made ready once, such as a publisher with the same changes, is apart from the turn
that is measured, so that a turn can be repeated.
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

from benchmarks import target
from benchmarks.kept import Backlog, connect
from benchmarks.target import Target
from benchmarks.workloads import DATABASE, Workload
from engine.errors import TailraceError

__all__ = [
    "STREAMS",
    "CannotRun",
    "Peer",
    "PeerResult",
    "Ready",
    "Scene",
    "Turn",
    "address",
    "arrived",
    "beginning",
]

#: The results of a backlog that is applied.
STREAMS = frozenset(f"stream-{name}" for name in ("insert", "update", "single", "delete", "orders"))
ARRIVAL_DEADLINE_SECONDS = 1800.0
POLL_SECONDS = 0.01


class CannotRun(TailraceError):
    """A peer cannot run here, or not on this workload; the message says why."""


@dataclass(frozen=True)
class Scene:
    """What the engine was measured on.

    ``base`` is the URL of the target database from which each of its repetitions began, and
    ``prepare`` makes an empty database like it: the table as it was before the workload; both are
    None where nothing is applied. ``rows`` is a file for COPY with what a backlog of inserts
    inserts, taken from a target whose sums were right.
    """

    result: str
    workload: Workload
    source_url: str
    backlog: Backlog
    target: Target
    folder: Path
    base: str | None = None
    prepare: Callable[[str], None] | None = None
    rows: Path | None = None

    def is_right(self, url: str) -> bool:
        """Whether the target database at ``url`` holds what the source holds in the end."""
        return target.sums(url, self.workload.form) == self.backlog.after

    def is_equal(self, url: str) -> bool:
        """Whether it holds the same values after a backlog of inserts, however JSON is written."""
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
        """The table's name with its schema, the same on both sides."""
        return f"{DATABASE}.{self.workload.form.name}"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a peer; ``seconds`` are of its work alone, without its start where it can be told
    apart, as those of the engine are.
    """

    seconds: float
    wall_seconds: float
    correct: bool
    cpu_seconds: float | None = None
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class Ready:
    """A peer that stands ready: each call of ``turn`` is one run from the same beginning."""

    version: str
    turn: Callable[[], Turn]
    note: str = ""


class Peer(Protocol):
    """Another program that does what some of the measurements do."""

    name: str
    #: The names of the results that it takes part in.
    results: frozenset[str]

    def ready(self, scene: Scene) -> AbstractContextManager[Ready]:
        """Make ready what can be used for all turns. Raises ``TailraceError`` with the reason."""


class PeerResult(msgspec.Struct, kw_only=True):
    """All turns of one peer; ``reason`` says why there are none, or fewer than were wanted."""

    name: str
    version: str | None = None
    note: str | None = None
    turns: list[Turn] = []
    reason: str | None = None

    def median(self, field: str) -> float | None:
        """Of a field of the turns; None where it is unknown."""
        found = [getattr(turn, field) for turn in self.turns]
        return None if not found or None in found else float(median(found))

    def to_json(self, rows: int, engine_rate: float | None) -> dict[str, Any]:
        """The fields that others may rely on; null where one does not apply."""
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
            "correct": all(turn.correct for turn in self.turns) if self.turns else None,
            "reason": self.reason,
            "wall_seconds": _rounded(self.median("wall_seconds"), 3),
            "note": self.note,
        }


def address(url: str) -> dict[str, Any]:
    """Host, port, user, password and database of a server's URL, by these names."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or (5432 if parts.scheme.startswith("postgres") else 3306),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.removeprefix("/")),
    }


def beginning(backlog: Backlog) -> dict[str, Any]:
    """Where the workload begins in the log: ``file``, ``offset`` and, if there are any, ``gtid``.

    Where the position holds GTIDs alone, the file is the log's first one: a reader that goes by
    GTIDs does not begin there.
    """
    position = msgspec.json.decode(backlog.position, type=dict[str, Any])
    return {"file": backlog.files[0], "offset": 4} | position


def arrived(scene: Scene, url: str, check: Callable[[], None]) -> None:
    """Wait until the workload's last change is seen in the target database at ``url``.

    ``check`` is called now and then, and raises if waiting is of no use any more. Raises
    ``TailraceError`` after half an hour.
    """
    query = f"SELECT {_last_change(scene)}".encode()
    deadline = time.monotonic() + ARRIVAL_DEADLINE_SECONDS
    with psycopg.connect(url, autocommit=True, options=target.TIMEOUT) as connection:
        while connection.execute(query, prepare=True).fetchone() != (True,):
            check()
            if time.monotonic() > deadline:
                raise TailraceError("the last change does not arrive in the target")
            time.sleep(POLL_SECONDS)


def _last_change(scene: Scene) -> str:
    """A condition that is true once the last of the workload's changes is there."""
    workload, row = scene.workload, f"SELECT FROM {scene.table} WHERE id = "
    if workload.kind == "insert":
        return f"EXISTS ({row} {workload.changes})"
    last = workload.touched()[-1]
    if workload.kind == "delete":
        return f"NOT EXISTS ({row} {last})"
    with closing(connect(scene.source_url)) as session, session.cursor() as cursor:
        cursor.execute(f"SELECT k, c FROM {scene.table} WHERE id = {last}")
        k, c = cursor.fetchone() or (0, "")
    return f"EXISTS ({row} {last} AND k = {k} AND c = '{c}')"


def _rounded(number: float | None, digits: int) -> float | None:
    if number is None:
        return None
    return round(number, digits) if digits else round(number)
