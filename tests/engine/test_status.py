"""The status: what is derived from it, the backlog, and the page that describes its fields."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from engine.checkpoint import Cause, TableProgress, TableState
from engine.errors import ApplyError, SinkLost, SourceLost
from engine.log_status import LogAhead
from engine.ops.history import Series
from engine.ops.metric_list import Stage
from engine.ops.metrics import Metrics
from engine.ops.monitor import Monitor
from engine.ops.recent_errors import ErrorStatus, RecentErrors
from engine.ops.status import (
    STATUS_VERSION,
    PipelineState,
    StageStatus,
    Status,
    TableStatus,
    TableStatuses,
    Throughput,
)
from engine.ops.table_counters import TableCounters
from engine.proof import TableProof
from engine.remedies import BACKFILL
from engine.schema import TableId
from tests.support.waiting import wait_until_async

PAGE = Path(__file__).parents[2] / "docs" / "status.md"
ITEM, PART = TableId("shop", "item"), TableId("shop", "part")
EQUAL = TableProof("equal", 1000.0, 1001.0, equal_at=1000.0)
DIFFERENT = TableProof("different", 1000.0, 1001.0, rows=5000, differences=1200)


# -- tables ----------------------------------------------------------------------------------------


def test_the_tables_are_ordered_by_name() -> None:
    progress = {PART: TableProgress("live", rows=7), ITEM: TableProgress("pending", estimate=9)}
    assert TableStatuses().of(progress) == (
        TableStatus("shop.item", "pending", 0, 9),
        TableStatus("shop.part", "live", 7, 0),
    )


def test_the_same_progress_gives_the_same_tuple() -> None:
    statuses = TableStatuses()
    progress = {ITEM: TableProgress("backfilling", "[5]", 5, 9, "1")}
    before = statuses.of(progress)
    assert statuses.of(progress) is before
    after = statuses.of({ITEM: progress[ITEM].backfilled(1, "[6]", "1")})
    assert after == (TableStatus("shop.item", "backfilling", 6, 9),)
    assert before == (TableStatus("shop.item", "backfilling", 5, 9),)
    assert statuses.of({}) == ()


def test_only_tables_that_were_counted_change() -> None:
    statuses, counters = TableStatuses(), TableCounters()
    progress = {PART: TableProgress("live"), ITEM: TableProgress("live")}
    before = statuses.of(progress, counters=counters)
    counters.add(PART, ("tailrace_rows_total", "insert"), 3)
    counters.add(PART, ("tailrace_rows_total", "update"), 2)
    counters.add(PART, ("tailrace_rows_total", "read"), 50)
    counters.add(PART, ("tailrace_drift_total",), 1)
    counters.add(PART, ("tailrace_replaced_values_total", "note", "nul_byte"), 4)
    counters.add(TableId("shop", "gone"), ("tailrace_drift_total",), 1)
    item, part = statuses.of(progress, counters=counters)
    assert item is before[0]
    assert part == TableStatus("shop.part", "live", applied=5, drift=1, replaced=4)
    assert statuses.of(progress, counters=counters)[1] is part
    # Another progress does not forget them.
    again = {**progress, ITEM: TableProgress("pending")}
    assert statuses.of(again, counters=counters)[1] == part


def test_tables_have_their_last_comparison() -> None:
    statuses, counters = TableStatuses("shop.toml"), TableCounters()
    progress = {PART: TableProgress("live"), ITEM: TableProgress("live")}
    counters.add(ITEM, ("tailrace_drift_total",), 1)
    counters.proven({PART: EQUAL})  # it was known before the first status
    first = statuses.of(progress, counters=counters)
    assert [(it.table, it.proof, it.drift) for it in first] == [
        ("shop.item", None, 1),
        ("shop.part", EQUAL, 0),
    ]
    counters.proven({PART: EQUAL, ITEM: DIFFERENT, TableId("shop", "gone"): EQUAL})
    item, part = statuses.of(progress, counters=counters)
    assert part is first[1]
    assert (item.proof, item.drift, item.differs) == (DIFFERENT, 1, True)
    assert item.reason == "the last comparison found 1,200 rows different from the source"
    assert "`tailrace verify shop.toml --table shop.item --repair`" in item.remedy
    # What else is wrong with a table comes first, and the proof stays.
    cause = Cause("a value is refused", hint="look")
    item, _ = statuses.of({**progress, ITEM: TableProgress("quarantined", cause=cause)})
    assert (item.reason, item.remedy) == ("a value is refused", "look")
    counters.proven({})
    assert [it.proof for it in statuses.of(progress, counters=counters)] == [None, None]


def test_a_running_engine_shows_what_other_processes_have_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN a target that is away at first."""
    monkeypatch.setattr("engine.ops.monitor.PROOF_SECONDS", 0.01)
    answers: list[dict[TableId, TableProof] | SinkLost] = [SinkLost("away"), {}, {PART: EQUAL}]
    metrics = Metrics("p")

    async def proofs() -> dict[TableId, TableProof]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, SinkLost):
            raise answer
        return answer

    async def run() -> None:
        watching = asyncio.create_task(
            Monitor(Running("streaming", "7"), metrics).watch_proofs(proofs)
        )
        await wait_until_async(lambda: metrics.tables.proof(PART) == EQUAL)
        watching.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("state", "rows", "estimate", "total"),
    [
        ("pending", 0, 100, 100),
        ("backfilling", 40, 100, 100),
        ("backfilling", 140, 100, 140),
        ("catching_up", 60, 100, 60),
        ("live", 60, 100, 60),
        ("live", 0, 100, 0),
    ],
)
def test_the_total_of_a_table(state: TableState, rows: int, estimate: int, total: int) -> None:
    assert TableStatus("shop.item", state, rows, estimate).total == total


