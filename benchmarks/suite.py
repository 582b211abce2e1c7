"""
Which measurements there are, and the order in which they are made and shown.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks import plots, report
from benchmarks.decode_runs import measure_decode
from benchmarks.latency import measure_latency
from benchmarks.peers.show import show_peers
from benchmarks.peers.turns import PEERS
from benchmarks.profile_runs import measure_profile
from benchmarks.progress import Progress
from benchmarks.result import Result, describe_machine, in_short, show
from benchmarks.stream import Bench, measure_first_row, measure_snapshot, measure_stream
from benchmarks.target import Target, private_target
from benchmarks.workloads import SBTEST, Workload, all_workloads, wide_form
from engine.errors import ConfigError
from engine.settings.secrets import SecretError, resolve

__all__ = ["run"]

Measurement = Callable[[Bench], Result]
#: ``machine``: what it was measured on; ``results``: each as ``Result.to_json`` gives it.
Answer = dict[str, Any]


def measurements(rows: int) -> dict[str, tuple[str, Measurement]]:
    """Each result's name, its group, and what measures it."""
    of = all_workloads(rows)
    found: dict[str, tuple[str, Measurement]] = {}

    def add(name: str, measure: Callable[..., Result], *arguments: object) -> None:
        group = name.partition("-")[0]
        found[name] = group, lambda bench: measure(bench, name, *arguments)

    for name, workload in (("bulk", "insert"), ("single", "single"), ("orders", "orders")):
        add(f"decode-{name}", measure_decode, of[workload])
    for name in ("insert", "update", "single", "delete", "orders"):
        add(f"stream-{name}", measure_stream, of[name])
    add("snapshot", measure_snapshot, of["insert"])
    add("latency", measure_latency, rows)
    for name in ("insert", "single", "update", "orders"):
        add(f"profile-{name}", measure_profile, of[name])
    return found


def sweeps(rows: int, columns: int | None, tables: int | None) -> dict[str, Measurement]:
    """What a table's width costs, on a fifth of the rows, and tables that stand by, by result."""
    found: dict[str, Measurement] = {}

    def add(name: str, measure: Callable[..., Result], workload: Workload) -> None:
        found[name] = lambda bench: measure(bench, name, workload)

    width = 1
    while columns is not None and width <= columns:
        form = wide_form(width)
        workload = Workload(form.name, form, "insert", rows // 5, 1_000)
        add(f"columns-{width}", measure_stream, workload)
        width *= 2
    for count in (0, tables) if tables is not None else ():
        workload = Workload(f"idle-{count}", SBTEST, "insert", rows, 1_000, idle_tables=count)
        add(f"tables-{count}", measure_stream, workload)
        add(f"first-row-{count}", measure_first_row, workload)
    return found


def run(options: argparse.Namespace) -> int:
    """Measure what the options say, or take what was saved; then show it as they say."""
    _see_what_is_needed(options)
    answer = _load(options.saved) if options.saved else _measure(options, Console(stderr=True))
    if options.json:
        sys.stdout.buffer.write(_text(answer))
    else:
        show(Console(), answer["results"])
        show_peers(Console(), answer["results"])
    if options.plot is not None:
        plots.draw(answer, options.plot)
    if options.report is not None:
        report.fill(options.report, answer)
    return 0


def _see_what_is_needed(options: argparse.Namespace) -> None:
    """What would be missed at the end is asked for at the beginning. Raises ConfigError."""
    if options.plot is not None:
        plots.need_matplotlib()
    if options.report is not None:
        report.read(options.report)


def _measure(options: argparse.Namespace, console: Console) -> Answer:
    _log_to(console)
    wanted = {
        name: measure
        for name, (group, measure) in measurements(options.rows).items()
        if options.what in ("all", group) and options.only in (None, name)
    }
    wanted |= sweeps(options.rows, options.columns, options.tables)
    if not wanted:
        raise ConfigError(f"no measurement of {options.what} is named {options.only}")
    results: list[dict[str, Any]] = []
    answer: Answer = {"machine": {}, "results": results}
    with Progress(console, len(wanted)) as progress, _target(_url(options.target)) as target:
        bench = Bench(
            target,
            options.repeat,
            _url(options.source),
            tell=progress.tell,
            peers=PEERS if options.peers else (),
            peer_repeat=options.peer_repeat,
        )
        for measure in wanted.values():
            results.append(measure(bench).to_json())
            progress.measured(f"{results[-1]['name']}: {in_short(results[-1])}")
            answer["machine"] = describe_machine(mysql=bench.facts, postgresql=target.facts())
            if options.save is not None:
                # After each, since the next one may fail, and all take long.
                options.save.write_bytes(_text(answer))
    return answer


def _text(answer: Answer) -> bytes:
    return msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n"


def _load(path: Path) -> Answer:
    """What was saved. Raises ConfigError."""
    try:
        answer: Answer = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"no results of benchmarks can be read from {path}: {error}") from error
    if not {"machine", "results"} <= answer.keys():
        raise ConfigError(f"{path} holds no results of benchmarks")
    return answer


def _url(text: str | None) -> str | None:
    """With what ``${VARIABLE}`` and ``${file:PATH}`` stand for, as in a configuration."""
    try:
        return None if text is None else resolve(text, Path())
    except SecretError as error:
        raise ConfigError(f"a server's URL: {error}") from error


@contextmanager
def _target(url: str | None) -> Iterator[Target]:
    if url is not None:
        yield Target(url)
        return
    with private_target() as target:
        yield target


def _log_to(console: Console) -> None:
    """Show what is downloaded or written the first time."""
    for name in ("tailrace.bench", "tailrace.sandbox"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        handler = logging.Handler()
        handler.emit = lambda record: console.print(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
