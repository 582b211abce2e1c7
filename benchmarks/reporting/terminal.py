"""
The results as tables in the terminal: the engine's, and those of the peers next to it.

Both tables fit into 80 columns. The notes below them hold the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.reporting.result import in_short, short

__all__ = ["PEER_COLUMNS", "notes", "peer_cells", "show", "show_peers"]

PEER_COLUMNS = ("", "peer", "s", "rows/s", "engine", "CPU s", "MB", "ok")
RESULT_COLUMNS = ("", "rows", "s", "rows/s", "limit/s", "ratio", "CPU s", "source", "target", "MB")


def show(console: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of the results, with a line of figures for each result below it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in RESULT_COLUMNS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for fields in results:
        table.add_row(fields["name"], *_result_cells(fields))
    console.print(table)
    for fields in results:
        console.print(f"{fields['name']}: {in_short(fields)}", highlight=False)


def _result_cells(fields: Mapping[str, Any]) -> list[str]:
    rates = [short(fields[name]) for name in ("rows_per_second", "limit_rows_per_second")]
    cpu = ("engine_cpu_seconds", "source_cpu_seconds", "target_cpu_seconds")
    return [
        short(fields["rows"]),
        _fixed(fields["seconds"]),
        *rates,
        _fixed(fields["ratio_to_limit"]),
        *(_fixed(fields[name]) for name in cpu),
        short(fields["peak_memory_mb"]),
    ]


def _fixed(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def show_peers(console: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of the peers, with notes below it; nothing if there were no peers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(PEER_COLUMNS):
        table.add_column(heading, justify="left" if number < 2 else "right", no_wrap=True)
    for row in peer_cells(results):
        table.add_row(*row)
    if table.row_count:
        console.print(table)
        for note in notes(results):
            console.print(note, highlight=False, markup=False)


def peer_cells(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row of the table for each peer of each result.

    The column "engine" is how many times the engine is faster.
    """
    for fields in results:
        for peer in fields.get("peers") or ():
            seconds, ratio = peer["seconds"], peer["engine_is_faster"]
            cpu, memory = peer["cpu_seconds"], peer["peak_memory_mb"]
            yield (
                fields["name"],
                peer["name"],
                "" if seconds is None else f"{seconds:.{1 if seconds >= 100 else 2}f}",
                short(peer["rows_per_second"]),
                "" if ratio is None else f"{ratio:.1f} x",
                "" if cpu is None else f"{cpu:.1f}",
                "" if memory is None else f"{memory:.0f}",
                {True: "yes", False: "NO", None: "-"}[peer["correct"]],
            )


def notes(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The version and the setup of each peer, once; and for each result the peers that failed."""
    named = set()
    for fields in results:
        for peer in fields.get("peers") or ():
            setup = ", ".join(filter(None, (peer["version"], peer["note"])))
            if setup and peer["name"] not in named:
                named.add(peer["name"])
                yield f"{peer['name']}: {setup}"
            if peer["reason"]:
                yield f"{fields['name']}: {peer['name']} has no result: {peer['reason']}"
