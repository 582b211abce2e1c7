"""
The tables in a Markdown file, made from results: ``--report benchmarks/results/README.md``.

The text between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->`` is replaced by a table that is
made from the results in their JSON form. The rest of the file is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting.goals import GOALS
from benchmarks.reporting.result import short
from benchmarks.reporting.terminal import PEER_COLUMNS, notes, peer_cells
from engine.errors import ConfigError

__all__ = ["fill", "read"]

#: A result in its JSON form.
Fields = Mapping[str, Any]
NOTHING = "-"


def fill(path: Path, report: Mapping[str, Any]) -> None:
    """Write the tables between the marks of the file. Raises ConfigError as ``read`` does."""
    text = read(path)
    for name, write in SECTIONS.items():
        body = "\n".join(write(report)) or "Not measured."
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}\n{body}\n{end}{after}" if start else text
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> str:
    """The file's text. Raises ConfigError if it cannot be read or its marks do not match."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the report {path}: {error.strerror}") from error
    found = [name for name in SECTIONS if f"<!-- {name} -->" in text]
    if not found:
        raise ConfigError(f"{path} has no marks for tables, such as <!-- results -->")
    for name in found:
        _, _, rest = text.partition(f"<!-- {name} -->")
        if f"<!-- /{name} -->" not in rest or text.count(f"<!-- {name} -->") > 1:
            raise ConfigError(f"the mark <!-- {name} --> in {path} has no end, or occurs twice")
    return text


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1
) -> Iterator[str]:
    """The lines of a table, if it has rows. The columns after the first ``texts`` hold figures."""
    if rows:
        yield "| " + " | ".join(headings) + " |"
        yield "|" + "---|" * texts + "---:|" * (len(headings) - texts)
        for row in rows:
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _machine(report: Mapping[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield (
        f"{machine['cpu']}, {machine['cores']} cores shared by source, target and engine,"
        f" {machine['memory_gb']} GB; {machine['system']}, Python {machine['python']}."
    )
    for name, title in (("mysql", "MySQL"), ("postgresql", "PostgreSQL")):
        info = dict(machine.get(name) or {})
        if info:
            version = info.pop("version")
            settings = ", ".join(f"`{key}={value}`" for key, value in info.items())
            yield f"\n{title} {version}: {settings}."


def _goals(report: Mapping[str, Any]) -> Iterator[str]:
    results = {fields["name"]: fields for fields in report["results"]}
    rows = []
    for goal in GOALS:
        found = goal.find(results)
        figures = [_goal_number(number) for number in (goal.least, goal.aim, found)]
        verdict = "not measured" if found is None else goal.reached(found)
        rows.append((f"{goal.what}, {goal.unit}", *figures, verdict))
    yield from _table(("goal", "at least", "aim", "measured", ""), rows)


def _goal_number(number: float | None) -> str:
    if number is None:
        return NOTHING
    return short(number) if number >= 100 else f"{number:.3g}"


def _results(report: Mapping[str, Any]) -> Iterator[str]:
    headings = ("", "rows", "s", "rows/s", "limit", "ratio", "engine CPU s", "source", "target")
    rows = [
        (
            f"`{fields['name']}`",
            short(fields["rows"]),
            _seconds(fields),
            short(fields["rows_per_second"]) or NOTHING,
            short(fields["limit_rows_per_second"]) or NOTHING,
            _fixed(fields["ratio_to_limit"]),
            *(_fixed(fields[f"{it}_cpu_seconds"]) for it in ("engine", "source", "target")),
            f"{fields['peak_memory_mb']:.0f} ({fields['peak_memory_mb_max']:.0f})",
        )
        for fields in report["results"]
        if fields["repetitions"]
    ]
    yield from _table((*headings, "MB (max)"), rows)


def _seconds(fields: Fields) -> str:
    least, most = fields["seconds_range"]
    return f"{fields['seconds']:.2f} ({least:.2f} to {most:.2f})"


def _limits(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (f"`{fields['name']}`", name, short(rate), _fixed(fields["rows_per_second"] / rate))
        for fields in report["results"]
        for name, rate in fields["limits"].items()
    ]
    yield from _table(("", "limit", "rows/s", "Tailrace / limit"), rows, texts=2)


def _latency(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (f"`{fields['name']}`", *(f"{ms:.2f} ms" for ms in fields["percentiles_ms"].values()))
        for fields in report["results"]
        if fields["percentiles_ms"]
    ]
    yield from _table(("", "p50", "p90", "p99", "max"), rows)


def _workloads(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            f"`{fields['name']}`",
            f"{shape['table']}, {shape['columns']} columns",
            shape["kind"],
            f"{shape['rows_per_transaction']:,}",
            f"{shape['preloaded_rows']:,}",
            f"{fields['log_bytes_per_row']:.0f}" if fields["log_bytes_per_row"] else NOTHING,
        )
        for fields in report["results"]
        if (shape := fields["workload"]) and fields["repetitions"]
    ]
    headings = ("", "table", "kind", "rows per transaction", "rows before", "log bytes per row")
    yield from _table(headings, rows, texts=3)


def _profile(report: Mapping[str, Any]) -> Iterator[str]:
    found = [fields for fields in report["results"] if fields["steps_cpu_seconds"]]
    if not found:
        return
    whole = {it["name"]: it for it in report["results"]}
    steps = found[0]["steps_cpu_seconds"]
    rows = [(step, *(_fixed(it["steps_cpu_seconds"][step]) for it in found)) for step in steps]
    sums = [sum(it["steps_cpu_seconds"].values()) for it in found]
    rows.append(("**sum**", *map(_fixed, sums)))
    streams = [whole.get(it["name"].replace("profile-", "stream-")) for it in found]
    engine = [it and it["engine_cpu_seconds"] * 1e6 / it["rows"] for it in streams]
    rows.append(("the whole engine, its start included", *map(_fixed, engine)))
    headings = [it["name"].removeprefix("profile-") for it in found]
    yield from _table(("CPU s per million rows", *headings), rows)


def _peers(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [(f"`{row[0]}`", *row[1:]) for row in peer_cells(report["results"])]
    yield from _table(PEER_COLUMNS, rows, texts=2)
    for number, note in enumerate(notes(report["results"])):
        yield ("" if number else "\n") + "- " + " ".join(note.split())


def _fixed(number: float | None) -> str:
    return NOTHING if number is None else f"{number:.2f}"


SECTIONS: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "machine": _machine,
    "goals": _goals,
    "results": _results,
    "limits": _limits,
    "latency": _latency,
    "workloads": _workloads,
    "profile": _profile,
    "peers": _peers,
}
