"""
Where the demonstration is shown: lines that stay, and a live view below them.

The idea: the same acts read well in a terminal of 80 columns and in the log of a build.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.ops.status import Status
from engine.ops.terminal import TerminalView, duration

__all__ = ["Draw", "Stage"]

Draw: TypeAlias = Callable[[Status], None]

EQUAL = "both sides are equal: nothing lost, nothing repeated"
FRAME_SECONDS = 0.1
LINE_SECONDS = 2.0


class Stage:
    """Prints to ``console``; without a terminal, or if ``plain``, in lines alone."""

    def __init__(self, console: Console, *, plain: bool = False) -> None:
        self._console = console
        self._plain = plain or not console.is_terminal
        self._view = TerminalView()
        self._drawn = 0.0

    def title(self, text: str) -> None:
        """The first line."""
        self._print(Text(text, style="bold"))

    def say(self, text: str, begun: float | None = None) -> None:
        """Something is done; ``begun`` is the monotonic time at which it began."""
        took = "" if begun is None else duration(time.monotonic() - begun)
        self._print(Text.assemble(("✓ ", "bold green"), text, (f"  {took}" if took else "", "dim")))

    def alarm(self, text: str) -> None:
        """Something bad is done, on purpose."""
        self._print(Text.assemble(("✗ ", "bold red"), (text, "bold red")))

    def detail(self, text: str) -> None:
        """A line that explains the one before it."""
        self._print(Text(f"    {text}", style="dim"))

    def show(self, what: RenderableType) -> None:
        """Something larger, such as a table."""
        self._console.print(Padding(what, (0, 0, 0, 2)))

    def ask(self, text: str) -> None:
        """Wait until the person presses Enter, or is not there."""
        self._print(Text(text, style="bold"))
        try:
            input()
        except EOFError:
            return

    def verdict(
        self, facts: Sequence[tuple[str, str]], faults: Sequence[str], *, equal: bool
    ) -> None:
        """The last word."""
        grid = Table.grid(padding=(0, 2))
        for name, text in facts:
            grid.add_row(Text(name, style="dim"), Text(text))
        for fault in faults:
            grid.add_row(Text("difference", style="bold red"), Text(fault))
        title, style = (EQUAL, "green") if equal else ("DIFFERENCES", "red")
        self._console.print(
            Panel(grid, title=Text(title, style=f"bold {style}"), border_style=style, expand=False)
        )

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Something takes a while."""
        if self._plain:
            yield
            return
        with self._console.status(what):
            yield

    @contextmanager
    def live(self) -> Iterator[Draw]:
        """A live view; call what it gives with each status. It leaves nothing behind."""
        if self._plain:
            yield self._print_line
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw(status: Status) -> None:
                frame = self._view.render(status)
                if self._due(FRAME_SECONDS):
                    live.update(frame, refresh=True)

            yield draw

    def _print_line(self, status: Status) -> None:
        line = self._view.line(status)
        if self._due(LINE_SECONDS):
            self._print(Text(f"  {line}"))

    def _due(self, interval_seconds: float) -> bool:
        """Whether it is time to draw again. Rates want to see every status, people do not."""
        now = time.monotonic()
        if now - self._drawn < interval_seconds:
            return False
        self._drawn = now
        return True

    def _print(self, text: Text) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)
