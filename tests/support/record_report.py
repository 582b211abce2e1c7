"""
Pictures of reports of a comparison for the docs: ``python -m tests.support.record_report``.

The contents are made up. The pages are opened as files, in a headless Chromium.
"""

from __future__ import annotations

import tempfile
from base64 import b64decode
from pathlib import Path

import msgspec

from engine.report.parts import Server
from engine.report.seal import content_hash, document
from engine.verify.content import (
    Compared,
    Content,
    NotCompared,
    make_content,
)
from engine.verify.page import page
from engine.verify.report import (
    ColumnValues,
    Difference,
    Replaced,
    TableReport,
    VerifyReport,
)
from tests.support.browser import Page, open_page

__all__ = ["DIFFERENT", "EQUAL", "PICTURES", "record", "written"]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: The highest picture, in pixels of the page.
HIGHEST = 1500
BEGAN = 1_790_000_000.0
SUM = "5f0a93c1d27e4b86a1f49c0e3b7d5286"


def _equal(name: str, rows: int, replaced: tuple[Replaced, ...] = ()) -> TableReport:
    digest = content_hash(name)[:32]
    return TableReport(
        *(f"shop.{name}", rows, 0, 0, 0, rows / 300_000, True),
        started_at=BEGAN + 1,
        position="mysql-bin.000007:81244",
        method="checksums",
        target_rows=rows,
        source_checksum=digest,
        target_checksum=digest,
        replaced=replaced,
    )


SAME = (
    _equal("customer", 40_000, (Replaced("name", 'nul_byte = "strip"'),)),
    _equal("invoice", 61_250),
    _equal("item", 120_000),
)
DIFFERENCES = (
    Difference(
        *("changed", ("1042",), ("total", "note")),
        values=(
            ColumnValues("total", "129.95", "129.59"),
            ColumnValues("note", "ring twice", None),
        ),
    ),
    Difference(
        *("missing", ("61300",)),
        values=(
            ColumnValues("id", "61300", None),
            ColumnValues("total", "12.00", None),
            ColumnValues("email", "mail@example.org", None),
            ColumnValues("note", "", None),
        ),
    ),
)
ORDERS = TableReport(
    *("shop.orders", 61_300, 1, 1, 0, 3.2, False),
    differences=DIFFERENCES,
    started_at=BEGAN + 2,
    position="mysql-bin.000007:90112",
    method="rows",
    reason="a mapping makes its rows",
    read=61_300,
    target_rows=61_299,
    replaced=(
        Replaced("shipped_at", 'zero_date = "null"', 17),
        Replaced("note", 'nul_byte = "strip"', 0),
    ),
)
BUSY = TableReport(
    *("shop.stock", 9_400, 0, 0, 0, 60.0, False),
    inconclusive="rows that change too fast to compare: 2",
    hot=2,
    started_at=BEGAN + 6,
    position="mysql-bin.000007:99004",
    method="checksums",
    read=4_000,
    target_rows=9_400,
    source_checksum=SUM,
    target_checksum=SUM[::-1],
)


def content(*tables: TableReport, left: tuple[NotCompared, ...] = ()) -> Content:
    """The content of a report about these tables, of which ``shop.orders`` masks its email."""
    report = VerifyReport(all(it.equal for it in tables), 66.0, tables)
    compared = Compared(
        *("0.2.0", "shop", Server("MySQL 5.7.44-log", "old:3306/shop")),
        *(Server("PostgreSQL 18.1", "new:5432/shop"), BEGAN, BEGAN + 66),
        *({it.table: "live" for it in tables}, {"shop.orders": {"email"}}, left),
    )
    return make_content(report, compared)


EQUAL = content(*SAME)
DIFFERENT = content(
    *(*SAME, ORDERS, BUSY),
    left=(NotCompared("shop.audit", "quarantined", "its rows cannot be read: Table is crashed"),),
)
#: The name of each picture, with the report, the width, and whether it is dark.
PICTURES = {
    "equal": (EQUAL, 1000, False),
    "different": (DIFFERENT, 1000, False),
    "phone": (DIFFERENT, 390, True),
}


def written(content: Content) -> bytes:
    """The page of a report, not signed."""
    plain = msgspec.to_builtins(content)
    pieces = page(content, content_hash(plain), "")
    return document(plain, pieces, None).join(pieces)


def record(folder: Path) -> None:
    """Write all pictures into a folder."""
    for name, (shown, width, dark) in PICTURES.items():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            path = Path(profile) / "report.html"
            path.write_bytes(written(shown))
            with open_page(path.as_uri(), Path(profile), width=width, dark=dark) as opened:
                opened.wait_text("h1", "Comparison of shop")
                (folder / f"report-{name}.png").write_bytes(_picture(opened, width))


def _picture(opened: Page, width: int) -> bytes:
    """The page from its top to its end, or to as much as a reader looks at."""
    run = opened.driver.execute_cdp_cmd
    run("Emulation.setScrollbarsHidden", {"hidden": True})
    height = min(int(str(opened.value("document.documentElement.scrollHeight"))), HIGHEST)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = run("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return b64decode(shot["data"])


if __name__ == "__main__":
    record(IMAGES)
