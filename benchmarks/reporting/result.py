"""
Results: the repetitions of one measurement, and the JSON form that is made of them.

A ``Result`` holds every repetition. ``to_json`` reduces it to medians and curves. Tables, plots and
the report read the JSON form only, so they can be made again from a saved file.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.harness.target import Committed
from benchmarks.peers.peer import PeerResult
from sinks.postgres import accelerator as encoder
from sources.mysql.codec import accelerator as decoder

__all__ = [
    "Repetition",
    "Result",
    "describe_machine",
    "in_short",
    "percentiles",
    "short",
    "steady_seconds",
]

PERCENTILES = (50, 90, 99, 100)
#: The percentiles that the curve of many samples consists of.
QUANTILES = (*range(100), 99.2, 99.5, 99.8, 99.9, 99.95, 99.99, 100)
MOST_POINTS = 400


class Repetition(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the engine.

    ``seconds`` is the time from its first transaction in the target to the commit of the last row;
    with far servers it is ``steady_seconds``. ``wall_seconds`` is the time of the whole process,
    with the start of the interpreter. ``start_seconds`` is the time from the start of the process
    to the commit of its first rows.
    """

    seconds: float
    wall_seconds: float
    engine_cpu_seconds: float
    peak_memory_mb: float
    source_cpu_seconds: float | None = None
    target_cpu_seconds: float | None = None
    start_seconds: float | None = None


