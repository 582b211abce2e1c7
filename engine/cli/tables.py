"""
The tables that commands print: the stored status, preflight findings, the result of a comparison,
the steps of a cutover.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.contract import Finding
from engine.handover import Cutover
from engine.ops.log import printable
from engine.ops.status import Status, TableStatus
from engine.ops.terminal import tables_table
from engine.ops.words import counted, duration, headline, shown_clock, size
from engine.verify.report import TableReport, VerifyReport

__all__ = ["cutover_table", "findings_table", "progress_table", "status_table", "verify_table"]

#: Differing rows that are listed per table. The JSON result has more.
LISTED_DIFFERENCES = 10
#: How far the message of a finding is indented.
INDENT = 8
LEVEL_STYLE = {
    "ok": "green",
    "fine": "green",
    "busy": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


def status_table(status: Status) -> RenderableType:
    """The status as it is stored in the target, or as the engine tells it, with its state."""
    summary = Table.grid(padding=(0, 2))
    summary.add_row("pipeline", Text(printable(status.pipeline)))
    if status.running is None and status.state is not None:
        words = headline(status, datetime.now().astimezone())
        summary.add_row("state", Text(printable(words.text), style=LEVEL_STYLE[words.level]))
        if words.remedy:
            summary.add_row("", Text(f"→ {printable(words.remedy)}", style="bold"))
    if status.running is not None:
        none = Text("none is connected to the target", style="bold red")
        summary.add_row("engine", "running" if status.running else none)
    summary.add_row("position", Text(status.place or status.position or "", overflow="fold"))
    lag = "unknown" if status.lag_seconds is None else duration(status.lag_seconds)
    behind = "" if status.lag_bytes is None else f", {size(status.lag_bytes)} of log"
    summary.add_row("lag", f"{lag}{behind}")
    if clock := shown_clock(status.clock_ahead_seconds):
        summary.add_row("clock", Text(clock, style="yellow"))
    if status.log_kept_seconds is not None:
        summary.add_row(
            "log", f"kept by the source for at least {duration(status.log_kept_seconds)}"
        )
    summary.add_row("backfill", f"{status.fraction:.0%}, {status.backfilled:,} rows")
    if status.problem:
        summary.add_row("problem", Text(printable(status.problem), style="bold red"))
    remedies = [_remedy(status.remedy)] if status.problem and status.remedy else []
    return Group(summary, *remedies, Text(), progress_table(status.tables))


def progress_table(tables: Sequence[TableStatus]) -> RenderableType:
    """The state of each table, then why tables are quarantined or backfilled again, and which have
    dead letters.
    """
    reasons = [line for table in tables if table.reason for line in _reason(table)]
    shown = tables_table(tables, len(tables), changes=True)
    return Group(shown, *([Text()] if reasons else []), *reasons)


def _reason(table: TableStatus) -> list[Text]:
    """Why a table is quarantined or backfilled again, since when, its dead letters, and what to
    do.
    """
    text = Text(printable(f"{table.table} is {table.state.replace('_', ' ')}: {table.reason}"))
    if table.since is not None:
        text.append(f"\n  since {datetime.fromtimestamp(table.since, UTC):%Y-%m-%d %H:%M:%S} UTC")
    if table.position:
        text.append(f"\n  at {printable(table.position)}")
    if table.statement:
        text.append(f"\n  {printable(table.statement)}")
    if table.dead_letters:
        text.append(f"\n  dead letters: {table.dead_letters:,}")
    return [text, _remedy(table.remedy)] if table.remedy else [text]


def _remedy(remedy: str, indent: int = 2) -> Text:
    """A line that is never folded, so that a command can be copied in one piece."""
    line = f"{' ' * indent}→ {printable(remedy)}"
    return Text(line, style="bold", no_wrap=True, overflow="ignore")


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """The findings of a preflight check, errors first, each with its remedy."""
    order = ["error", "warning", "ok"]
    lines: list[RenderableType] = []
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        heading = Text.assemble(
            (f"{finding.level:<8}", LEVEL_STYLE[finding.level]),
            f"{finding.code:<6} ",
            (printable(finding.subject), "bold"),
        )
        message = Text(printable(finding.message))
        if finding.level == "ok":
            lines.append(heading.append("  ").append(message))
            continue
        lines += [heading, Padding(message, (0, 0, 0, INDENT))]
        if finding.action:
            lines.append(_remedy(finding.action, INDENT))
    errors, warnings, fine = (sum(it.level == level for it in findings) for level in order)
    counts = f"{counted(errors, 'error', 'errors')}, {counted(warnings, 'warning', 'warnings')}"
    return Group(*lines, Text(f"{counts}, {fine:,} ok", style="dim"))


def verify_table(report: VerifyReport) -> RenderableType:
    """The result of ``tailrace verify``: each table, then the differences by key and column."""
    table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    table.add_column("table", ratio=1, overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("by")
    table.add_column("time", justify="right")
    table.add_column("result")
    notes: list[RenderableType] = []
    for each in report.tables:
        how = (each.method, duration(each.seconds))
        table.add_row(Text(printable(each.table)), f"{each.rows:,}", *how, _result(each))
        notes += _notes(each)
    rows = sum(each.rows for each in report.tables)
    tables = counted(len(report.tables), "table", "tables")
    summary = f"{tables}, {counted(rows, 'row', 'rows')}, {duration(report.seconds)}"
    return Group(table, *notes, Text(summary, style="dim"))


def _result(report: TableReport) -> Text:
    if report.equal:
        return Text("no difference in a sample" if report.sample else "equal", style="green")
    if not report.differing + report.missing + report.extra:
        return Text("inconclusive", style="yellow")
    counts = {"differ": report.differing, "missing": report.missing, "extra": report.extra}
    shown = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return Text(shown, style="bold red")


def _notes(report: TableReport) -> list[Text]:
    """What is wrong with a table, a line each."""
    notes = []
    if report.inconclusive:
        reason = f"{report.table}: not compared to its end: {report.inconclusive}"
        notes.append(Text(printable(reason), style="yellow"))
    if report.reason:
        reason = f"{report.table}: all rows are read: {report.reason}"
        notes.append(Text(printable(reason), style="dim"))
    if report.method == "checksums" and report.read:
        reason = f"{report.table}: {counted(report.read, 'row', 'rows')} compared one by one"
        notes.append(Text(printable(reason), style="dim"))
    if report.sample is not None:
        notes.append(Text(printable(f"{report.table}: {report.sample.text}")))
    for each in report.replaced:
        if each.values:
            text = f"{report.table}: {each.changed} in {each.column}: {each.values:,}"
            notes.append(Text(printable(text), style="dim"))
    for row in report.differences[:LISTED_DIFFERENCES]:
        columns = f" in {', '.join(row.columns)}" if row.columns else ""
        key = ", ".join("NULL" if part is None else part for part in row.key)
        notes.append(Text(printable(f"{report.table} ({key}): {row.kind}{columns}"), style="red"))
    wrong = report.differing + report.missing + report.extra
    more = wrong - min(len(report.differences), LISTED_DIFFERENCES)
    if more and report.differences:
        notes.append(Text(printable(f"{report.table}: {more:,} more rows differ"), style="red"))
    elif more:
        why = "no row is named, because the table has no key, or a masked one"
        notes.append(Text(printable(f"{report.table}: {why}"), style="dim"))
    return notes


def cutover_table(cutover: Cutover) -> RenderableType:
    """The steps of a cutover, with the predicted times, and the downtime."""
    table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    table.add_column("step")
    table.add_column("did", ratio=1, overflow="fold")
    table.add_column("predicted", justify="right")
    table.add_column("took", justify="right")
    for step in cutover.steps:
        predicted = cutover.predicted.get(step.step)
        said = "" if predicted is None else f"{predicted:.2f} s"
        table.add_row(step.step, Text(printable(step.did)), said, f"{step.seconds:.2f} s")
    downtime, predicted = cutover.downtime_seconds, cutover.predicted_seconds
    if downtime is not None:
        said = "" if predicted is None else f"{predicted:.2f} s"
        table.add_row("downtime", "", said, f"{downtime:.2f} s", style="bold")
    return table
