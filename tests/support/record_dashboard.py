"""
Pictures of the dashboard for the docs: ``python -m tests.support.record_dashboard``.

The pages are those of a server with a made-up status, in a headless Chromium.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from msgspec.structs import replace

from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.dashboard import Dashboard
from engine.ops.history import History, HistoryRecorder, Work
from engine.ops.metrics import Metrics
from engine.ops.recent_errors import ErrorStatus
from engine.ops.server import HttpServer
from engine.ops.status import StageStatus, Status, TableStatus, Throughput
from engine.proof import TableProof
from engine.settings.api import ApiSettings
from tests.support.browser import open_page

__all__ = ["IMAGES", "PICTURES", "record"]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
CONFIG = "shop.toml"
#: All tables were compared three hours ago.
PROVEN = TableProof(
    "equal", time.time() - 10_860, time.time() - 10_830, equal_at=time.time() - 10_860
)
LIVE = tuple(
    TableStatus(f"shop.{name}", "live", rows=rows, estimate=rows, applied=applied, proof=PROVEN)
    for name, rows, applied in (
        *(("customer", 40_000, 1_204), ("invoice", 61_250, 9_310), ("item", 120_000, 18_004)),
        *(("orders", 61_300, 12_871), ("payment", 58_110, 8_902), ("stock", 9_400, 24_430)),
    )
)
FOLLOWING = Status(
    pipeline="shop",
    state="streaming",
    position="mysql-bin.000007:81244",
    rows=74_721,
    backfilled_rows=350_060,
    reconnects=0,
    lag_seconds=0.4,
    lag_bytes=18_400,
    queued_bytes=0,
    checkpoint_age_seconds=0.2,
    log_kept_seconds=604_800,
    dead_letters=0,
    throughput=Throughput(rows=412.0, bytes=91_000.0, transactions=96.0, backfilled_rows=0.0),
    stages=(
        StageStatus("read", 900.0, 0.91),
        StageStatus("decode", 20.0, 0.02),
        StageStatus("apply", 50.0, 0.05),
        StageStatus("commit", 110.0, 0.11),
    ),
    tables=LIVE,
)
BEHIND = replace(FOLLOWING, lag_seconds=720.0, lag_bytes=2_100_000_000, catch_up_seconds=700.0)
BACKFILLING = replace(
    FOLLOWING,
    state="backfilling",
    backfill_left_seconds=260.0,
    tables=(
        replace(LIVE[0], state="backfilling", rows=17_400),
        *LIVE[1:4],
        replace(LIVE[4], state="pending", rows=0),
        LIVE[5],
    ),
)
STOPPED = replace(
    FOLLOWING,
    state="stopped",
    errors=(
        ErrorStatus(
            kind="SourceError",
            message="the source has purged mysql-bin.000007, which the pipeline has not read whole",
            remedy=f"`tailrace backfill {CONFIG} --all` reads all tables again, and goes on at the"
            " end of the log",
            since=time.time() - 40,
            at=time.time() - 40,
        ),
    ),
)
#: The name of each picture, with its status, width, and whether it is dark.
PICTURES = {
    "following": (FOLLOWING, 1200, False),
    "catching-up": (BEHIND, 1200, True),
    "backfill": (BACKFILLING, 1200, False),
    "stopped": (STOPPED, 1200, False),
    "phone": (FOLLOWING, 390, False),
}


def history() -> History:
    """An hour with a wave in it."""
    recorder, now, done = HistoryRecorder(), time.time(), 0.0
    for step in range(720):
        done += 5 * (400 + 250 * math.sin(step / 60))
        lag_seconds = 0.3 + 2 * max(0.0, math.sin(step / 90)) ** 4
        recorder.add(now - 3600 + 5 * step, lag_seconds, Work(rows=int(done)))
    return recorder.history()


@contextmanager
def serve(status: Status) -> Iterator[str]:
    """The URL of a dashboard with this status, served by another thread."""
    loop = uvloop.new_event_loop()
    ready, ports = threading.Event(), list[int]()
    ending = loop.create_future()

    async def work() -> None:
        dashboard = Dashboard(lambda: status, history, CONFIG)
        access = Access(ApiSettings(), "127.0.0.1")
        api = Api(access, Metrics("shop"), lambda: status, dashboard=dashboard)
        async with HttpServer("127.0.0.1:0", api.app()) as server:
            ports.append(server.port)
            ready.set()
            await ending

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{ports[0]}/"
    finally:
        loop.call_soon_threadsafe(ending.set_result, None)
        thread.join(10)
        loop.close()


def record(folder: Path) -> None:
    """Write all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (status, width, dark) in PICTURES.items():
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
            serve(status) as url,
            open_page(url, Path(profile), width=width, dark=dark) as page,
        ):
            page.wait_text("#figures", "lag")
            page.wait_text("#tables tbody", "shop.orders")
            page.wait_value("document.querySelectorAll('#lag-chart canvas').length === 1")
            page.driver.save_screenshot(str(folder / f"dashboard-{name}.png"))


if __name__ == "__main__":
    record(IMAGES)
