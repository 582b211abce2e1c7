"""
What people see in a terminal: the live view of a pipeline, and tables of findings and results.

The idea: a view is drawn from the same status that ``GET /status`` serves, so whoever can ask for
a status can draw it. A status says where the pipeline is; rates come from successive statuses.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.checkpoint import TableState
from engine.contract import Finding

if TYPE_CHECKING:
    from engine.verify.report import TableReport, VerifyReport

__all__ = [
    "RateMeter",
    "Status",
    "TerminalView",
    "TableStatus",
    "duration",
    "findings_table",
    "size",
    "status_table",
    "verify_table",
]

#: A rate is the mean over this window: steady to the eye, and quick to fall.
RATE_WINDOW_SECONDS = 3.0
#: The lines of the live view besides its table of tables.
FIXED_LINES = 6
#: A shorter lag is that of a batch on its way; the log that is left means nothing yet.
LAG_SECONDS = 1.0
STATE_STYLE = {
    "pending": "dim",
    "backfilling": "bold cyan",
    "catching_up": "yellow",
    "live": "green",
}
#: Tables in motion come first, since there may be no room for all.
STATE_ORDER = ("backfilling", "catching_up", "pending", "live")
#: Differing rows that a terminal lists per table; the JSON result has more.
LISTED_DIFFERENCES = 10
LEVEL_STYLE = {"ok": "green", "warning": "yellow", "error": "bold red"}


class TableStatus(msgspec.Struct, frozen=True):
    """The snapshot of one table; ``estimate`` is what the source expected at its start."""

    table: str
    state: TableState = "pending"
    rows: int = 0
    estimate: int = 0

    @property
    def total(self) -> int:
        """How many rows the copy will have had, as far as one knows now."""
        if self.state in ("catching_up", "live"):
            return self.rows
        return max(self.rows, self.estimate)


class Status(msgspec.Struct, frozen=True):
    """What ``GET /status`` serves. ``rows`` counts row changes that the stream applied and
    ``backfilled_rows`` rows of snapshots, both since the engine's start.
    """

    pipeline: str = ""
    state: str = "connecting"
    rows: int = 0
    backfilled_rows: int = 0
    reconnects: int = 0
    position: str | None = None
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    tables: tuple[TableStatus, ...] = ()

    @property
    def copied(self) -> int:
        """Rows that are copied, over all tables and all runs of the engine."""
        return sum(table.rows for table in self.tables)

    @property
    def total(self) -> int:
        """Rows to be copied over all tables, as far as one knows now."""
        return sum(table.total for table in self.tables)

    @property
    def fraction(self) -> float:
        """How much of the snapshot is done, 0 to 1."""
        if all(table.state in ("catching_up", "live") for table in self.tables):
            return 1.0 if self.tables else 0.0
        return min(1.0, self.copied / self.total) if self.total else 0.0


def duration(seconds: float) -> str:
    """A readable duration of two units at most: ``40 ms``, ``0.4 s``, ``1 min 15 s``."""
    if seconds < 0.095:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: int) -> str:
    """A readable number of bytes in powers of 1000: ``1.2 MB``."""
    if count < 1000:
        return f"{count} B"
    amount = count / 1000
    for unit in ("kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


class RateMeter:
    """The rate of a counter over the last seconds. A counter that fell has started anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, count: int) -> float:
        """Take the counter's value now; returns how much it grows per second."""
        now = self._clock()
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_WINDOW_SECONDS:
            self._seen.popleft()
        first, at_first = self._seen[0]
        return (count - at_first) / (now - first) if now > first else 0.0


class TerminalView:
    """The live view of one pipeline. Give it each status as it comes; ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._copy = RateMeter(clock)
        self._apply = RateMeter(clock)

    def render(self, status: Mapping[str, Any]) -> RenderableType:
        """The whole view as a renderable that fits the terminal's width and height."""
        return _LiveView(*self._measure(status))

    def line(self, status: Mapping[str, Any]) -> str:
        """The same in one short line, where there is no terminal."""
        now, copy_rate, apply_rate = self._measure(status)
        if not now.tables:
            return now.state
        lag = "" if now.lag_seconds is None else f", lag {duration(now.lag_seconds)}"
        reconnects = f", reconnects {now.reconnects}" if now.reconnects else ""
        if now.fraction < 1:
            done = f"{now.copied:,} rows ({now.fraction:.0%}), {copy_rate:,.0f} rows/s"
        else:
            done = f"{apply_rate:,.0f} changes/s, {now.rows:,} applied"
        return f"{now.state} {done}{lag}{reconnects}"

    def _measure(self, status: Mapping[str, Any]) -> tuple[Status, float, float]:
        now = msgspec.convert(status, Status)
        return now, self._copy.update(now.backfilled_rows), self._apply.update(now.rows)


class _LiveView:
    """One frame; what it shows depends on the room that the console gives when it draws."""

    def __init__(self, status: Status, copy_rate: float, apply_rate: float) -> None:
        self._status = status
        self._copy_rate = copy_rate
        self._apply_rate = apply_rate

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Sequence[RenderableType]:
        room = max(1, console.height - FIXED_LINES)
        return [
            Group(
                self._headline(),
                self._snapshot_bar(),
                _tables(self._status.tables, room),
                self._footline(options.max_width),
            )
        ]

    def _headline(self) -> Text:
        status = self._status
        copying = f"  {self._copy_rate:,.0f} rows/s" if status.fraction < 1 else ""
        text = Text.assemble(
            (status.state, "bold cyan" if status.state == "backfilling" else "bold green"),
            f"{copying}  {self._apply_rate:,.0f} changes/s",
            overflow="ellipsis",
            no_wrap=True,
        )
        if status.lag_seconds is not None:
            text.append(f"  lag {duration(status.lag_seconds)}")
        if status.lag_bytes and (status.lag_seconds or 0) >= LAG_SECONDS:
            text.append(f" ({size(status.lag_bytes)})")
        return text

    def _snapshot_bar(self) -> RenderableType:
        status = self._status
        left = ""
        if status.fraction < 1 and self._copy_rate:
            left = f"  {duration((status.total - status.copied) / self._copy_rate)} left"
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(
            "snapshot",
            ProgressBar(total=1.0, completed=status.fraction),
            f"{status.fraction:4.0%}  {status.copied:,} rows{left}",
        )
        return grid

    def _footline(self, width: int) -> Text:
        text = f"applied {self._status.rows:,}"
        if self._status.reconnects:
            text += f"  reconnects {self._status.reconnects}"
        text += "  position "
        text += _shortened(self._status.position or "none yet", width - len(text))
        return Text(text, style="dim", overflow="ellipsis", no_wrap=True)


