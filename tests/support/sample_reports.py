"""
Reports with made-up contents, of comparisons and of a cutover, for tests of their pages.
"""

from __future__ import annotations

import msgspec

from engine.cutover.content import make_content as make_cutover_content
from engine.cutover.page import page as page_of_cutover
from engine.cutover.steps import STEPS as WORDS_OF_STEPS
from engine.handover import Cutover, ProvenTable, Sides, StepRecord
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

__all__ = [
    "CUTOVER",
    "DIFFERENT",
    "EQUAL",
    "ORDERS",
    "REHEARSAL",
    "SAME",
    "content",
    "cutover_page",
    "written",
]

BEGAN = 1_790_000_000.0
LOST = "texts that lost U+0000"
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
    _equal("customer", 40_000, (Replaced("name", 'nul_byte = "strip"', 0, LOST),)),
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
        Replaced("shipped_at", 'zero_date = "null"', 17, "zero dates that became NULL"),
        Replaced("note", 'nul_byte = "strip"', 0, LOST),
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
#: The steps of a cutover: what each did, how long it took, and how long it took in the rehearsal.
STEPS = (
    ("check", "ready, 0.01 s behind; connected to the source: shop (12), report (1)", 0.139, None),
    ("freeze", "the log stood still for 1 s", 1.043, 1.0),
    ("drain", "the target has the whole log", 0.052, 0.031),
    ("verify", "3 tables with 221,250 rows are equal", 0.493, 0.801),
    ("finish", "sequences set: 2, constraints validated: 4, statistics of 3 tables", 0.152, 0.261),
    (
        *("arm", "no reverse pipeline is configured: what applications write to the target after"),
        *(0.001, 0.0),
    ),
    ("switch", "switched; the downtime was 1.77 s", 0.031, None),
    ("stop", "the engine: the engine ends", 0.842, None),
)


def _cutover() -> Cutover:
    steps, at = [], BEGAN
    for name, did, seconds, _ in STEPS:
        words = WORDS_OF_STEPS[name]
        steps.append(StepRecord(name, at, seconds, did, words.will, words.undo))
        at += seconds
    proofs = tuple(
        ProvenTable(
            *(it.table, it.rows, BEGAN + 1.3, it.seconds, "mysql-bin.000007:99311", it.method),
            checksum=it.target_checksum,
            replaced=("zero dates that became NULL in due: 17",) if it.rows == 61_250 else (),
        )
        for it in SAME
    )
    earlier = ProvenTable(
        *("shop.archive", 2_400_000, BEGAN - 4000, 21.0, "mysql-bin.000006:55120", "checksums"),
        compared=False,
    )
    return Cutover(
        *("cutover_6f1d20c4a8e14c0b9f5d1f2a7b3c8e90", "done", BEGAN, "ana@console"),
        before='{"super_read_only": "OFF", "read_only": "OFF"}',
        end="mysql-bin.000007:99311",
        frozen_at=BEGAN + 0.139,
        switched_at=BEGAN + 0.139 + 1.772,
        steps=tuple(steps),
        pipeline="shop",
        sides=Sides(*("0.2.0", "MySQL 9.7.4", "old:3306/shop"), "PostgreSQL 18.1", "new:5432/shop"),
        start="mysql-bin.000007:81244",
        ended_at=at,
        predicted={name: it for name, _, _, it in STEPS if it is not None},
        predicted_at=BEGAN - 600,
        proofs=(*proofs, earlier),
    )


CUTOVER = _cutover()
REHEARSAL = msgspec.structs.replace(
    CUTOVER,
    state="rehearsed",
    steps=CUTOVER.steps[:1] + CUTOVER.steps[2:6],
    end="",
    before=None,
    frozen_at=None,
    switched_at=None,
)


def written(content: Content) -> bytes:
    """The page of the report of a comparison, not signed."""
    plain = msgspec.to_builtins(content)
    pieces = page(content, content_hash(plain), "")
    return document(plain, pieces, None).join(pieces)


def cutover_page(cutover: Cutover) -> bytes:
    """The page of the report of a cutover, not signed."""
    content = make_cutover_content(cutover)
    plain = msgspec.to_builtins(content)
    pieces = page_of_cutover(content, content_hash(plain), "")
    return document(plain, pieces, None).join(pieces)