@pytest.mark.parametrize(
    ("tables", "backfilled", "total", "fraction"),
    [
        ([], 0, 0, 0.0),
        ([("pending", 0, 0)], 0, 0, 0.0),
        ([("pending", 0, 300), ("live", 100, 90)], 100, 400, 0.25),
        ([("backfilling", 50, 100), ("catching_up", 100, 200)], 150, 200, 0.75),
        # More rows than expected: the rest of the table is unknown.
        ([("backfilling", 150, 100)], 150, 150, 0.99),
        ([("live", 0, 50), ("catching_up", 0, 0)], 0, 0, 1.0),
    ],
)
def test_the_finished_part_of_all_backfills(
    tables: list[tuple[TableState, int, int]], backfilled: int, total: int, fraction: float
) -> None:
    status = Status(tables=tuple(TableStatus(f"shop.t{n}", *it) for n, it in enumerate(tables)))
    assert (status.backfilled, status.total) == (backfilled, total)
    assert status.fraction == fraction


# -- the backlog -----------------------------------------------------------------------------------


class Log:
    """A log whose backlog grows by 100 bytes with each request, or that is lost."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.lost = False

    def backlog(self, position: str) -> int | None:
        self.asked.append(position)
        self.threads.add(threading.get_ident())
        if self.lost:
            raise SourceLost("the connection was lost")
        return 100 * len(self.asked)


class Running:
    """A pipeline whose status the test sets."""

    def __init__(self, state: PipelineState, position: str | None) -> None:
        self.source: Log = Log()
        self.shown = 0
        self.now = Status(
            pipeline="p", state=state, position=position, committed_position=position, rows=7
        )

    def status(self) -> Status:
        self.shown += 1
        return self.now


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor asks often."""
    monkeypatch.setattr("engine.ops.monitor.BACKLOG_SECONDS", 0.001)
    monkeypatch.setattr("engine.ops.monitor.FIRST_SECONDS", 0.001)
    monkeypatch.setattr("engine.ops.monitor.FRESH_SECONDS", 0.0)


def test_the_status_carries_the_backlog_of_the_source() -> None:
    """The source is asked on a worker thread, because it blocks."""

    async def work() -> None:
        pipeline = Running("streaming", "77")
        monitor = Monitor(pipeline, Metrics("p"))
        assert monitor.status().rows == pipeline.now.rows
        watching = asyncio.create_task(monitor.watch())
        await wait_until_async(lambda: (monitor.status().lag_bytes or 0) >= 200)
        shown = monitor.status()
        assert shown.throughput == Throughput(0.0, 0.0, 0.0, 0.0)
        assert [it.stage for it in shown.stages] == list(get_args(Stage))
        assert {it.share for it in shown.stages} == {0.0}
        assert b'tailrace_lag_bytes{pipeline="p"}' in monitor.render("")[0]
        assert set(pipeline.source.asked) == {"77"}
        assert threading.get_ident() not in pipeline.source.threads
        pipeline.source.lost = True
        asked = len(pipeline.source.asked)
        await wait_until_async(lambda: len(pipeline.source.asked) > asked + 1)
        assert (monitor.status().lag_bytes or 0) >= 200
        watching.cancel()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_backlog_is_asked_for_between_two_attempts_and_unknown_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        pipeline = Running("connecting", "77")
        monitor = Monitor(pipeline, Metrics("p"))
        await monitor.refresh()
        assert monitor.status().lag_bytes == 100
        monkeypatch.setattr("engine.ops.monitor.STALE_SECONDS", 0.0)
        pipeline.source.lost = True
        await monitor.refresh()
        assert monitor.status().lag_bytes is None

    asyncio.run(asyncio.wait_for(work(), 20))