def _shortened(position: str, width: int) -> str:
    """The end of a position tells most: it is what moves."""
    if len(position) <= width:
        return position
    return "…" + position[len(position) + 1 - width :]


def _tables(tables: Sequence[TableStatus], room: int) -> Table:
    """A table of tables, of at most ``room`` lines below its heading."""
    shown = sorted(tables, key=lambda table: (STATE_ORDER.index(table.state), table.table))
    hidden: Sequence[TableStatus] = ()
    if len(shown) > room:
        shown, hidden = shown[: room - 1], shown[room - 1 :]
    result = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    result.add_column("table", ratio=1, no_wrap=True, overflow="ellipsis")
    result.add_column("state", min_width=8)
    result.add_column("rows", justify="right", min_width=11)
    result.add_column("expected", justify="right", min_width=11)
    for table in shown:
        rows = f"{table.rows:,}" if table.rows or table.state == "live" else ""
        expected = "" if table.state == "live" else f"{table.total:,}"
        state = Text(table.state, style=STATE_STYLE[table.state])
        result.add_row(Text(table.table), state, rows, expected)
    if hidden:
        result.add_row(Text(_counted(hidden), style="dim"))
    return result


def _counted(tables: Sequence[TableStatus]) -> str:
    """What is not shown: ``… 12 more: 10 live, 2 pending``."""
    counts = {state: sum(table.state == state for table in tables) for state in STATE_ORDER}
    parts = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return f"… {len(tables):,} more: {parts}"


def status_table(report: Mapping[str, Any]) -> RenderableType:
    """What ``tailrace status`` knows of a pipeline: a ``Status`` without the running counters."""
    status = msgspec.convert(report, Status)
    if status.position is None:
        return Text(f"pipeline {status.pipeline}: it has not run yet")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("pipeline", Text(status.pipeline))
    facts.add_row("position", Text(status.position, overflow="fold"))
    lag = "unknown" if status.lag_seconds is None else duration(status.lag_seconds)
    behind = "" if status.lag_bytes is None else f", {size(status.lag_bytes)} of log"
    facts.add_row("lag", f"{lag}{behind}")
    facts.add_row("snapshot", f"{status.fraction:.0%}, {status.copied:,} rows")
    return Group(facts, Text(), _tables(status.tables, len(status.tables)))


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """The findings of a preflight check, errors first, each with what to type."""
    order = list(reversed(LEVEL_STYLE))
    table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    table.add_column("", min_width=7)
    table.add_column("subject", ratio=1, overflow="fold")
    table.add_column("finding", ratio=3, overflow="fold")
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        message = Text(finding.message)
        if finding.action:
            message.append(f"\n→ {finding.action}", style="bold")
        level = Text(finding.level, style=LEVEL_STYLE[finding.level])
        table.add_row(level, Text(finding.subject), message)
    counts = ", ".join(
        f"{sum(finding.level == level for finding in findings)} {level}" for level in order
    )
    return Group(table, Text(counts, style="dim"))


def verify_table(report: VerifyReport) -> RenderableType:
    """The result of ``tailrace verify``: every table, then what differs, by key and column."""
    table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    table.add_column("table", ratio=1, overflow="fold")
    for name in ("rows", "differing", "missing", "extra"):
        table.add_column(name, justify="right")
    table.add_column("result")
    notes: list[RenderableType] = []
    for each in report.tables:
        counts = (each.differing, each.missing, each.extra)
        marks = (f"{count:,}" if count else "" for count in counts)
        table.add_row(Text(each.table), f"{each.rows:,}", *marks, _result(each))
        notes += _notes(each)
    rows = sum(each.rows for each in report.tables)
    summary = f"{len(report.tables):,} tables, {rows:,} rows, {duration(report.seconds)}"
    return Group(table, *notes, Text(summary, style="dim"))


def _result(report: TableReport) -> Text:
    if report.equal:
        return Text("equal", style="green")
    if not report.differing + report.missing + report.extra:
        return Text("inconclusive", style="yellow")
    return Text("different", style="bold red")


def _notes(report: TableReport) -> list[Text]:
    """What is wrong with a table, a line each."""
    notes = []
    if report.inconclusive:
        reason = f"{report.table}: not compared to its end: {report.inconclusive}"
        notes.append(Text(reason, style="yellow"))
    for row in report.differences[:LISTED_DIFFERENCES]:
        columns = f" in {', '.join(row.columns)}" if row.columns else ""
        key = ", ".join("NULL" if part is None else part for part in row.key)
        notes.append(Text(f"{report.table} ({key}): {row.kind}{columns}", style="red"))
    wrong = report.differing + report.missing + report.extra
    more = wrong - min(len(report.differences), LISTED_DIFFERENCES)
    if more:
        notes.append(Text(f"{report.table}: {more:,} more rows differ", style="red"))
    return notes
