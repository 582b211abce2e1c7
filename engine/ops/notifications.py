"""
What a pipeline's notifications are, and which follow from two statuses. Pure.

A notification has the form of Standard Webhooks: ``id``, ``type``, ``timestamp`` and ``data``
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
docs/notifications.md describes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import msgspec

from engine.ops.alerts import Alerts
from engine.ops.status import Status, TableStatus
from engine.ops.words import headline
from engine.settings.notify import Event

__all__ = ["Notification", "NotificationData", "Notifications"]

#: So many tables at most have a notification of their own, if they come to a state at once.
MOST_TABLES = 10

_TABLE_WORDS = {
    "quarantined": "The table is quarantined: its changes are not applied any more.",
    "backfilled_again": "The table is backfilled again.",
    "live": "The table is live again.",
}
#: How a table left the stream, and that it is back.
_TableEvent = Literal["quarantined", "backfilled_again", "live"]


class NotificationData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has happened, in words, and what to do. ``count`` is the number of tables, if it is
    more than those that are named.
    """

    pipeline: str
    text: str
    remedy: str = ""
    alert: str = ""
    runbook: str = ""
    state: str = ""
    before: str = ""
    table: str = ""
    reason: str = ""
    position: str = ""
    count: int = 0


class Notification(msgspec.Struct, frozen=True):
    """``id`` is the same for each attempt to send it. ``timestamp`` is when it was made."""

    id: str
    type: str
    timestamp: datetime
    data: NotificationData

    @property
    def event(self) -> Event:
        """The kind of the event, by which receivers select."""
        return self.type.partition(".")[0]  # type: ignore[return-value]


class Notifications:
    """Compares each status with the one before. ``config`` is for the command lines in remedies."""

    def __init__(self, max_lag_seconds: float, config: str = "") -> None:
        self._alerts = Alerts(max_lag_seconds)
        self._config = config
        self._raised: frozenset[str] = frozenset()
        self._before = Status()
        #: The tables that are not live, by how they left the stream.
        self._left: dict[str, _TableEvent] = {}

    def following(self, status: Status, now: datetime, clock: float) -> list[Notification]:
        """The notifications that follow from ``status`` at ``now``; ``clock`` is the same moment in
        seconds of a steady clock.
        """
        found = [
            *self._state(status, now),
            *self._tables(status),
            *self._alert(status, now, clock),
        ]
        self._before = status
        return [Notification(f"msg_{uuid.uuid4().hex}", type, now, data) for type, data in found]

    def _state(self, status: Status, now: datetime) -> Iterator[tuple[str, NotificationData]]:
        if status.state is None or status.state == self._before.state:
            return
        shown = headline(status, now, config=self._config)
        yield (
            f"state.{status.state}",
            NotificationData(
                pipeline=status.pipeline,
                text=shown.text,
                remedy=shown.remedy,
                state=status.state,
                before=self._before.state or "",
                position=status.committed_position or "",
            ),
        )

    def _alert(
        self, status: Status, now: datetime, clock: float
    ) -> Iterator[tuple[str, NotificationData]]:
        raised = self._alerts.raised(status, clock)
        shown = headline(status, now, config=self._config)
        for name in sorted(raised ^ self._raised):
            firing = name in raised
            yield (
                "alert.firing" if firing else "alert.resolved",
                NotificationData(
                    pipeline=status.pipeline,
                    text=shown.text,
                    remedy=shown.remedy if firing else "",
                    alert=name,
                    runbook=f"/runbook#{name.lower()}",
                    state=status.state or "",
                ),
            )
        self._raised = raised

    def _tables(self, status: Status) -> Iterator[tuple[str, NotificationData]]:
        if status.tables is self._before.tables:
            return
        by_event: dict[_TableEvent, list[TableStatus]] = {}
        left: dict[str, _TableEvent] = {}
        for table in status.tables:
            before = self._left.get(table.table)
            event: _TableEvent | None
            if table.state == "live":
                event = "live" if before else None
            elif event := _how_it_left(table) or before:
                left[table.table] = event
            if event is not None and event != before:
                by_event.setdefault(event, []).append(table)
        self._left = left
        for event, tables in by_event.items():
            count = len(tables) if len(tables) > MOST_TABLES else 0
            for table in tables[:1] if count else tables:
                yield (
                    f"table.{event}",
                    NotificationData(
                        pipeline=status.pipeline,
                        text=_TABLE_WORDS[event],
                        remedy=table.remedy if event == "quarantined" else "",
                        table=table.table,
                        state=table.state,
                        reason="" if event == "live" else table.reason,
                        position=table.position,
                        count=count,
                    ),
                )


def _how_it_left(table: TableStatus) -> _TableEvent | None:
    """How a table that is not live left the stream, if it did. The first backfill has no reason."""
    if table.state == "quarantined":
        return "quarantined"
    return "backfilled_again" if table.reason else None
