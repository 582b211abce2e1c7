"""``tailrace top`` against the API of a made-up pipeline, by Textual's pilot."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from engine.cli.api_address import ApiAddress
from engine.cli.top import shown
from engine.cli.top.app import PipelineScreen, TopApp
from engine.cli.top.grid import TableGrid
from engine.cli.top.watched import Watched
from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.dashboard import Dashboard
from engine.ops.history import HistoryRecorder, Work
from engine.ops.metrics import Metrics
from engine.ops.recent_errors import ErrorStatus
from engine.ops.server import HttpServer
from engine.ops.status import StageStatus, Status, TableStatus, Throughput
from engine.proof import TableProof
from engine.settings.api import ApiSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
DIFFERENT = TableProof("different", 1000.0, 1001.0, differences=3)
TABLES = (
    TableStatus("shop.evil\x1b[2J[red]", "quarantined", 5, reason="[bold]why", remedy="`do`"),
    TableStatus("shop.orders", "live", 1000, applied=7, proof=DIFFERENT),
    TableStatus("shop.lines", "backfilling", 40, 100),
)
STATUS = Status(
    pipeline="shop",
    state="streaming",
    lag_seconds=0.4,
    throughput=Throughput(1234, 5e6, 20, 0),
    stages=(StageStatus("read", 1.0, 0.97),),
    errors=(ErrorStatus(kind="SinkLost", message="it broke", since=1.0, at=1.0, count=3),),
    tables=TABLES,
)


class Made:
    """An API with a status that a test changes, and a store of commands."""

    def __init__(self, status: Status = STATUS) -> None:
        self.status = status
        self.history = HistoryRecorder()
        self.store = MemorySink(MemorySinkSettings("memory:top"), "shop", MemoryStore())
        self.port = 0

    def server(self) -> HttpServer:
        api = Api(
            Access(ApiSettings(), "127.0.0.1"),
            Metrics("shop"),
            lambda: self.status,
            commands=lambda: self.store,
            dashboard=Dashboard(lambda: self.status, self.history.history),
        )
        return HttpServer(f"127.0.0.1:{self.port}", api.app())


Work_ = Callable[[Pilot[None], Watched], Awaitable[None]]


def watching(made: Made, work: Work_, *others: Watched, size: tuple[int, int] = (80, 24)) -> None:
    async def run() -> None:
        await made.store.open(None)
        async with made.server() as server:
            watched = Watched("x", ApiAddress(f"http://127.0.0.1:{server.port}"))
            app = TopApp([watched, *others])
            async with app.run_test(size=size) as pilot:
                await until(pilot, lambda: watched.status is not None, "the status")
                await work(pilot, watched)
        await made.store.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def until(pilot: Pilot[None], condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        await pilot.pause(0.02)
    await pilot.pause()


def text(pilot: Pilot[None], name: str) -> str:
    """What a part of the screen below all questions shows."""
    screens = [it for it in pilot.app.screen_stack if isinstance(it, PipelineScreen)]
    return str(screens[-1].query_one(f"#{name}", Static).content)


def test_one_pipeline() -> None:
    async def work(pilot: Pilot[None], _: Watched) -> None:
        await until(pilot, lambda: "97%" in text(pilot, "stages"), "the stages")
        assert text(pilot, "head").startswith(
            "Following. 0.4 s behind. 1 table is quarantined. 1 table was found different"
        )
        assert "rows/s 1,234" in text(pilot, "figures")
        assert "40 of about 100  shop.lines" in text(pilot, "backfills")
        assert "3 times SinkLost: it broke" in text(pilot, "errors")
        # The worst comes first. Names are escaped, and are no markup.
        assert text(pilot, "detail") == r"shop.evil\x1b[2J[red]: [bold]why → `do`"
        grid = pilot.app.screen.query_one(TableGrid)
        assert [table.table for table in grid.shown][1:] == ["shop.lines", "shop.orders"]
        lines = [grid.render_line(y).text for y in range(4)]
        assert lines[0].startswith(r"shop.evil\x1b[2J[red]")
        assert "\x1b" not in "".join(lines)
        assert lines[2].split() == ["shop.orders", "live", "7", "3", "differ"]
        await pilot.press("s")
        assert "table ↓" in text(pilot, "heading")
        assert grid.shown[0].table.startswith("shop.evil")
        await pilot.press(*"sssss")
        assert "proven ↓" in text(pilot, "heading")
        assert grid.shown[0].table == "shop.orders"
        await pilot.press("slash", *"ORD")
        assert [table.table for table in grid.shown] == ["shop.orders"]
        await pilot.press("escape")
        assert len(grid.shown) == 3
        for size in ((40, 10), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()

    watching(Made(), work)


def test_commands_are_asked_for() -> None:
    made = Made()

    async def waiting() -> list[str]:
        async with made.store.command_client() as client:
            return [it.command for it in await client.newest(9)]

    async def work(pilot: Pilot[None], watched: Watched) -> None:
        await pilot.press("r")  # it is not paused
        assert isinstance(pilot.app.screen, PipelineScreen)
        for answer in ("n", "escape", "enter"):
            await pilot.press("p", answer)
        assert await waiting() == []
        await pilot.press("p", "y")
        await until(pilot, lambda: "waits for the engine" in watched.outcome, "the command")
        assert await waiting() == ['{"command":"pause"}']
        async with made.store.command_client() as client:
            await client.cancel(1, "by\x1b[2J hand")
        shown_as = r"pause: refused: by\x1b[2J hand"
        await until(pilot, lambda: text(pilot, "outcome") == shown_as, "the outcome")
        await pilot.press("down", "down", "b", "y")
        await until(pilot, lambda: "waits for the engine" in watched.outcome, "the command")
        assert '"shop.orders"' in (await waiting())[-1]
        pilot.app.workers.cancel_group(pilot.app, "commands")

    watching(made, work)


@pytest.mark.parametrize(
    ("key", "asked", "command"),
    [
        ("t", "Retry all dead letters?", {"action": "retry", "all": True}),
        ("d", "Discard all dead letters?", {"action": "discard", "all": True}),
        ("l", "Reload the configuration?", {"command": "reload"}),
        ("x", "Stop the engine?", {"command": "stop"}),
    ],
)
def test_the_other_keys_ask_for_their_commands(
    key: str, asked: str, command: dict[str, object]
) -> None:
    made = Made(msgspec.structs.replace(STATUS, dead_letters=2))

    async def waiting() -> list[str]:
        async with made.store.command_client() as client:
            return [it.command for it in await client.newest(9)]

    async def work(pilot: Pilot[None], watched: Watched) -> None:
        await pilot.press(key)
        assert asked in str(pilot.app.screen.query_one(Static).content)
        await pilot.press("n")
        assert await waiting() == []
        await pilot.press(key, "y")
        await until(pilot, lambda: "waits for the engine" in watched.outcome, "the command")
        (given,) = map(json.loads, await waiting())
        assert command.items() <= given.items()
        pilot.app.workers.cancel_group(pilot.app, "commands")

    watching(made, work)


def test_without_dead_letters_their_keys_do_nothing() -> None:
    async def work(pilot: Pilot[None], _: Watched) -> None:
        for key in ("t", "d"):
            await pilot.press(key)
            assert isinstance(pilot.app.screen, PipelineScreen)

    watching(Made(), work)


def test_a_pipeline_that_does_not_answer_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.cli.top.watched.POLL_SECONDS", 0.05)
    made = Made()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(made.server())
            made.port = server.port
            watched = Watched("x", ApiAddress(f"http://127.0.0.1:{made.port}"))
            async with TopApp([watched]).run_test(size=(80, 24)) as pilot:
                await until(pilot, lambda: "Following" in text(pilot, "head"), "an answer")
                await stack.aclose()
                await until(pilot, lambda: "No answer since" in text(pilot, "head"), "it is away")
                assert "Below is the last status." in text(pilot, "head")
                assert len(pilot.app.screen.query_one(TableGrid).shown) == 3
                await pilot.press("p")  # there is nobody to ask
                assert isinstance(pilot.app.screen, PipelineScreen)
                made.status = msgspec.structs.replace(STATUS, state="paused")
                async with made.server():
                    await until(pilot, lambda: "Paused" in text(pilot, "head"), "it is back")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_many_pipelines() -> None:
    other = Watched("https\x1b[2J", ApiAddress("http://127.0.0.1:1"))

    async def work(pilot: Pilot[None], _: Watched) -> None:
        table = pilot.app.screen.query_one(DataTable)

        def cells(row: int) -> list[str]:
            return [str(cell) for cell in table.get_row_at(row)]

        await until(pilot, lambda: cells(0)[0] == "shop", "the first")
        assert cells(0)[1:5] == ["0.4 s", "1,234", "1", ""]
        await until(pilot, lambda: "No answer since" in cells(1)[5], "the second")
        assert cells(1)[0] == r"https\x1b[2J"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PipelineScreen), "it is open")
        await pilot.press("escape")
        await until(pilot, lambda: table.is_attached and table.has_focus, "it is closed")

    watching(Made(), work, other)


def test_ten_thousand_tables() -> None:
    tables = tuple(TableStatus(f"shop.t{n:05}", "live", n) for n in range(10_000))
    made = Made(msgspec.structs.replace(STATUS, tables=tables))

    async def work(pilot: Pilot[None], _: Watched) -> None:
        grid = pilot.app.screen.query_one(TableGrid)
        await until(pilot, lambda: len(grid.shown) == 10_000, "the tables")
        started = time.monotonic()
        await pilot.press("end")
        assert grid.selected is not None
        assert grid.selected.table == "shop.t09999"
        grid.show(made.status.tables)
        assert grid.selected.table == "shop.t09999"
        await pilot.press("slash", *"t0777")
        assert len(grid.shown) == 10
        assert time.monotonic() - started < 10

    watching(made, work)


def test_bars() -> None:
    assert shown.spark([], 4) == "    "
    assert shown.spark([0.0, None, 0.0], 4) == " ▁ ▁"
    assert shown.spark([0.0, 1.0, 7.0], 3) == "▁▂█"
    assert shown.spark([9.0, 1.0, 1.0, 2.0, 0.0], 3) == "█▂▃"
    recorder = HistoryRecorder()
    for n in range(720):
        recorder.add(n * 5.0, float(n), Work(rows=n * 50))
    for width in (10, 80, 300):
        lag, rows = shown.spark_lines(recorder.history(), width).plain.split("\n")
        assert lag.endswith("█ at most 12 min")
        assert rows.endswith("at most 10")
