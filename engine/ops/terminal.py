"""
The terminal view: the status of a running pipeline, redrawn a few times a second.

It is drawn from ``Status``, which is also what ``GET /status`` returns, so a pipeline in another
process looks the same. Rates come from successive statuses.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.ops.log import printable
from engine.ops.status import Status, TableStatus
from engine.ops.words import age, duration, proof_words, size

__all__ = ["RateMeter", "TerminalView", "tables_table"]

#: A rate is the mean over this time: steady to the eye, and quick to fall.
RATE_WINDOW_SECONDS = 3.0
#: The lines of the view besides its table of tables.
FIXED_LINES = 6
#: A shorter lag is that of the batch in progress, and its number of bytes says nothing.
LAG_SECONDS = 1.0
STATE_STYLE = {
    "pending": "dim",
    "backfilling": "bold cyan",
    "catching_up": "yellow",
    "live": "green",
    "quarantined": "red",
    "excluded": "dim",
}
#: Quarantined tables and those in backfill come first, because there may be no room for all.
STATE_ORDER = ("quarantined", "backfilling", "catching_up", "pending", "live", "excluded")
#: The states in which the number of rows that a backfill expects says how far it is.
UNFINISHED = ("backfilling", "catching_up", "pending")


class RateMeter:
    """The rate of a counter over the last seconds. A counter that falls was reset."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, count: int) -> float:
        """Record the counter's value now. Returns its growth per second."""
        now = self._clock()
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_WINDOW_SECONDS:
            self._seen.popleft()
        first, at_first = self._seen[0]
        return (count - at_first) / (now - first) if now > first else 0.0


class TerminalView:
    """The view of one pipeline. Pass it each new status; ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._backfilled = RateMeter(clock)
        self._applied = RateMeter(clock)

    def render(self, status: Status) -> RenderableType:
        """The whole view, which fits the terminal's width and height."""
        return _Frame(status, *self._rates(status))

    def line(self, status: Status) -> str:
        """The view in one short line, for output that is not a terminal."""
        backfill_rate, apply_rate = self._rates(status)
        state = status.state or "unknown"
        if not status.tables:
            return state
        lag = "" if status.lag_seconds is None else f", lag {duration(status.lag_seconds)}"
        reconnects = f", reconnects {status.reconnects}" if status.reconnects else ""
        if status.fraction < 1:
            share = f"{status.backfilled:,} rows ({status.fraction:.0%})"
            done = f"{share}, {backfill_rate:,.0f} rows/s"
        else:
            done = f"{apply_rate:,.0f} changes/s, {status.rows or 0:,} applied"
        return f"{state} {done}{lag}{reconnects}"

    def _rates(self, status: Status) -> tuple[float, float]:
        """Backfilled rows and applied changes per second."""
        backfilled = self._backfilled.update(status.backfilled_rows or 0)
        return backfilled, self._applied.update(status.rows or 0)


class _Frame:
    """One frame. The console tells its width and height when it draws."""

    def __init__(self, status: Status, backfill_rate: float, apply_rate: float) -> None:
        self._status = status
        self._backfill_rate = backfill_rate
        self._apply_rate = apply_rate

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Sequence[RenderableType]:
        room = max(1, console.height - FIXED_LINES)
        return [
            Group(
                self._headline(),
                self._backfill_bar(),
                tables_table(self._status.tables, room),
                self._footline(options.max_width),
            )
        ]

    def _headline(self) -> Text:
        status = self._status
        backfilling = f"  {self._backfill_rate:,.0f} rows/s" if status.fraction < 1 else ""
        style = "bold cyan" if status.state == "backfilling" else "bold green"
        text = Text.assemble(
            (status.state or "unknown", style),
            f"{backfilling}  {self._apply_rate:,.0f} changes/s",
            overflow="ellipsis",
            no_wrap=True,
        )
        if status.lag_seconds is not None:
            text.append(f"  lag {duration(status.lag_seconds)}")
        if status.lag_bytes and (status.lag_seconds or 0) >= LAG_SECONDS:
            text.append(f" ({size(status.lag_bytes)})")
        return text

    def _backfill_bar(self) -> RenderableType:
        status = self._status
        left = ""
        if status.fraction < 1 and self._backfill_rate:
            left = f"  {duration((status.total - status.backfilled) / self._backfill_rate)} left"
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(
            "backfill",
            ProgressBar(total=1.0, completed=status.fraction),
            f"{status.fraction:4.0%}  {status.backfilled:,} rows{left}",
        )
        return grid

    def _footline(self, width: int) -> Text:
        text = f"applied {self._status.rows or 0:,}"
        if self._status.reconnects:
            text += f"  reconnects {self._status.reconnects}"
        text += "  position "
        text += _shortened(
            self._status.place or self._status.position or "none yet", width - len(text)
        )
        return Text(text, style="dim", overflow="ellipsis", no_wrap=True)


def _shortened(position: str, width: int) -> str:
    """The end of the position, which is the part that changes."""
    if len(position) <= width:
        return position
    return "…" + position[len(position) + 1 - width :]


def tables_table(tables: Sequence[TableStatus], room: int, *, changes: bool = False) -> Table:
    """The state of each table, in at most ``room`` lines below the heading; with ``changes``, also
    when its rows have changed last on the source, and the last comparison.
    """
    now = time.time()
    shown = sorted(tables, key=lambda table: (STATE_ORDER.index(table.state), table.table))
    hidden: Sequence[TableStatus] = ()
    if len(shown) > room:
        shown, hidden = shown[: room - 1], shown[room - 1 :]
    result = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    result.add_column("table", ratio=1, no_wrap=True, overflow="ellipsis")
    # A view that is redrawn has columns that stay.
    width = None if changes else 11
    result.add_column("state", min_width=width)
    result.add_column("backfilled", justify="right", min_width=width)
    expects = not changes or any(table.state in UNFINISHED for table in shown)
    if expects:
        result.add_column("expected", justify="right", min_width=width)
    if changes:
        result.add_column("last change", no_wrap=True)
        result.add_column("proven", no_wrap=True)
    for table in shown:
        cells = [
            Text(printable(table.table)),
            Text(table.state.replace("_", " "), style=STATE_STYLE[table.state]),
            Text(f"{table.rows:,}" if table.rows or table.state == "live" else ""),
        ]
        if expects:
            cells.append(Text(f"{table.total:,}" if table.state in UNFINISHED else ""))
        if changes:
            changed = "" if table.changed_at is None else age(now - table.changed_at)
            cells += [Text(changed), _proven(table, now)]
        result.add_row(*cells)
    if hidden:
        result.add_row(Text(_counted(hidden), style="dim"))
    return result


def _proven(table: TableStatus, now: float) -> Text:
    return Text(proof_words(table.proof, now), style="bold red" if table.differs else "")


def _counted(tables: Sequence[TableStatus]) -> str:
    """The tables that are not shown: ``… 12 more: 10 live, 2 pending``."""
    counts = {state: sum(table.state == state for table in tables) for state in STATE_ORDER}
    parts = ", ".join(
        f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if count
    )
    return f"… {len(tables):,} more: {parts}"
