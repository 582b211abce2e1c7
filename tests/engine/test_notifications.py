"""Which notifications follow from two statuses."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import yaml

from engine.ops.alerts import ALERTS
from engine.ops.notifications import MOST_TABLES, Notifications
from engine.ops.recent_errors import ErrorStatus
from engine.ops.status import Status, TableStatus
from engine.proof import TableProof

NOW = datetime(2026, 3, 1, 13, 53, tzinfo=UTC)
RULES = Path(__file__).parents[2] / "config" / "prometheus" / "tailrace.rules.yml"
LIVE = TableStatus("shop.orders", "live")
DIFFERENT = TableProof("different", 1.0, 2.0, differences=3)
BAD = TableStatus(
    "shop.orders", "quarantined", reason="a value", remedy="tailrace backfill", position="b:4"
)


def lost(kind: str) -> ErrorStatus:
    return ErrorStatus(kind=kind, message="it is away", retried=True, since=1.0, at=1.0)


def told(*statuses: Status, at: tuple[float, ...] = ()) -> list[list[str]]:
    """The types of the notifications after each status, with the alert or table."""
    notifications = Notifications(300.0)
    found = []
    for number, status in enumerate(statuses):
        clock = at[number] if at else float(number)
        made = notifications.following(status, NOW, clock)
        found.append([f"{it.type} {it.data.alert or it.data.table}".strip() for it in made])
    return found


def test_a_state_is_told_once() -> None:
    assert told(
        Status(),
        Status(state="connecting"),
        Status(state="streaming"),
        Status(state="streaming", lag_seconds=1),
    ) == [[], ["state.connecting"], ["state.streaming"], []]


def test_a_stop_says_why_and_what_to_do() -> None:
    error = ErrorStatus(
        kind="DecodeError", message="it is broken", remedy="skip", since=1.0, at=1.0
    )
    status = Status(pipeline="shop", state="stopped", errors=(error,), committed_position="b:4")
    (made,) = Notifications(300.0).following(status, NOW, 0.0)
    assert (made.event, made.type) == ("state", "state.stopped")
    assert (made.data.text, made.data.remedy) == ("Stopped: it is broken.", "skip")
    assert (made.data.pipeline, made.data.position) == ("shop", "b:4")


def test_a_table_is_told_when_it_leaves_and_when_it_is_back() -> None:
    again = TableStatus("shop.orders", "pending", reason="asked for")
    first = TableStatus("shop.orders", "backfilling")
    assert told(
        *(Status(tables=(table,)) for table in (first, LIVE, BAD, BAD, again, first, LIVE, LIVE))
    ) == [
        [],
        [],
        ["table.quarantined shop.orders", "alert.firing TailraceTableQuarantined"],
        [],
        ["table.backfilled_again shop.orders", "alert.resolved TailraceTableQuarantined"],
        [],
        ["table.live shop.orders"],
        [],
    ]


def test_many_tables_are_one_notification() -> None:
    tables = tuple(
        TableStatus(f"shop.t{n}", "quarantined", reason="a value") for n in range(MOST_TABLES + 1)
    )
    made = Notifications(300.0).following(Status(tables=tables), NOW, 0.0)
    assert [it.data.count for it in made if it.event == "table"] == [MOST_TABLES + 1]


@pytest.mark.parametrize(
    ("alert", "status", "over"),
    [
        (
            "TailraceSourceAway",
            Status(state="connecting", errors=(lost("SourceLost"),)),
            Status(state="connecting", errors=(lost("SinkLost"),)),
        ),
        (
            "TailraceTargetAway",
            Status(state="connecting", errors=(lost("SinkLost"),)),
            Status(state="connecting", errors=(lost("SourceLost"),)),
        ),
        (
            "TailraceLagHigh",
            Status(state="streaming", lag_seconds=301),
            Status(state="paused", lag_seconds=301),
        ),
        (
            "TailraceLogPurgedSoon",
            Status(state="paused", lag_seconds=301, log_kept_seconds=3600),
            Status(state="paused", lag_seconds=299, log_kept_seconds=3600),
        ),
        ("TailraceDeadLetters", Status(dead_letters=1), Status(dead_letters=0)),
        (
            "TailraceDifferent",
            Status(tables=(msgspec.structs.replace(LIVE, proof=DIFFERENT),)),
            Status(tables=(LIVE,)),
        ),
        ("TailracePaused", Status(state="paused"), Status(state="streaming")),
    ],
)
def test_an_alert_waits_until_its_condition_has_held(
    alert: str, status: Status, over: Status
) -> None:
    seconds = ALERTS[alert].seconds
    before = 9 + seconds if seconds else 10.0
    found = told(over, status, status, status, over, at=(0, 10, before, 10 + seconds, 12 + seconds))
    found = [[it for it in made if alert in it] for made in found]
    raised = [f"alert.firing {alert}"]
    assert found[0] == []
    assert found[1:4] == ([[], [], raised] if seconds else [raised, [], []])
    assert found[4] == [f"alert.resolved {alert}"]


def test_alerts_are_those_of_the_rules() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    named = {rule["alert"] for rule in rules}
    assert ALERTS.keys() <= named
