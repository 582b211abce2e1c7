"""The dashboard: its files, its events, and the page in a browser with 10,000 tables."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.dashboard import ASSETS, STREAMS, Dashboard
from engine.ops.history import History, HistoryRecorder, Work
from engine.ops.metrics import Metrics
from engine.ops.recent_errors import ErrorStatus
from engine.ops.server import HttpServer
from engine.ops.status import Status, TableStatus
from engine.proof import TableProof
from engine.settings.api import ApiSettings
from tests.support.browser import open_page
from tests.support.record_dashboard import IMAGES, PICTURES, record

TABLES = 10_000
TOKEN = "a-token-of-some-length"


def many() -> tuple[TableStatus, ...]:
    tables = [
        TableStatus(f"shop.table_{number:05}", state="live", applied=number)
        for number in range(TABLES)
    ]
    tables[7] = TableStatus("shop.orders", "backfilling", rows=250, estimate=1000)
    tables[42] = TableStatus(
        "shop.table_00042", "live", proof=TableProof("different", 1.0, 2.0, differences=1_200)
    )
    tables[43] = TableStatus(
        "shop.table_00043", "live", proof=TableProof("equal", 1.0, 2.0, equal_at=1.0)
    )
    tables[8] = TableStatus("shop.<b>bold</b>", "quarantined", reason="a value is refused")
    return tuple(tables)


STATUS = Status(
    pipeline="shop",
    state="streaming",
    lag_seconds=0.4,
    dead_letters=0,
    tables=many(),
    errors=(
        ErrorStatus(
            kind="SinkLost",
            message="<script>alert(1)</script>",
            remedy="`tailrace check shop.toml`",
            since=1.0,
            at=2.0,
        ),
    ),
)


def history() -> History:
    recorder = HistoryRecorder()
    for second in range(0, 7200, 5):
        recorder.add(1.8e9 + second, 0.5, Work(rows=100 * second))
    return recorder.history()


class Served:
    """A dashboard that is served by another thread. ``status`` may be changed."""

    def __init__(self, settings: ApiSettings) -> None:
        self.status = STATUS
        self.port = 0
        self._settings = settings
        self._ready = threading.Event()
        self._loop = uvloop.new_event_loop()
        self._end = asyncio.Event()

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        access = Access(self._settings, "127.0.0.1")
        dashboard = Dashboard(lambda: self.status, history, "shop.toml")
        api = Api(access, Metrics("shop"), lambda: self.status, dashboard=dashboard)
        async with HttpServer("127.0.0.1:0", api.app()) as server:
            self.port = server.port
            self._ready.set()
            await self._end.wait()

    def wait(self) -> None:
        assert self._ready.wait(10)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)


@contextmanager
def served(settings: ApiSettings | None = None) -> Iterator[Served]:
    server = Served(settings or ApiSettings())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        server.wait()
        yield server
    finally:
        server.end()
        thread.join(10)


async def read_events(port: int, count: int) -> list[tuple[str, dict[str, object]]]:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        writer.write(b"GET /events?zone=Asia/Tokyo HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found: list[tuple[str, dict[str, object]]] = []
        name = ""
        while len(found) < count:
            line = (await reader.readline()).decode()
            if line.startswith("event: "):
                name = line.removeprefix("event: ").strip()
            if line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
        writer.close()
        await writer.wait_closed()
        return found


def test_events_have_the_status_and_the_tables_that_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.ops.dashboard.STATUS_SECONDS", 0.05)

    async def work(server: Served) -> None:
        reading = asyncio.create_task(read_events(server.port, 6))
        await asyncio.sleep(0)
        first = await read_events(server.port, 2)
        assert [name for name, _ in first] == ["status", "tables"]
        status, tables = first[0][1], first[1][1]
        assert status["headline"] == {
            "level": "warning",
            "text": "Following. 0.4 s behind. 1 table is quarantined."
            " 1 table was found different from the source.",
            "remedy": "`tailrace tables shop.toml`",
        }
        assert status["states"] == {"live": TABLES - 2, "backfilling": 1, "quarantined": 1}
        assert isinstance(tables["changed"], list)
        assert len(tables["changed"]) == TABLES
        changed = msgspec.structs.replace(server.status.tables[3], applied=77)
        kept = (*server.status.tables[:3], changed, *server.status.tables[5:])
        server.status = msgspec.structs.replace(server.status, tables=kept)
        later = [data for name, data in await reading if name == "tables"][1:]
        assert [[it["table"] for it in data["changed"]] for data in later] == [  # type: ignore[attr-defined]
            ["shop.table_00003"]
        ]
        assert [data["gone"] for data in later] == [["shop.table_00004"]]

    with served() as server:
        asyncio.run(work(server))


def test_the_number_of_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ops.dashboard.STATUS_SECONDS", 600)

    async def work(server: Served) -> None:
        request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writers = []
        for _ in range(STREAMS):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writers.append(writer)
            writer.write(request)
            assert b"200 OK" in await reader.readline()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        assert b"503" in await reader.readline()
        writers.append(writer)
        for each in writers:
            each.close()
            await each.wait_closed()

    with served() as server:
        asyncio.run(asyncio.wait_for(work(server), 30))


def test_the_page_loads_nothing_from_elsewhere() -> None:
    folder = Path(__file__).parents[2] / "engine" / "ops" / "dashboard"
    files = [path for path in folder.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert {path.name for path in files} - {"index.html", "pipelines.html"} | {
        path.name for path in (folder / "vendor").iterdir() if path.suffix in (".js", ".css")
    } == set(ASSETS)
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text.replace("http://www.w3.org", ""), path
        assert "https://" not in text, path
    for name in ("index.html", "pipelines.html"):
        page = (folder / name).read_text(encoding="utf-8")
        assert " style=" not in page
        assert " on" not in page.replace(" only", "").replace(" one", "").replace(" on a", "")


def test_the_page_with_10000_tables(tmp_path: Path) -> None:
    with served() as server, open_page(f"http://127.0.0.1:{server.port}/", tmp_path) as page:
        page.wait_text("#headline", "Following. 0.4 s behind. 1 table is quarantined.")
        assert page.text("#remedy") == "tailrace tables shop.toml"
        page.wait_text("#tables tbody tr:first-child", "shop.<b>bold</b>", "a value is refused")
        page.wait_text("#page", "1 to 50 of 10,000")
        page.wait_text("#backfills", "shop.orders", "250 of about 1,000")
        page.wait_text("#errors", "<script>alert(1)</script>", "tailrace check shop.toml")
        page.click("#next")
        page.wait_text("#page", "51 to 100")
        page.click('[data-sort="applied"]')
        page.wait_text("#tables tbody tr:first-child", "shop.table_09999", "9,999")
        page.click('[data-sort="proof"]')
        page.wait_text("#tables tbody tr:first-child", "shop.table_00042", "1,200 differ")
        page.click('[data-sort="proof"]')
        page.wait_text("#tables tbody tr:first-child", "shop.table_00043", "d ago")
        page.driver.switch_to.active_element.send_keys("/")
        page.driver.switch_to.active_element.send_keys("0004 table")
        page.wait_text("#tables tbody", "shop.table_00040", "shop.table_00049")
        assert page.value("document.querySelectorAll('#tables tbody tr').length") == 11
        assert page.value("document.querySelectorAll('#lag-chart canvas').length") == 1
        page.click('#ranges [data-series="1"]')
        assert page.value("document.querySelector('#lag-chart canvas').width > 300")
        assert page.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_on_a_phone(tmp_path: Path, dark: bool) -> None:
    url = "http://127.0.0.1:{}/"
    with (
        served() as server,
        open_page(url.format(server.port), tmp_path, width=390, dark=dark) as page,
    ):
        page.wait_text("#headline", "Following.")
        page.wait_text("#tables tbody tr:first-child", "quarantined")
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.value(background) == ("rgb(13, 17, 23)" if dark else "rgb(246, 247, 249)")
        assert page.complaints() == []


def test_the_page_asks_for_a_token(tmp_path: Path) -> None:
    settings = ApiSettings(read_token=TOKEN)
    with (
        served(settings) as server,
        open_page(f"http://127.0.0.1:{server.port}/", tmp_path) as page,
    ):
        page.wait_text("#login-title", "A token is needed")
        page.type("#token", "wrong")
        page.click("#login button")
        page.wait_text("#login-title", "A token is needed")
        page.type("#token", TOKEN)
        page.click("#login button")
        page.wait_text("#headline", "Following.")
        page.click('[data-command="pause"]')
        page.click("#confirm-yes")
        page.wait_text("#outcome", "commands need control_token")


@pytest.mark.slow
def test_the_pictures_of_the_docs_can_be_made(tmp_path: Path) -> None:
    record(tmp_path)
    names = {f"dashboard-{name}.png" for name in PICTURES}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert names <= {path.name for path in IMAGES.iterdir()}
