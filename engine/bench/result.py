"""
What was measured, for people and for machines.

The idea: a result holds every repetition as it was; medians are taken of them when it is shown.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from engine.bench.target import Committed

__all__ = ["Repetition", "Result", "describe_machine", "show"]

PERCENTILES = (50, 90, 99, 100)


class Repetition(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the engine.

    ``seconds`` count from its first transaction in the target to the commit of the last row;
    ``wall_seconds`` are those of the whole process, the start of the interpreter included.
    """

    seconds: float
    wall_seconds: float
    engine_cpu_seconds: float
    peak_memory_mb: float
    source_cpu_seconds: float | None = None
    target_cpu_seconds: float | None = None


class Result(msgspec.Struct, kw_only=True):
    """All repetitions of one measurement, and of its limits in between them.

    The first of ``limits`` is the one that the engine is held against. ``commits`` are those of the
    last repetition, ``latencies_ms`` the samples of all.
    """

    name: str
    rows: int
    bytes: int = 0
    repetitions: list[Repetition] = []
    limits: dict[str, list[float]] = {}
    commits: list[Committed] = []
    latencies_ms: list[float] = []
    percentiles_ms: dict[str, float] | None = None

    def median(self, field: str) -> float | None:
        """Of a field of the repetitions; None where it is unknown."""
        found = [getattr(repetition, field) for repetition in self.repetitions]
        return None if not found or None in found else float(median(found))

    @property
    def rows_per_second(self) -> float | None:
        """By the median of ``seconds``."""
        seconds = self.median("seconds")
        return self.rows / seconds if seconds else None

    def limit_rates(self) -> dict[str, float]:
        """Rows per second of each limit, by its median."""
        return {name: self.rows / median(seconds) for name, seconds in self.limits.items()}

    def to_json(self) -> dict[str, Any]:
        """The fields that others may rely on first; null where one does not apply."""
        rate, limits = self.rows_per_second, self.limit_rates()
        limit = next(iter(limits.values()), None)
        seconds = self.median("seconds")
        times = [repetition.seconds for repetition in self.repetitions]
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
            "mb_per_second": _rounded(self.bytes / 1e6 / seconds, 1) if seconds else None,
            "source_cpu_seconds": _rounded(self.median("source_cpu_seconds"), 2),
            "target_cpu_seconds": _rounded(self.median("target_cpu_seconds"), 2),
            "limits": {name: _rounded(each) for name, each in limits.items()},
        }


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """The nearest-rank percentiles, and the largest, of samples that are there."""
    ordered = sorted(samples)
    found = {}
    for percent in PERCENTILES:
        rank = max(0, -(-len(ordered) * percent // 100) - 1)
        found["max" if percent == 100 else f"p{percent}"] = round(ordered[rank], 3)
    return found


def _rounded(number: float | None, digits: int = 0) -> float | None:
    if number is None:
        return None
    return round(number, digits) if digits else round(number)


def describe_machine(**versions: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
    }


def _proc(path: str, field: str) -> str:
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


COLUMNS: Mapping[str, tuple[str, str]] = {
    "rows": ("rows", ",.0f"),
    "seconds": ("s", ".2f"),
    "wall_seconds": ("whole s", ".2f"),
    "rows_per_second": ("rows/s", ",.0f"),
    "mb_per_second": ("MB/s", ",.0f"),
    "limit_rows_per_second": ("limit", ",.0f"),
    "ratio_to_limit": ("ratio", ".2f"),
    "engine_cpu_seconds": ("cpu s", ".2f"),
    "source_cpu_seconds": ("source", ".2f"),
    "target_cpu_seconds": ("target", ".2f"),
    "peak_memory_mb": ("MB", ".0f"),
}


def show(console: Console, results: Sequence[Result]) -> None:
    """A table, and below it what does not fit in."""
    table = Table()
    table.add_column("")
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right")
    for result in results:
        fields = result.to_json()
        cells = [
            "" if fields[name] is None else format(fields[name], form)
            for name, (_, form) in COLUMNS.items()
        ]
        table.add_row(result.name, *cells)
    console.print(table)
    for result in results:
        for name, rate in result.limit_rates().items():
            console.print(f"  {result.name}: {name}: {rate:,.0f} rows/s", highlight=False)
        if result.percentiles_ms is not None:
            text = ", ".join(f"{name} {ms:.2f} ms" for name, ms in result.percentiles_ms.items())
            console.print(f"  {result.name}: {text}", highlight=False)
