"""
Pictures of reports for the docs, of comparisons and of a cutover: ``python -m
tests.support.record_report``.

The reports are those of the demo's shop, which is compared, damaged, repaired and cut over under
its writer. Only addresses and the user are replaced. The pages are opened as files, in a headless
Chromium.
"""

from __future__ import annotations

import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psycopg

from engine.cli.inbox import user
from engine.demo.mirrored import MirroredShop
from engine.demo.shop import load_shop
from engine.ops.status import Status
from engine.sandbox import start_mysql, start_postgres
from tests.support.browser import Page, open_page
from tests.support.waiting import wait_until

__all__ = ["IMAGES", "PICTURES", "record", "record_pages"]

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
#: The highest picture, in pixels of the page.
HIGHEST: Final = 1500
ROWS: Final = 100_000
#: Added to the configuration of the demo's shop.
MASK: Final = """
[mapping."shop.customers"]
mask = { email = "hash" }

[mask]
key = "the secret of a picture"
"""
FAULTS: Final = (
    "UPDATE shop.customers SET balance = balance + 0.01 WHERE id = 7",
    "UPDATE shop.customers SET remarks = 'rang twice', email = 'none' WHERE id = 12",
    "DELETE FROM shop.payments WHERE ctid = (SELECT min(ctid) FROM shop.payments)",
)
#: The name of each picture, with the report, the width, whether it is dark, and its height at most.
PICTURES: Final = {
    "equal": ("equal", 1000, False, HIGHEST),
    "different": ("different", 1000, False, HIGHEST),
    "phone": ("different", 390, True, HIGHEST),
    "cutover": ("cutover", 1000, False, 2000),
    "cutover-phone": ("cutover", 390, True, HIGHEST),
}


def record_pages(folder: Path) -> Mapping[str, bytes]:
    """Make the reports. Their files are written into a folder."""
    with ExitStack() as stack:
        source, target = stack.enter_context(start_mysql()), stack.enter_context(start_postgres())
        url = f"{source.url}shop"
        load_shop(url, ROWS)
        shop = MirroredShop(url, target.url, folder, chunk_rows=5000)
        shop.config.write_text(shop.config.read_text() + MASK)
        stack.enter_context(shop)
        shop.engine.start()
        wait_until(lambda: _is_live(shop.engine.status()), timeout=120, what="live tables")
        shop.writer.migrate()
        wait_until(lambda: shop.writer.counts.schema_changes, what="the migration")
        shop.complete_schema()
        shop.verify("--report", "equal.html")
        with psycopg.connect(target.url) as connection:
            for fault in FAULTS:
                connection.execute(fault)
        shop.verify("--report", "different.html", "--no-record")
        repair = shop.command("verify", "--repair", "--yes")
        subprocess.run(repair, cwd=folder, capture_output=True, timeout=120, check=True)
        shop.rehearse()
        shop.cut_over("--report", "cutover.html")
        words = {
            f"127.0.0.1:{source.port}": "old:3306",
            f"127.0.0.1:{target.port}": "new:5432",
            user(): "dba@console",
        }
        reports = {report for report, *_ in PICTURES.values()}
        return {name: _page(folder / f"{name}.html", words) for name in reports}


def _is_live(status: Status | None) -> bool:
    tables = () if status is None else status.tables
    return bool(tables) and all(table.state == "live" for table in tables)


def _page(path: Path, words: Mapping[str, str]) -> bytes:
    text = path.read_text()
    for word, other in words.items():
        text = text.replace(word, other)
    return text.encode()


def record(folder: Path) -> None:
    """Write all pictures into a folder."""
    with tempfile.TemporaryDirectory(prefix="tailrace-reports-") as name:
        pages = record_pages(Path(name))
    for name, (report, width, dark, highest) in PICTURES.items():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            path = Path(profile) / "report.html"
            path.write_bytes(pages[report])
            with open_page(path.as_uri(), Path(profile), width=width, dark=dark) as opened:
                opened.wait_text("h1", "of shop")
                (folder / f"report-{name}.png").write_bytes(_picture(opened, width, highest))


def _picture(opened: Page, width: int, highest: int) -> bytes:
    """The page from its top to its end, or to as much as a reader looks at."""
    run = opened.driver.execute_cdp_cmd
    run("Emulation.setScrollbarsHidden", {"hidden": True})
    height = min(int(str(opened.value("document.documentElement.scrollHeight"))), highest)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = run("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return b64decode(shot["data"])


if __name__ == "__main__":
    record(IMAGES)
