"""
The peers beside the engine, as a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.result import short

__all__ = ["HEADINGS", "cells", "notes", "show_peers"]

HEADINGS = ("", "peer", "s", "rows/s", "engine", "CPU s", "MB", "ok")


def show_peers(console: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """A table of results in their JSON form, and below it what does not fit in; nothing if there
    were no peers.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number < 2 else "right", no_wrap=True)
    for row in cells(results):
        table.add_row(*row)
    if table.row_count:
        console.print(table)
        for note in notes(results):
            console.print(note, highlight=False, markup=False)


def cells(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A line of the table for each peer of each result; "engine": how many times it is faster."""
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
    """Each peer's version and how it was run, once; and why one could not, for each result."""
    told = set()
    for fields in results:
        for peer in fields.get("peers") or ():
            words = ", ".join(filter(None, (peer["version"], peer["note"])))
            if words and peer["name"] not in told:
                told.add(peer["name"])
                yield f"{peer['name']}: {words}"
            if peer["reason"]:
                yield f"{fields['name']}: {peer['name']} could not: {peer['reason']}"
