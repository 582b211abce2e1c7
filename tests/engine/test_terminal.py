"""
The terminal views, drawn to text: what they show, that they fit, and how rates are computed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from rich.console import Console, RenderableType

from engine.checkpoint import TableState
from engine.cli.tables import findings_table, status_table, verify_table
from engine.contract import Finding
from engine.ops.status import Status, TableStatus
from engine.ops.terminal import RateMeter, TerminalView
from engine.verify.report import Difference, TableReport, VerifyReport

STATES: tuple[TableState, ...] = ("live", "catching_up", "backfilling", "pending")


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def status(**changes: Any) -> Status:
    """A pipeline during its backfill: 200 of 400 rows are written."""
    tables = tuple(
        TableStatus(f"shop.{state}", state, rows, 100)
        for state, rows in zip(STATES, (100, 60, 40, 0), strict=True)
    )
    whole = Status(
        pipeline="demo",
        state="backfilling",
        rows=1500,
        backfilled_rows=200,
        reconnects=0,
        position="3f1c1e6a-0000-11f0-9a00-0242ac110002:1-77",
        lag_seconds=0.4,
        lag_bytes=1_234_567,
        tables=tables,
    )
    return msgspec.structs.replace(whole, **changes)


def draw(view: RenderableType, *, width: int = 80, height: int = 25) -> str:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_a_rate_covers_the_last_seconds() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    assert meter.update(0) == 0.0
    for count in (100, 200, 300, 400, 500):
        clock.now += 1
        rate = meter.update(count)
    assert rate == 100.0
    for _ in range(5):
        clock.now += 1
        rate = meter.update(500)
    assert rate == 0.0


def test_a_rate_is_never_negative_after_a_restart() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    meter.update(50_000)
    clock.now += 1
    assert meter.update(10) == 0.0
    clock.now += 1
    assert meter.update(30) == 20.0


def test_the_live_view_shows_progress_rate_and_lag() -> None:
    clock = Clock()
    view = TerminalView(clock)
    view.render(status(backfilled_rows=100, rows=1000))
    clock.now += 2
    text = draw(view.render(status()))
    assert "backfilling  50 rows/s  250 changes/s  lag 0.4 s\n" in text
    # The table that is catching up has all its 60 rows: 200 of 100 + 60 + 100 + 100.
    assert "56%  200 rows  3.2 s left" in text
    assert "applied 1,500  position 3f1c1e6a-0000-11f0-9a00-0242ac110002:1-77" in text
    behind = status(lag_seconds=75.0, reconnects=2)
    assert "lag 1 min 15 s (1.2 MB)" in draw(view.render(behind))
    assert "reconnects 2" in draw(view.render(behind))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("height", [10, 25, 50])
def test_the_live_view_fits_the_terminal(width: int, height: int) -> None:
    tables = tuple(
        TableStatus(f"shop.{'x' * 100}{number}", STATES[number % 4], 10**9) for number in range(40)
    )
    position = ",".join(f"3f1c1e6a-0000-11f0-9a00-0242ac11000{n}:1-99999999" for n in range(9))
    text = draw(
        TerminalView().render(status(tables=tables, position=position, reconnects=12)),
        width=width,
        height=height,
    )
    lines = text.rstrip("\n").split("\n")
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert "backfilling" in lines[3]
    assert ("more: " in text) == (height < 50)
    assert "0242ac110008:1-99999999" in text
    assert "reconnects 12" in text


def test_a_pipeline_that_is_still_connecting_can_be_drawn() -> None:
    now = status(state="connecting", tables=(), position=None, lag_seconds=None, lag_bytes=None)
    text = draw(TerminalView().render(now))
    assert "connecting" in text
    assert "none yet" in text
    assert "lag" not in text
    assert TerminalView().line(now) == "connecting"


def test_without_a_terminal_the_status_is_one_line() -> None:
    clock = Clock()
    view = TerminalView(clock)
    view.line(status(backfilled_rows=0))
    clock.now += 1
    assert view.line(status()) == "backfilling 200 rows (56%), 200 rows/s, lag 0.4 s"
    live = (TableStatus("shop.a", "live", 7, 9),)
    clock.now += 1
    later = status(state="streaming", tables=live, rows=1900, lag_seconds=None, reconnects=1)
    assert view.line(later) == "streaming 200 changes/s, 1,900 applied, reconnects 1"


def test_findings_are_sorted_by_level_and_say_what_to_type() -> None:
    findings = [
        Finding("ok", "source", "connected"),
        Finding("warning", "shop.ledger", "no key [x]", "ALTER TABLE shop.ledger"),
        Finding(
            "error", "source", "binlog_format is STATEMENT", "SET GLOBAL binlog_format = 'ROW'"
        ),
    ]
    text = draw(findings_table(findings))
    order = [text.index(finding.message) for finding in findings]
    assert order == sorted(order, reverse=True)
    assert "→ SET GLOBAL binlog_format = 'ROW'" in text
    assert "1 error, 1 warning, 1 ok" in text
    assert "0 errors, 2 warnings, 0 ok" in draw(findings_table(findings[1:2] * 2))


def test_the_place_is_shown_where_the_source_has_one() -> None:
    """The form of errors and of `tailrace skip` is for people; a checkpoint has another one."""
    shown = status(position='{"server":"3f1c","file":"b.000001"}', place="b.000001:827")
    text = draw(TerminalView().render(shown))
    assert "position b.000001:827" in text
    table = draw(status_table(msgspec.structs.replace(shown, state=None)))
    assert "b.000001:827" in table
    assert "server" not in text + table


def test_the_status_table_shows_the_whole_position_and_every_table() -> None:
    position = ",".join(f"3f1c1e6a-0000-11f0-9a00-0242ac11000{n}:1-99999999" for n in range(5))
    stored = status(position=position, state=None, rows=None, backfilled_rows=None, epoch=3)
    text = draw(status_table(stored), height=5)
    assert position in "".join(text.split())
    for state in STATES:
        assert f"shop.{state}" in text


def test_only_tables_in_backfill_have_a_number_of_expected_rows() -> None:
    """GIVEN no table in backfill THEN the column is left out: it says nothing of the others."""
    names: tuple[TableState, ...] = ("quarantined", "live", "excluded")
    tables = tuple(TableStatus(f"shop.{state}", state, 7, 9) for state in names)
    assert "expected" not in draw(status_table(status(tables=tables, state=None)))
    lines = draw(status_table(status(state=None))).splitlines()
    heading = next(line.split() for line in lines if "table" in line.split())
    assert heading[:4] == ["table", "state", "backfilled", "expected"]
    pending = next(line for line in lines if "shop.pending" in line)
    assert pending.split() == ["shop.pending", "pending", "100"]


def test_differences_are_named_by_key_and_column() -> None:
    different = TableReport(
        *("shop.orders", 1234, 12, 1, 0, 0.5, False),
        differences=(
            Difference("changed", ("7", "[bold]"), ("total", "due")),
            Difference("missing", ("8", None)),
            *(Difference("changed", (str(n),), ("total",)) for n in range(11)),
        ),
    )
    unread = TableReport("shop.log", 0, 0, 0, 0, 0.1, False, inconclusive="it was dropped")
    equal = TableReport("shop.stock", 10, 0, 0, 0, 0.1, True)
    keyless = TableReport("shop.visit", 0, 0, 2, 1, 0.1, False)
    text = draw(verify_table(VerifyReport(False, 75.0, (different, unread, equal, keyless))))
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:5]}
    assert lines == {
        "shop.orders": ["1,234", "rows", "0.5", "s", "12", "differ,", "1", "missing"],
        "shop.log": ["0", "rows", "0.1", "s", "inconclusive"],
        "shop.stock": ["10", "rows", "0.1", "s", "equal"],
        "shop.visit": ["0", "rows", "0.1", "s", "2", "missing,", "1", "extra"],
    }
    assert "shop.orders (7, [bold]): changed in total, due" in text
    assert "shop.orders (8, NULL): missing" in text
    assert "shop.orders: 3 more rows differ" in text
    assert "shop.log: not compared to its end: it was dropped" in text
    assert "shop.visit: no row is named, because the table has no key" in text
    assert "4 tables, 1,244 rows, 1 min 15 s" in text
