"""
The results as pictures, by matplotlib (the extra ``bench``).

The idea: one picture answers one question, with the limit beside the engine wherever there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from engine.bench.result import Result
from engine.errors import ConfigError

__all__ = ["draw"]

DPI = 120
SIZE = (8.0, 4.2)
OURS, LIMIT, QUIET = "#1f6f8b", "#b8c4c9", "#8a8f93"


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw what these results hold; the files. Raises ConfigError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib", hint="pip install 'tailrace[bench]', or leave out --plot"
        ) from error
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, tuple[Callable[[Any, list[Result]], None], list[Result]]] = {
        "throughput": (
            _throughput,
            [r for r in results if r.name.startswith(("stream", "snapshot"))],
        ),
        "decode": (_throughput, [r for r in results if r.name.startswith("decode")]),
        "latency": (_latency, [r for r in results if r.latencies_ms]),
        "lag": (_lag, [r for r in results if r.name == "stream-insert" and r.commits]),
        "rows": (_progress, [r for r in results if sum(c.rows for c in r.commits) > 0]),
        "columns": (_columns, [r for r in results if r.name.startswith("columns-")]),
        "tables": (_tables, [r for r in results if r.name.startswith("tables-")]),
    }
    return [
        _picture(folder / f"{name}.png", paint, found)
        for name, (paint, found) in pictures.items()
        if found
    ]


def _picture(path: Path, paint: Callable[[Any, list[Result]], None], found: list[Result]) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    paint(axes, found)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    return path


def _throughput(axes: Any, found: list[Result]) -> None:
    height = 0.38
    for place, result in enumerate(reversed(found)):
        fields = result.to_json()
        rate, limit = fields["rows_per_second"] / 1e3, fields["limit_rows_per_second"]
        axes.barh(place + height / 2, rate, height, color=OURS, label="Tailrace")
        label = f"{rate:,.0f} k/s"
        if limit:
            axes.barh(place - height / 2, limit / 1e3, height, color=LIMIT, label="limit")
            axes.text(limit / 1e3, place - height / 2, f" {next(iter(result.limits))}", va="center",
                      fontsize=8, color=QUIET)  # fmt: skip
            label += f"  ({fields['ratio_to_limit']:.2f} of the limit)"
        axes.text(rate, place + height / 2, f" {label}", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [result.name for result in reversed(found)])
    axes.set_xlabel("thousand rows per second")
    axes.margins(x=0.25)
    axes.set_xlim(left=0)


def _latency(axes: Any, found: list[Result]) -> None:
    for result in found:
        ordered = sorted(result.latencies_ms)
        shares = [100 * (n + 1) / len(ordered) for n in range(len(ordered))]
        axes.plot(ordered, shares, color=OURS)
        for name, ms in (result.percentiles_ms or {}).items():
            share = 100.0 if name == "max" else float(name[1:])
            axes.plot([ms], [share], "o", color=OURS)
            axes.annotate(f" {name}: {ms:.1f} ms", (ms, share), fontsize=9, va="top")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from commit on the source to visible in the target")
    axes.set_ylabel("% of rows")


def _lag(axes: Any, found: list[Result]) -> None:
    for result in found:
        start = result.commits[0].at
        left = [result.rows - done for done in accumulate(c.rows for c in result.commits)]
        times = [commit.at - start for commit in result.commits]
        axes.step(times, [rows / 1e3 for rows in left], where="post", color=OURS)
        axes.fill_between(times, [rows / 1e3 for rows in left], step="post", color=OURS, alpha=0.12)
    axes.set_xlabel("seconds since the engine took the pipeline over")
    axes.set_ylabel("thousand rows behind the source")
    axes.set_ylim(bottom=0)


def _progress(axes: Any, found: list[Result]) -> None:
    for result in found:
        start = result.commits[0].at
        done = [rows / 1e3 for rows in accumulate(c.rows for c in result.commits)]
        axes.plot([commit.at - start for commit in result.commits], done, label=result.name)
    axes.set_xlabel("seconds")
    axes.set_ylabel("thousand rows visible in the target")
    axes.legend(frameon=False, fontsize=8)


def _columns(axes: Any, found: list[Result]) -> None:
    widths = [int(result.name.rpartition("-")[2]) for result in found]
    costs = [1e6 / (result.rows_per_second or 1) for result in found]
    axes.plot(widths, costs, "o-", color=OURS)
    axes.set_xlabel("columns of the table, beside its key")
    axes.set_ylabel("microseconds a row, end to end")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _tables(axes: Any, found: list[Result]) -> None:
    names = [result.name for result in found]
    axes.bar(names, [(result.rows_per_second or 0) / 1e3 for result in found], color=OURS)
    axes.set_ylabel("thousand rows per second")
