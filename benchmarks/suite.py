"""
The list of all measurements, and the function behind ``tailrace bench``.
"""

from __future__ import annotations

import argparse
import compileall
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.harness.surroundings import FAR, TRACED, WATCHED
from benchmarks.harness.target import Target, private_target
from benchmarks.measurements.bench import Bench
from benchmarks.measurements.decode import measure_decode
from benchmarks.measurements.latency import measure_latency
from benchmarks.measurements.profile import measure_profile
from benchmarks.measurements.stream import measure_first_row, measure_snapshot, measure_stream
from benchmarks.measurements.verify import measure_verify
from benchmarks.peers.measure import PEERS
from benchmarks.reporting import markdown, plots
from benchmarks.reporting.progress import Progress
from benchmarks.reporting.result import Result, describe_machine, in_short
from benchmarks.reporting.terminal import show, show_peers
from benchmarks.workloads import SBTEST, Workload, all_workloads, wide_table
from engine.errors import ConfigError
from engine.settings.secrets import SecretError, resolve

__all__ = ["run"]

Measurement = Callable[[Bench], Result]
#: The content of a results file: ``machine`` (``describe_machine``) and ``results``, a list of what
#: ``Result.to_json`` returns.
Report = dict[str, Any]


#: The mapping of ``stream-mapped``. The columns of the table keep their values.
THREE_EXPRESSIONS = (
    "*, lower(c) AS c, concat(left(pad, 10), substring(pad, 11)) AS pad, k * 2 AS twice"
)


def measurements(rows: int) -> dict[str, tuple[str, Measurement]]:
    """The group and the measuring function of each result, by the result's name."""
    of = all_workloads(rows)
    found: dict[str, tuple[str, Measurement]] = {}

    def add(name: str, measure: Callable[..., Result], *arguments: object) -> None:
        group = name.partition("-")[0]
        found[name] = group, lambda bench: measure(bench, name, *arguments)

    for name, workload in (("bulk", "insert"), ("single", "single"), ("orders", "orders")):
        add(f"decode-{name}", measure_decode, of[workload])
    for name in ("insert", "update", "single", "delete", "orders"):
        add(f"stream-{name}", measure_stream, of[name])
    mapped = replace(of["insert"], table=replace(SBTEST, select=THREE_EXPRESSIONS))
    add("stream-mapped", measure_stream, mapped)
    add("snapshot", measure_snapshot, of["insert"])
    for name in ("insert", "update", "single"):
        add(f"stream-{name}-far", measure_stream, of[name], FAR)
    add("snapshot-far", measure_snapshot, of["insert"], FAR)
    add("stream-insert-watched", measure_stream, of["insert"], WATCHED)
    add("stream-insert-traced", measure_stream, of["insert"], TRACED)
    add("verify", measure_verify, of["insert"])
    add("latency", measure_latency, rows)
    for name in ("insert", "single", "update", "orders"):
        add(f"profile-{name}", measure_profile, of[name])
    return found


def sweeps(rows: int, columns: int | None, tables: int | None) -> dict[str, Measurement]:
    """The measuring functions for wide tables and for idle tables, by the result's name.

    Wide tables have 1, 2, 4, ... up to ``columns`` columns and a fifth of the rows. The idle tables
    are measured with none and with ``tables`` of them.
    """
    found: dict[str, Measurement] = {}

    def add(name: str, measure: Callable[..., Result], workload: Workload) -> None:
        found[name] = lambda bench: measure(bench, name, workload)

    width = 1
    while columns is not None and width <= columns:
        spec = wide_table(width)
        workload = Workload(spec.name, spec, "insert", rows // 5, 1_000)
        add(f"columns-{width}", measure_stream, workload)
        width *= 2
    for count in (0, tables) if tables is not None else ():
        workload = Workload(f"idle-{count}", SBTEST, "insert", rows, 1_000, idle_tables=count)
        add(f"tables-{count}", measure_stream, workload)
        add(f"first-row-{count}", measure_first_row, workload)
    return found


def run(options: argparse.Namespace) -> int:
    """Measure, or load saved results; then print, plot and report them as the options say."""
    _check_options(options)
    report = _load(options.saved) if options.saved else _measure(options, Console(stderr=True))
    if options.json:
        sys.stdout.buffer.write(_text(report))
    else:
        show(Console(), report["results"])
        show_peers(Console(), report["results"])
    if options.plot is not None:
        plots.draw(report, options.plot)
    if options.report is not None:
        markdown.fill(options.report, report)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError before a long run if its results could not be plotted or reported."""
    if options.plot is not None:
        plots.need_matplotlib()
    if options.report is not None:
        markdown.read(options.report)


def _measure(options: argparse.Namespace, console: Console) -> Report:
    _log_to(console)
    _compile_modules()
    wanted = {
        name: measure
        for name, (group, measure) in measurements(options.rows).items()
        if options.what in ("all", group) and options.only in (None, name)
    }
    wanted |= sweeps(options.rows, options.columns, options.tables)
    if not wanted:
        raise ConfigError(f"{options.what} has no measurement named {options.only}")
    results: list[dict[str, Any]] = []
    report: Report = {"machine": {}, "results": results}
    with Progress(console, len(wanted)) as progress, _target(_url(options.target)) as target:
        bench = Bench(
            target,
            options.repeat,
            _url(options.source),
            notify=progress.notify,
            peers=PEERS if options.peers else (),
            peer_repeat=options.peer_repeat,
        )
        for measure in wanted.values():
            results.append(measure(bench).to_json())
            progress.measured(f"{results[-1]['name']}: {in_short(results[-1])}")
            report["machine"] = describe_machine(mysql=bench.source_info, postgresql=target.info())
            if options.save is not None:
                # After each measurement, because a later one may fail.
                options.save.write_bytes(_text(report))
    return report


def _compile_modules() -> None:
    """Write the bytecode of all modules. Without it each measured process compiles them, as with
    PYTHONDONTWRITEBYTECODE, which takes longer than to import them.
    """
    for package in ("benchmarks", "engine", "sinks", "sources"):
        compileall.compile_dir(Path(__file__).parents[1] / package, quiet=2)


def _text(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def _load(path: Path) -> Report:
    """Load a results file. Raises ConfigError."""
    try:
        report: Report = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read benchmark results from {path}: {error}") from error
    if not {"machine", "results"} <= report.keys():
        raise ConfigError(f"{path} holds no benchmark results")
    return report


def _url(text: str | None) -> str | None:
    """The URL with ``${VARIABLE}`` and ``${file:PATH}`` replaced, as in a configuration."""
    try:
        return None if text is None else resolve(text, Path())
    except SecretError as error:
        raise ConfigError(f"cannot resolve the URL of a server: {error}") from error


@contextmanager
def _target(url: str | None) -> Iterator[Target]:
    if url is not None:
        yield Target(url)
        return
    with private_target() as target:
        yield target


def _log_to(console: Console) -> None:
    """Print the log lines of downloads and of workloads that are written into a log."""
    for name in ("tailrace.bench", "tailrace.sandbox"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        handler = logging.Handler()
        handler.emit = lambda record: console.print(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
