"""
The progress of ``tailrace verify`` on a terminal, drawn on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from engine.ops.log import printable
from engine.schema import TableId

__all__ = ["comparison_progress"]


@contextmanager
def comparison_progress(
    estimates: Mapping[TableId, int],
) -> Generator[Callable[[str, int], None], None, None]:
    """Draw a bar while tables are compared, if standard error is a terminal.

    ``estimates`` has about how many rows each table has. The value is a function that gets a
    table's name and the number of its rows that have been read. Tables come one after the other.
    """
    if not sys.stderr.isatty():
        yield lambda table, rows: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", "{task.fields[rows]} rows")
    bar = Progress(
        TextColumn("comparing"),
        BarColumn(),
        *(TextColumn(column) for column in columns),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    expected = {str(id): rows for id, rows in estimates.items()}
    done: dict[str, int] = {}
    task = bar.add_task("", total=max(1, sum(expected.values())), rows="0")

    def update(table: str, rows: int) -> None:
        if table not in done:  # those before it are compared, whatever was expected of them
            left = sum(count for name, count in expected.items() if name not in done)
            bar.update(task, total=max(1, sum(done.values()) + left))
        done[table] = rows
        read = sum(done.values())
        shown = escape(printable(table))
        bar.update(task, completed=read, description=shown, rows=f"{read:,}")

    with bar:
        yield update