class Result(msgspec.Struct, kw_only=True):
    """All repetitions of one measurement and of its limits.

    The engine's ratio is to the first of ``limits``. If that is the engine itself, its starts are
    ``limit_start_seconds``, and its processor times ``limit_cpu_seconds``. ``commits`` are those of
    the last repetition, ``latencies_ms`` the samples of all repetitions. ``bytes`` is the size of
    the log, ``workload`` describes the rows, and ``steps`` are CPU seconds by step.
    """

    name: str
    rows: int
    bytes: int = 0
    workload: dict[str, Any] | None = None
    repetitions: list[Repetition] = []
    limits: dict[str, list[float]] = {}
    limit_start_seconds: list[float] = []
    limit_cpu_seconds: list[float] = []
    commits: list[Committed] = []
    latencies_ms: list[float] = []
    percentiles_ms: dict[str, float] | None = None
    steps: dict[str, float] | None = None
    peers: list[PeerResult] = []

    def median(self, field: str) -> float | None:
        """The median of a field over the repetitions; None if a repetition does not know it."""
        found = [getattr(repetition, field) for repetition in self.repetitions]
        return None if not found or None in found else float(median(found))

    @property
    def rows_per_second(self) -> float | None:
        """The rate by the median of ``seconds``; None for a single row."""
        seconds = self.median("seconds")
        return self.rows / seconds if seconds and self.rows > 1 else None

    def limit_rates(self) -> dict[str, float]:
        """The rows per second of each limit, by the median of its times."""
        return {name: self.rows / median(seconds) for name, seconds in self.limits.items()}

    def to_json(self) -> dict[str, Any]:
        """The fields of the result; null where one does not apply.

        The fields up to ``percentiles_ms`` keep their names and their order.
        """
        rate, limits = self.rows_per_second, self.limit_rates()
        limit = next(iter(limits.values()), None)
        seconds = self.median("seconds")
        times = [repetition.seconds for repetition in self.repetitions]
        memory = [repetition.peak_memory_mb for repetition in self.repetitions]
        return {
            "name": self.name,
            "rows": self.rows,
            "seconds": _rounded(seconds, 3),
            "rows_per_second": _rounded(rate),
            "limit_rows_per_second": _rounded(limit),
            "ratio_to_limit": _rounded(rate / limit, 3) if rate and limit else None,
            "engine_cpu_seconds": _rounded(self.median("engine_cpu_seconds"), 3),
            "peak_memory_mb": _rounded(self.median("peak_memory_mb"), 1),
            "percentiles_ms": self.percentiles_ms,
            "seconds_range": [_rounded(min(times), 3), _rounded(max(times), 3)] if times else None,
            "wall_seconds": _rounded(self.median("wall_seconds"), 3),
            "mb_per_second": _rounded(self.bytes / 1e6 / seconds, 1)
            if seconds and self.bytes
            else None,
            "source_cpu_seconds": _rounded(self.median("source_cpu_seconds"), 2),
            "target_cpu_seconds": _rounded(self.median("target_cpu_seconds"), 2),
            "limits": {name: _rounded(each) for name, each in limits.items()},
            "repetitions": len(self.repetitions),
            "peak_memory_mb_max": _rounded(max(memory), 1) if memory else None,
            "log_bytes_per_row": _rounded(self.bytes / self.rows, 1) if self.bytes else None,
            "start_seconds": _rounded(self.median("start_seconds"), 2),
            "limit_start_seconds": _rounded(
                median(self.limit_start_seconds) if self.limit_start_seconds else None, 2
            ),
            "limit_engine_cpu_seconds": _rounded(
                median(self.limit_cpu_seconds) if self.limit_cpu_seconds else None, 3
            ),
            "workload": self.workload,
            "steps_cpu_seconds": self.steps,
            "progress": self._progress(),
            "latency_quantiles_ms": quantiles(self.latencies_ms),
            "peers": [peer.to_json(self.rows, rate) for peer in self.peers],
        }

    def _progress(self) -> list[tuple[float, int]] | None:
        """Points of the progress: seconds since the first commit, and the rows visible then."""
        if not self.commits:
            return None
        start, done = self.commits[0].at, accumulate(commit.rows for commit in self.commits)
        points = [
            (round(commit.at - start, 4), rows)
            for commit, rows in zip(self.commits, done, strict=True)
        ]
        step = max(1, len(points) // MOST_POINTS)
        return [*points[:-1:step], points[-1]]


def steady_seconds(commits: Sequence[Committed], rows: int) -> float | None:
    """The time that ``rows`` rows take at the rate between the first and the last commit of rows.
    None if all rows were committed at once, or the times are unknown.
    """
    with_rows = [commit for commit in commits if commit.rows]
    if not with_rows:
        return None
    first = with_rows[0].at
    # A transaction with savepoints has several entries, of the same time.
    later = sum(commit.rows for commit in with_rows if commit.at > first)
    return (with_rows[-1].at - first) * rows / later if later else None


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """The nearest-rank percentiles and the maximum of the samples, of which there must be one."""
    ordered = sorted(samples)
    names = ["max" if percent == 100 else f"p{percent}" for percent in PERCENTILES]
    return {
        name: _nearest(ordered, percent) for name, percent in zip(names, PERCENTILES, strict=True)
    }


def quantiles(samples: Sequence[float]) -> list[tuple[float, float]] | None:
    """The samples as a curve of (percent, percentile); None if there are no samples."""
    ordered = sorted(samples)
    return [(percent, _nearest(ordered, percent)) for percent in QUANTILES] if ordered else None


def _nearest(ordered: Sequence[float], percent: float) -> float:
    rank = max(0, ceil(len(ordered) * percent / 100) - 1)
    return round(ordered[rank], 3)


def _rounded(number: float | None, digits: int = 0) -> float | None:
    if number is None:
        return None
    return round(number, digits) if digits else round(number)


def describe_machine(**servers: Mapping[str, str]) -> dict[str, Any]:
    """The machine and the software of a run; ``servers`` are the servers' versions and settings."""
    return {
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "row_decoder": "compiled" if decoder.AVAILABLE else "python",
        "copy_encoder": "compiled" if encoder.AVAILABLE else "python",
        **servers,
    }


def _proc(path: str, field: str) -> str:
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def in_short(fields: Mapping[str, Any]) -> str:
    """One line with the main figures of a result in its JSON form."""
    if fields["percentiles_ms"] is not None:
        return ", ".join(f"{name} {ms:.2f} ms" for name, ms in fields["percentiles_ms"].items())
    if fields.get("steps_cpu_seconds"):
        steps = fields["steps_cpu_seconds"].items()
        return "CPU s per million rows: " + ", ".join(f"{name} {used:.2f}" for name, used in steps)
    if fields["rows_per_second"] is None:
        return "" if fields["seconds"] is None else f"{fields['seconds']:.2f} s"
    limits = ", ".join(f"{name} {short(rate)}" for name, rate in fields["limits"].items())
    near = fields.get("limit_start_seconds")
    starts = "" if near is None else f"; start {fields['start_seconds']:.2f} s ({near:.2f} s)"
    return (
        f"{short(fields['rows_per_second'])} rows/s" + (f" ({limits})" if limits else "") + starts
    )


def short(number: float | None) -> str:
    """A number with three significant digits: 1.39 M, 108 k, 95; an empty text for None."""
    if number is None:
        return ""
    for limit, unit in ((1e6, " M"), (1e3, " k")):
        if number >= limit * 0.9995:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}"