class DescribedLog(Log):
    """A log that tells how long it is kept."""

    def log_ahead(self, position: str, lag_seconds: float) -> LogAhead:
        if self.lost:
            raise SourceLost("the connection was lost")
        return LogAhead(transactions=3, kept_seconds=3600.0)


def test_the_time_for_which_the_log_is_kept_falls_while_the_source_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        pipeline = Running("streaming", "77")
        pipeline.source = log = DescribedLog()
        pipeline.now = msgspec.structs.replace(pipeline.now, lag_seconds=1.0)
        monitor = Monitor(pipeline, Metrics("p"))
        assert monitor.status().log_kept_seconds is None
        await monitor.refresh()
        known = monitor.status()
        assert known.lag_transactions == 3
        assert 3590 < (known.log_kept_seconds or 0) <= 3600
        log.lost = True
        monkeypatch.setattr("engine.ops.monitor.STALE_SECONDS", 0.0)
        await monitor.refresh()
        stale = monitor.status()
        assert stale.lag_transactions is None
        assert 3590 < (stale.log_kept_seconds or 0) < (known.log_kept_seconds or 0)
        assert b"tailrace_log_kept_seconds{" in monitor.render("")[0]
        monkeypatch.setattr(monitor, "_known_at", time.monotonic() - 4000)
        assert monitor.status().log_kept_seconds == 0

    asyncio.run(asyncio.wait_for(work(), 20))


@pytest.mark.parametrize(("state", "position"), [("stopped", "77"), ("streaming", None)])
def test_a_source_without_a_stream_is_not_asked(state: PipelineState, position: str | None) -> None:
    async def work() -> None:
        pipeline = Running(state, position)
        monitor = Monitor(pipeline, Metrics("p"))
        watching = asyncio.create_task(monitor.watch())
        await wait_until_async(lambda: pipeline.shown > 6)
        assert pipeline.source.asked == []
        assert monitor.status().lag_bytes is None
        watching.cancel()

    asyncio.run(asyncio.wait_for(work(), 20))


# -- the last errors -------------------------------------------------------------------------------


def test_the_same_error_again_is_counted_and_the_newest_is_first() -> None:
    now = 100.0
    errors = RecentErrors("pipeline.toml", clock=lambda: now)
    for _ in range(3):
        errors.add(SourceLost("refused", hint="check the network"))
        now += 1.0
    errors.add(ApplyError("too long", hint=f"widen it, or {BACKFILL}", table=ITEM, position="77"))
    refused = SourceLost("refused")
    refused.transaction = "5"
    errors.add(refused)
    last, other = errors.shown()
    skip = "`tailrace skip pipeline.toml --transaction 5` goes on without the whole transaction"
    assert (last.kind, last.message, last.count, last.retried) == ("SourceLost", "refused", 4, True)
    assert (last.since, last.at) == (100.0, 103.0)
    assert skip in last.remedy
    assert other == ErrorStatus(
        kind="ApplyError",
        message="too long",
        remedy="widen it, or `tailrace backfill pipeline.toml shop.item` reads the table again",
        table="shop.item",
        position="77",
        since=103.0,
        at=103.0,
    )


def test_the_last_errors_are_few() -> None:
    errors = RecentErrors()
    for number in range(100):
        errors.add(SourceLost(f"error {number}"))
    assert [it.message for it in errors.shown()] == [f"error {n}" for n in range(99, 79, -1)]


# -- the page --------------------------------------------------------------------------------------


def documented(heading: str) -> list[str]:
    """The names in the first column of the table under a heading of the page."""
    _, found, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found, f"no heading {heading}"
    return re.findall(r"^\| *`(\w+)` *\|", section.partition("\n## ")[0], re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("Status", Status),
        ("Table", TableStatus),
        ("Proof", TableProof),
        ("Stage", StageStatus),
        ("Throughput", Throughput),
        ("Error", ErrorStatus),
        ("History", Series),
    ],
)
def test_the_page_describes_every_field_in_order(
    heading: str, struct: type[msgspec.Struct]
) -> None:
    assert documented(heading) == [field.encode_name for field in msgspec.structs.fields(struct)]


def test_the_page_names_the_version_and_the_states() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.search(rf"`version` is {STATUS_VERSION}\b", text)
    for states in (PipelineState, TableState):
        for state in get_args(states):
            assert f"`{state}`" in text


def test_the_version_is_part_of_the_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Status()))["version"] == STATUS_VERSION


def test_a_field_that_goes_needs_a_new_version() -> None:
    """Each version of the status has these fields at least."""
    fields = {
        1: (
            *("version", "pipeline", "state", "epoch", "position", "rows", "backfilled_rows"),
            *("reconnects", "lag_seconds", "lag_bytes", "tables"),
        )
    }
    assert set(fields[STATUS_VERSION]) <= set(Status.__struct_fields__)
    assert {"table", "state", "rows", "estimate"} <= set(TableStatus.__struct_fields__)
