"""
The progress of the benchmarks on standard error.

Each step prints a line with the time since the start, so that a log file of the run is readable. On
a terminal a progress bar stands below the lines.
"""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

__all__ = ["Progress"]


class Progress:
    """Shows the progress of ``total`` measurements."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._started = time.monotonic()
        columns = (TextColumn("measured"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def notify(self, text: str) -> None:
        """Print that a step begins."""
        self._line(f"[dim]{escape(text)}[/]")

    def measured(self, text: str) -> None:
        """Print the figures of a measurement, and advance the bar."""
        self._bar.advance(self._task)
        self._line(escape(text))

    def _line(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self._console.print(f"{minutes:3}:{seconds:02}  {text}", highlight=False)
