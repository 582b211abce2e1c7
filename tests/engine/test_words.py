"""The state of a pipeline in words."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from engine.ops.recent_errors import ErrorStatus
from engine.ops.status import Status, TableStatus
from engine.ops.words import Headline, age, duration, headline, proof_words, size
from engine.proof import TableProof

NOW = datetime(2026, 3, 1, 13, 53, tzinfo=ZoneInfo("Europe/Berlin"))
LOST = ErrorStatus(
    kind="SinkLost",
    message="the target closed the connection",
    remedy="`tailrace check shop.toml`",
    retried=True,
    since=1.0,
    at=2.0,
)
BROKEN = ErrorStatus(kind="DecodeError", message="an event cannot be read", since=1.0, at=1.0)
OPEN = TableStatus("shop.orders", "backfilling", rows=3_000, estimate=1_000_000)
LEFT_OUT = TableStatus("shop.bad", "quarantined")
DIFFERS = TableStatus(
    "shop.item", "live", proof=TableProof("different", 0.0, 1.0, differences=1_200)
)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status(state="connecting"), Headline("busy", "Connecting.")),
        (
            Status(state="connecting", errors=(LOST,), lag_seconds=720),
            Headline(
                "error",
                "Connecting: the target closed the connection. 12 min behind.",
                "`tailrace check shop.toml`",
            ),
        ),
        (Status(state="streaming", lag_seconds=0.4), Headline("fine", "Following. 0.4 s behind.")),
        (Status(state="streaming"), Headline("fine", "Following.")),
        (
            Status(state="streaming", lag_seconds=720, catch_up_seconds=720),
            Headline("busy", "Catching up. 12 min behind, level at about 14:05."),
        ),
        (
            Status(state="streaming", lag_seconds=720, catch_up_seconds=86_400),
            Headline("busy", "Catching up. 12 min behind, level at about 2026-03-02 13:53."),
        ),
        (
            Status(state="streaming", lag_seconds=720),
            Headline("warning", "Falling behind. 12 min behind."),
        ),
        (
            Status(
                state="backfilling", lag_seconds=2, backfill_left_seconds=600, tables=(OPEN, OPEN)
            ),
            Headline(
                "busy",
                "Backfilling 2 tables: 6,000 of about 2,000,000 rows, done at about 14:03."
                " 2.0 s behind.",
            ),
        ),
        (
            Status(state="paused", lag_seconds=4000),
            Headline("warning", "Paused. 1 h 7 min behind.", "`tailrace resume shop.toml`"),
        ),
        (
            Status(state="draining"),
            Headline("busy", "Stopping: whole transactions are committed first."),
        ),
        (Status(state="stopped", errors=(LOST,)), Headline("warning", "Stopped.")),
        (
            Status(state="stopped", errors=(BROKEN,)),
            Headline("error", "Stopped: an event cannot be read."),
        ),
        (
            Status(state="streaming", lag_seconds=0, tables=(LEFT_OUT,), dead_letters=2),
            Headline(
                "warning",
                "Following. 1 table is quarantined. 2 dead letters wait.",
                "`tailrace tables shop.toml`",
            ),
        ),
        (
            Status(state="streaming", lag_seconds=0, dead_letters=1),
            Headline(
                "warning",
                "Following. 1 dead letter waits.",
                "`tailrace dead-letters shop.toml list`",
            ),
        ),
        (
            Status(state="streaming", lag_seconds=0, dead_letters=1, tables=(DIFFERS, DIFFERS)),
            Headline(
                "warning",
                "Following. 1 dead letter waits. 2 tables were found different from the source.",
                "`tailrace dead-letters shop.toml list`",
            ),
        ),
        (
            Status(state="streaming", lag_seconds=0, tables=(DIFFERS,)),
            Headline(
                "warning",
                "Following. 1 table was found different from the source.",
                "`tailrace tables shop.toml`",
            ),
        ),
    ],
)
def test_the_headline(status: Status, expected: Headline) -> None:
    assert headline(status, NOW, config="shop.toml") == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.012, "12 ms"),
        (0.44, "0.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min 0 s"),
        (75.2, "1 min 15 s"),
        (7500, "2 h 5 min"),
        (93_600, "1 d 2 h"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "just now"),
        (59.9, "just now"),
        (119.0, "1 min ago"),
        (3600.0, "1 h ago"),
        (47.9 * 3600, "47 h ago"),
        (12.5 * 86_400, "12 d ago"),
    ],
)
def test_ages_have_one_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_proof_in_words() -> None:
    assert proof_words(None, 10.0) == ""
    assert proof_words(TableProof("equal", 0.0, 300.0), 600.0) == "10 min ago"
    assert proof_words(TableProof("inconclusive", 0.0, 300.0, hot=1), 600.0) == "open"
    assert proof_words(DIFFERS.proof, 600.0) == "1,200 differ"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_234_567, "1.2 MB"),
        (5 * 10**12, "5.0 TB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert size(count) == text
