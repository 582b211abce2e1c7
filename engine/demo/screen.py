"""
The output of the demo: lines that stay, and a live view of the engine below them.

The output fits a terminal of 80 columns. Without a terminal the live view is a line every two
seconds, so that the output is readable in the log of a build.
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

from engine.demo.recording import Recording
from engine.ops.status import Status
from engine.ops.terminal import TerminalView
from engine.ops.words import duration

__all__ = ["Draw", "Screen"]

#: Draws one status.
Draw: TypeAlias = Callable[[Status], None]

EQUAL = "the shop has moved: nothing lost, nothing repeated"
DIFFERENT = "the two sides differ"
FRAME_SECONDS = 0.1
LINE_SECONDS = 2.0


class Screen:
    """Prints to ``console``, and to ``recording`` if there is one.

    ``plain`` prints lines instead of the live view, as does a console that is no terminal.
    """

    def __init__(
        self, console: Console, *, plain: bool = False, recording: Recording | None = None
    ) -> None:
        self._console = console
        self._plain = plain or not console.is_terminal
        self._recording = recording
        self._view = TerminalView()
        self._drawn = 0.0

    def title(self, text: str) -> None:
        """Print the first line."""
        self._print(Text(text, style="bold"))

    def done(self, text: str, begun: float | None = None) -> None:
        """Print a step that is done. ``begun`` is the monotonic time at which it began."""
        took = "" if begun is None else f"  {duration(time.monotonic() - begun)}"
        self._print(Text.assemble(("✓ ", "bold green"), text, (took, "dim")))

    def failure(self, text: str) -> None:
        """Print a failure that the demo causes, or an interrupt."""
        self._print(Text.assemble(("✗ ", "bold red"), (text, "bold red")))

    def detail(self, text: str, recorded: str | None = None) -> None:
        """Print a detail of the line before. ``recorded`` replaces it in the recording."""
        self._print(_detail(text), None if recorded is None else _detail(recorded))

    def note(self, text: str) -> None:
        """Print a detail that is not recorded."""
        self._console.print(_detail(text), highlight=False, soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """Print something larger, such as a table."""
        indented = Padding(what, (0, 0, 0, 2))
        self._console.print(indented)
        if self._recording is not None:
            self._recording.print(indented)

    def ask(self, text: str) -> None:
        """Wait until the person presses Enter, or for nothing if standard input has ended."""
        self._console.print(Text(text, style="bold"), highlight=False, soft_wrap=True)
        try:
            input()
        except EOFError:
            return

    def result(
        self, summary: Sequence[tuple[str, str]], differences: Sequence[str], *, equal: bool
    ) -> None:
        """Print the result of the demo, in a box."""
        grid = Table.grid(padding=(0, 2))
        for name, text in summary:
            grid.add_row(Text(name, style="dim"), Text(text))
        for difference in differences:
            grid.add_row(Text("difference", style="bold red"), Text(difference))
        title, style = (EQUAL, "green") if equal else (DIFFERENT, "red")
        panel = Panel(
            grid, title=Text(title, style=f"bold {style}"), border_style=style, expand=False
        )
        self._console.print(panel)
        if self._recording is not None:
            self._recording.print(panel)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show that a step is in progress."""
        if self._plain:
            yield
            return
        with self._console.status(what):
            yield

    @contextmanager
    def live(self) -> Iterator[Draw]:
        """A live view. Call the function that it returns with each status. It is erased at the
        end.
        """
        if self._plain:
            yield self._print_line
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw(status: Status) -> None:
                frame = self._view.render(status)
                if self._due(FRAME_SECONDS):
                    live.update(frame, refresh=True)

            yield draw

    def record_frame(self, status: Status) -> None:
        """Add the live view of ``status`` to the recording."""
        if self._recording is not None:
            self._recording.frame(self._view.render(status))

    def _print_line(self, status: Status) -> None:
        line = self._view.line(status)
        if self._due(LINE_SECONDS):
            self._console.print(Text(f"  {line}"), highlight=False, soft_wrap=True)

    def _due(self, interval_seconds: float) -> bool:
        """Whether to draw now. The view gets every status, because it measures rates, but it is
        drawn less often.
        """
        now = time.monotonic()
        if now - self._drawn < interval_seconds:
            return False
        self._drawn = now
        return True

    def _print(self, text: Text, recorded: Text | None = None) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)
        if self._recording is not None:
            self._recording.print(recorded or text)


def _detail(text: str) -> Text:
    return Text(f"    {text}", style="dim")
