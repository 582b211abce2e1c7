"""
A status as lines for the terminal. Pure. What comes from the source is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from engine.cli.top.watched import Watched
from engine.ops.history import History
from engine.ops.log import printable
from engine.ops.status import FINISHED, Status
from engine.ops.words import Level, duration, headline, size

__all__ = [
    "RED",
    "backfill_lines",
    "error_lines",
    "figures",
    "head",
    "spark",
    "spark_lines",
    "stages",
    "summary",
]

#: Bright, because Textual makes it a grey of the same brightness where NO_COLOR is set.
RED = "#ff8080"
LEVEL_STYLE: dict[Level, str] = {
    "fine": "bold green",
    "busy": "bold cyan",
    "warning": "bold yellow",
    "error": f"bold {RED}",
}
BARS = "▁▂▃▄▅▆▇█"
#: A stage that takes more of the time limits the throughput.
BUSY_SHARE = 0.8
#: The columns of the names on the left, and of the bars of backfills.
LABEL = 8
BAR = 24


def head(watched: Watched, now: datetime) -> Text:
    """The state in words, and what to do; or since when the API does not answer."""
    text = Text()
    if watched.problem is not None and watched.since is not None:
        since = datetime.fromtimestamp(watched.since, now.tzinfo)
        away = duration(max(0.0, (now - since).total_seconds()))
        problem = printable(watched.problem.message)
        text.append(f"No answer since {since:%H:%M:%S} ({away}): ", f"bold {RED}")
        text.append(f"{problem}.")
        if watched.problem.hint:
            text.append(f"\n→ {printable(watched.problem.hint)}", "bold")
        if watched.status is not None:
            text.append("\nBelow is the last status.")
    elif watched.status is None:
        text.append("Connecting to the API.")
    else:
        words = headline(watched.status, now, config=watched.config)
        text.append(printable(words.text), LEVEL_STYLE[words.level])
        if words.remedy:
            text.append(f"\n→ {printable(words.remedy)}", "bold")
    return text


def summary(watched: Watched, now: datetime) -> tuple[Text, ...]:
    """A pipeline as the cells of one line: name, lag, rows per second, quarantined tables, dead
    letters, and the state in words.
    """
    status = watched.status
    first, *_ = head(watched, now).split("\n")
    name = Text(printable(watched.name))
    if status is None or watched.problem is not None:
        return (name, *(Text("") for _ in range(4)), first)
    lag = "" if status.lag_seconds is None else duration(status.lag_seconds)
    rate = "" if status.throughput is None else f"{_rows(status):,.0f}"
    quarantined = sum(table.state == "quarantined" for table in status.tables)
    letters = "" if status.dead_letters is None else f"{status.dead_letters:,}"
    numbers = (lag, rate, f"{quarantined:,}", letters)
    return (name, *(Text(each, justify="right") for each in numbers), first)


def _rows(status: Status) -> float:
    """Rows per second, of the stream and of backfills."""
    done = status.throughput
    return 0.0 if done is None else done.rows + done.backfilled_rows


def figures(status: Status) -> Text:
    """The figures that are known, each with its name."""
    done, kept, left = status.throughput, status.log_kept_seconds, status.backfill_left_seconds
    ahead = status.lag_transactions
    found = {
        "lag": status.lag_seconds is not None and duration(status.lag_seconds),
        "log": status.lag_bytes is not None and size(status.lag_bytes),
        "transactions": ahead is not None and f"{ahead:,}",
        "rows/s": done is not None and f"{done.rows:,.0f}",
        "tx/s": done is not None and f"{done.transactions:,.0f}",
        "bytes/s": done is not None and size(round(done.bytes)),
        "backfilled/s": bool(done and done.backfilled_rows) and f"{_backfilled(status):,.0f}",
        "backfill left": left is not None and duration(left),
        "queued": status.queued_bytes is not None and size(status.queued_bytes),
        "log kept": kept is not None and duration(kept),
        "reconnects": bool(status.reconnects) and f"{status.reconnects:,}",
        "tables": f"{len(status.tables):,}",
    }
    text = Text()
    for name, value in found.items():
        if value:
            text.append(f"{name} ", "dim").append(value, "bold").append("  ")
    return text


def _backfilled(status: Status) -> float:
    return 0.0 if status.throughput is None else status.throughput.backfilled_rows


def spark_lines(history: History | None, width: int) -> Text:
    """The lag and the rows per second of the last hour, each with its greatest value."""
    series = history.series[0] if history is not None and history.series else None
    text = Text(no_wrap=True)
    room = max(1, width - LABEL - 22)
    lags = [] if series is None else series.lag_seconds
    rows: list[float | None] = []
    if series is not None:
        both = zip(series.rows_per_second, series.backfilled_rows_per_second, strict=True)
        rows = [None if a is None else a + (b or 0.0) for a, b in both]
    top_lag, top_rows = (max((v for v in it if v is not None), default=None) for it in (lags, rows))
    highest = ("", "") if top_lag is None else ("at most ", duration(top_lag))
    text.append(f"{'lag':<{LABEL}}", "dim").append(spark(lags, room), "cyan")
    text.append(f" {''.join(highest)}\n")
    text.append(f"{'rows/s':<{LABEL}}", "dim").append(spark(rows, room), "green")
    return text.append("" if top_rows is None else f" at most {top_rows:,.0f}")


def spark(values: Sequence[float | None], width: int) -> str:
    """The values as bars in ``width`` columns, the latest on the right. Several values share a
    column, which shows the greatest; one without a value is blank.
    """
    per = -(-len(values) // width) or 1
    # The newest column is always full, so the bars do not change as they move.
    starts = range(len(values) % per - per if len(values) % per else 0, len(values), per)
    columns = [
        max((v for v in values[max(0, at) : at + per] if v is not None), default=None)
        for at in starts
    ]
    greatest = max((value for value in columns if value is not None), default=0.0)
    bars = (" " if value is None else _bar(value, greatest) for value in columns)
    return "".join(bars).rjust(width)


def _bar(value: float, greatest: float) -> str:
    if greatest <= 0:
        return BARS[0]
    return BARS[min(len(BARS) - 1, int(value / greatest * (len(BARS) - 1) + 0.5))]


def stages(status: Status) -> Text:
    """The share of the time that each stage takes."""
    text = Text()
    text.append(f"{'stages':<{LABEL}}", "dim")
    for stage in status.stages:
        if stage.share is not None:
            style = "bold" if stage.share >= BUSY_SHARE else ""
            text.append(f"{stage.stage} {stage.share:.0%} ", style)
    return text


def backfill_lines(status: Status, count: int) -> Text:
    """A line for each of the tables that are backfilled now, at most ``count``, and the number of
    the others.
    """
    running = [table for table in status.tables if table.state == "backfilling"]
    waiting = sum(table.state not in FINISHED for table in status.tables) - len(running)
    lines = []
    for table in running[:count]:
        share = min(0.99, table.rows / table.total) if table.total else 0.0
        bar = "█" * int(share * BAR)
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{'backfill':<{LABEL}} {bar:░<{BAR}} {share:4.0%}  ")
        line.append(f"{table.rows:,} of about {table.total:,}  {printable(table.table)}")
        lines.append(line)
    if more := waiting + len(running) - len(running[:count]):
        lines.append(Text(f"{'':<{LABEL}} {more:,} more to backfill", "dim"))
    return Text("\n").join(lines)


def error_lines(status: Status, now: datetime, count: int) -> Text:
    """The last errors, at most ``count``, with what to do."""
    lines = []
    for error in status.errors[:count]:
        at = datetime.fromtimestamp(error.at, now.tzinfo)
        often = f" {error.count:,} times" if error.count > 1 else ""
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{at:%H:%M:%S}{often} {error.kind}: ", RED).append(printable(error.message))
        if error.table:
            line.append(f" [{printable(error.table)}]")
        if error.remedy:
            line.append(f" → {printable(error.remedy)}", "bold")
        lines.append(line)
    return Text("\n").join(lines)
