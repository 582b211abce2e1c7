"""
Which measurements there are, and the order in which they are made and shown.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console

from engine.bench.decode_runs import measure_decode
from engine.bench.latency import measure_latency
from engine.bench.result import Result, describe_machine, show
from engine.bench.stream import Bench, measure_first_row, measure_snapshot, measure_stream
from engine.bench.target import Target, private_target
from engine.bench.workloads import SBTEST, Workload, all_workloads, wide_form
from engine.errors import ConfigError

__all__ = ["run"]

Measurement = Callable[[Bench], Result]


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
    return found


def sweeps(rows: int, columns: int | None, tables: int | None) -> dict[str, Measurement]:
    """What a table's width costs, and tables that stand by, by result."""
    found: dict[str, Measurement] = {}

    def add(name: str, measure: Callable[..., Result], workload: Workload) -> None:
        found[name] = lambda bench: measure(bench, name, workload)

    width = 1
    while columns is not None and width <= columns:
        form = wide_form(width)
        add(f"columns-{width}", measure_stream, Workload(form.name, form, "insert", rows, 1_000))
        width *= 2
    for count in (0, tables) if tables is not None else ():
        workload = Workload(f"idle-{count}", SBTEST, "insert", rows, 1_000, idle_tables=count)
        add(f"tables-{count}", measure_stream, workload)
        add(f"first-row-{count}", measure_first_row, workload)
    return found


def run(options: argparse.Namespace) -> int:
    """Measure what the options say, then print it."""
    console = Console(stderr=True)
    _log_to(console)
    wanted = {
        name: measure
        for name, (group, measure) in measurements(options.rows).items()
        if options.what in ("all", group) and options.only in (None, name)
    }
    wanted |= sweeps(options.rows // 5, options.columns, options.tables)
    if not wanted:
        raise ConfigError(f"no measurement of {options.what} is named {options.only}")
    results: list[Result] = []
    with _target(options.target) as target:
        bench = Bench(
            target,
            options.repeat,
            options.source,
            lambda text: console.print(f"[dim]{text}[/]", highlight=False),
        )
        for measure in wanted.values():
            results.append(measure(bench))
            bench.tell(f"{results[-1].name}: {results[-1].in_short()}")
        machine = describe_machine(postgresql=target.version())
    if options.json:
        answer = {"machine": machine, "results": [result.to_json() for result in results]}
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
    else:
        show(Console(), results)
    if options.plot is not None:
        from engine.bench import plots

        plots.draw(results, options.plot)
    return 0


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
