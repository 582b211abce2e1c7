"""
The progress of ``tailrace verify`` on a terminal, drawn on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from engine.ops.log import printable

__all__ = ["ComparedRows", "comparison_progress"]


class ComparedRows:
    """The number of rows of all tables that are compared, one after the other. ``expected`` has
    about how many rows each table has.
    """

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = expected
        self._done: dict[str, int] = {}
        self._table = ""

    def update(self, table: str, rows: int) -> None:
        """Note how many rows of a table have been compared. Those before it are finished, whatever
        was expected of them."""
        self._table, self._done[table] = table, rows

    @property
    def done(self) -> int:
        """The rows that have been compared."""
        return sum(self._done.values())

    @property
    def total(self) -> int | None:
        """About how many rows are to be compared, and more than have been. None as long as none of
        the table of now has been: one statement sums the parts of a table, and may last."""
        rows = self._done.get(self._table, 0)
        if not rows:
            return None
        left = sum(count for name, count in self._expected.items() if name not in self._done)
        return self.done + max(1, self._expected.get(self._table, 0) - rows) + left


@contextmanager
def comparison_progress(
    expected: Mapping[str, int],
) -> Generator[Callable[[str, int], None], None, None]:
    """Draw a bar while tables are compared, if standard error is a terminal.

    ``expected`` has about how many rows each table has. The value is a function that gets a table's
    name and the number of its rows that have been compared.
    """
    if not sys.stderr.isatty():
        yield lambda table, rows: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = ("{task.description}", "{task.fields[rows]} rows", "for")
    bar = Progress(
        TextColumn("comparing"),
        BarColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    rows = ComparedRows(expected)
    task = bar.add_task("", total=None, rows="0", left="")

    def update(table: str, count: int) -> None:
        rows.update(table, count)
        name, done, total = escape(printable(table)), rows.done, rows.total
        bar.tasks[task].total = total  # ``update`` takes None for no change
        left = "" if total is None else "left"
        bar.update(task, completed=done, description=name, rows=f"{done:,}", left=left)

    with bar:
        yield update
