"""
Plots of the results, drawn by matplotlib (the extra ``bench``) as PNG and SVG files.

Each plot answers one question, which is its title, and shows the limits and the other programs next
to the engine. Plots are drawn from results in their JSON form. With one version of matplotlib the
same results give the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reporting.result import short
from engine.errors import ConfigError

__all__ = ["draw", "footnote", "need_matplotlib"]

DPI = 150
WIDTH = 8.6
HEIGHT = 4.6
OURS, LIMIT, PEER, INK, QUIET = "#136f8a", "#b3c0c6", "#dba15c", "#26323a", "#6a747a"
LINES = ("#136f8a", "#c8623b", "#6d8f3a", "#8a5fa8", "#c9a227", "#3f6fb5", "#a8476b", "#7d8890")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.grid": True,
    "grid.color": "#e8ecee",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "tailrace",
    "svg.fonttype": "none",
}

MOST_NINES = 4.2

#: A result in its JSON form.
Fields = Mapping[str, Any]


class Plot(NamedTuple):
    """The file name of a plot, the function that draws it, and the results that it shows."""

    name: str
    draw: Callable[[Any, Sequence[Fields]], None]
    shows: Callable[[Fields], bool]


class Bar(NamedTuple):
    """A bar with the label at its end."""

    rate: float
    color: str
    label: str


def need_matplotlib() -> None:
    """Raise ConfigError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib", hint="pip install 'tailrace[bench]', or leave out --plot"
        ) from error
    matplotlib.use("Agg")


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every plot that the results have figures for; return the files.

    Raises ConfigError if matplotlib is not installed.
    """
    need_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, draw_on, shows in PLOTS:
        found = [fields for fields in report["results"] if shows(fields)]
        if found:
            files += _save(folder / name, draw_on, found, footnote(report["machine"]))
    return files


def footnote(machine: Mapping[str, Any]) -> str:
    """The machine and the software in one line."""
    cores = f"{machine['cores']} cores" if "cores" in machine else ""
    memory = f"{machine['memory_gb']:.0f} GB" if "memory_gb" in machine else ""
    servers = [
        f"{title} {machine[name]['version']}"
        for name, title in (("mysql", "MySQL"), ("postgresql", "PostgreSQL"))
        if machine.get(name)
    ]
    python = f"Python {machine['python']}" if "python" in machine else ""
    parts = [machine.get("cpu", ""), cores, memory, *servers, python]
    return ", ".join(part for part in parts if part)


def _save(
    path: Path, draw_on: Callable[[Any, Sequence[Fields]], None], found: Sequence[Fields], note: str
) -> list[Path]:
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw_on(figure, found)
        figure.supxlabel(note, fontsize=7, color=QUIET, x=0.01, ha="left")
        files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
        for file in files:
            # Without the date the same results give the same file.
            metadata = {"Date": None} if file.suffix == ".svg" else {}
            figure.savefig(file, dpi=DPI, metadata=metadata)
        pyplot.close(figure)
    return files


# -- rates -----------------------------------------------------------------------------------------


def _throughput(figure: Any, found: Sequence[Fields]) -> None:
    _bars(figure, found, "How many rows per second reach PostgreSQL?")


def _decode(figure: Any, found: Sequence[Fields]) -> None:
    _bars(figure, found, "How many rows per second are decoded from a log file into tuples?")


def _bars(figure: Any, found: Sequence[Fields], title: str) -> None:
    groups = [_group(fields) for fields in found]
    figure.set_figheight(1.5 + 0.28 * sum(len(group) + 0.8 for group in groups))
    axes = figure.add_subplot()
    place, ticks = 0.0, []
    for group in groups:
        ticks.append(place + (len(group) - 1) / 2)
        for bar in group:
            axes.barh(place, bar.rate, 0.86, color=bar.color)
            weight = "bold" if bar.color == OURS else "normal"
            axes.annotate(
                bar.label,
                (bar.rate, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                weight=weight,
            )
            place += 1
        place += 0.8
    axes.set_yticks(ticks, [fields["name"] for fields in found], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(bar.rate for group in groups for bar in group))
    axes.xaxis.set_major_formatter(lambda rate, _: short(rate))
    axes.set_xlabel("rows per second (limits in grey, other programs in yellow)")
    axes.set_title(title, x=0)


def _group(fields: Fields) -> list[Bar]:
    """The bars of one result: the engine, its limits and the peers."""
    rate, ratio = fields["rows_per_second"], fields["ratio_to_limit"]
    label = f"Tailrace {short(rate)}" + (f", {ratio:.2f} of the limit" if ratio else "")
    bars = [Bar(rate, OURS, label)]
    for name, limit in fields["limits"].items():
        bars.append(Bar(limit, LIMIT, f"{name} {short(limit)}"))
    for peer in fields.get("peers") or ():
        if peer["rows_per_second"]:
            label = f"{peer['name']} {short(peer['rows_per_second'])}"
            bars.append(Bar(peer["rows_per_second"], PEER, label))
    return bars


# -- latency and backlog ---------------------------------------------------------------------------


def _latency(figure: Any, found: Sequence[Fields]) -> None:
    from matplotlib.ticker import LogLocator

    axes = figure.add_subplot()
    ticks = (0, 50, 90, 99, 99.9, 99.99)
    samples = max(fields["rows"] * max(1, fields["repetitions"]) for fields in found)
    for fields in found:
        curve = [(_nines(percent), ms) for percent, ms in fields["latency_quantiles_ms"]]
        axes.plot(*zip(*curve, strict=True), color=OURS, linewidth=2)
        for name in ("p50", "p90", "p99"):
            place, ms = _nines(float(name[1:])), fields["percentiles_ms"][name]
            axes.plot(place, ms, "o", color=OURS)
            axes.annotate(
                f"{name}  {ms:.1f} ms",
                (place, ms),
                (8, -12),
                textcoords="offset points",
                weight="bold",
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
    axes.yaxis.set_minor_formatter(lambda ms, _: "")
    axes.set_xticks([_nines(percent) for percent in ticks], [f"{percent} %" for percent in ticks])
    axes.set_xlim(0, min(MOST_NINES, log10(samples)))
    axes.set_xlabel("share of all rows")
    axes.set_ylabel("milliseconds from commit to visible")
    axes.set_title("How soon is a row visible, at 1,000 single-row transactions per second?", x=0)


def _nines(percent: float) -> float:
    """The place of a percentile on the axis, where 90 %, 99 %, 99.9 % ... are equally spaced."""
    return min(MOST_NINES, -log10(max(1e-9, 1 - percent / 100)))


def _lag(figure: Any, found: Sequence[Fields]) -> None:
    axes = figure.add_subplot()
    for fields, color in zip(found, LINES, strict=False):
        times, done = zip(*fields["progress"], strict=True)
        left = [100 * (1 - rows / done[-1]) for rows in done]
        axes.step(times, left, where="post", color=color, label=fields["name"], linewidth=1.6)
    axes.set_xlabel("seconds since the engine's first commit")
    axes.set_ylabel("% of the backlog that is not visible yet")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title("How fast is a backlog applied?", x=0)


# -- costs -----------------------------------------------------------------------------------------


def _rows(figure: Any, found: Sequence[Fields]) -> None:
    axes = figure.add_subplot()
    for fields, color in zip(found, LINES, strict=False):
        times, done = zip(*fields["progress"], strict=True)
        axes.plot(done, times, ".-", color=color, label=fields["name"], linewidth=1.4, markersize=4)
    axes.xaxis.set_major_formatter(lambda rows, _: short(rows))
    axes.set_xlabel("rows visible in the target")
    axes.set_ylabel("seconds")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title("What do more rows cost? A straight line is a constant cost per row", x=0)


def _columns(figure: Any, found: Sequence[Fields]) -> None:
    axes = figure.add_subplot()
    widths = [int(fields["name"].rpartition("-")[2]) for fields in found]
    for field, label, color in (
        ("seconds", "end to end, wall time", OURS),
        ("engine_cpu_seconds", "processor time of the engine, its start included", LINES[1]),
    ):
        costs = [1e6 * fields[field] / fields["rows"] for fields in found]
        axes.plot(widths, costs, "o-", color=color, label=label)
    axes.set_xticks(widths)
    axes.set_xlabel("columns besides the key: integers and short texts alternate")
    axes.set_ylabel("microseconds per row")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title("What do more columns cost?", x=0)


def _tables(figure: Any, found: Sequence[Fields]) -> None:
    panels = (
        ("tables-", "rows_per_second", "rows per second", "Do idle tables cost speed?"),
        ("first-row-", "seconds", "seconds", "How soon does the first row arrive?"),
    )
    for place, (prefix, field, label, title) in enumerate(panels, 1):
        chosen = [fields for fields in found if fields["name"].startswith(prefix)]
        axes = figure.add_subplot(1, 2, place)
        names = [f"{fields['name'].removeprefix(prefix)} idle tables" for fields in chosen]
        bars = axes.bar(names, [fields[field] for fields in chosen], 0.5, color=OURS)
        axes.bar_label(bars, fmt=short if place == 1 else "{:.2f} s", padding=3)
        axes.yaxis.set_major_formatter(lambda number, _: _tick(number))
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(label)
        axes.margins(y=0.15)
        axes.set_title(title, x=0)


def _tick(number: float) -> str:
    return short(number) if number >= 10 else f"{number:g}"


def _profile(figure: Any, found: Sequence[Fields]) -> None:
    figure.set_figheight(2.2 + 0.5 * len(found))
    axes = figure.add_subplot()
    names = [fields["name"] for fields in found]
    starts = [0.0] * len(found)
    for step, color in zip(found[0]["steps_cpu_seconds"], LINES, strict=False):
        widths = [fields["steps_cpu_seconds"][step] for fields in found]
        axes.barh(names, widths, 0.6, starts, color=color, label=step)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, total in enumerate(starts):
        axes.annotate(
            f"{total:.2f}", (total, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("CPU seconds of the engine per million rows")
    axes.set_title("Where does the engine's processor time go?", x=0)
    figure.legend(loc="outside right center", fontsize=8)


PLOTS = (
    Plot(
        "throughput",
        _throughput,
        lambda it: it["name"].startswith(("stream-", "snapshot")) and it["rows_per_second"],
    ),
    Plot("decode", _decode, lambda it: it["name"].startswith("decode-")),
    Plot("latency", _latency, lambda it: bool(it["latency_quantiles_ms"])),
    Plot("lag", _lag, lambda it: it["name"].startswith("stream-") and _has_progress(it)),
    Plot("rows", _rows, lambda it: it["name"].startswith("stream-") and _has_progress(it)),
    Plot("columns", _columns, lambda it: it["name"].startswith("columns-")),
    Plot("tables", _tables, lambda it: it["name"].startswith(("tables-", "first-row-"))),
    Plot("profile", _profile, lambda it: bool(it["steps_cpu_seconds"])),
)


def _has_progress(fields: Fields) -> bool:
    """Whether the commits have row counts. They are counted by the rows left: deletes have none."""
    progress = fields["progress"]
    return bool(progress) and progress[-1][1] > 0
