"""
The alerts that an engine raises by itself, for its notifications.

They have the names and the conditions of rules in ``config/prometheus/tailrace.rules.yml``, so the
section of docs/runbook.md holds for both. Prometheus has more of them: it also sees an engine that
is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from engine.ops.status import Status

__all__ = ["ALERTS", "Alerts"]

#: The states in which lag is expected.
_LAGS = ("backfilling", "draining", "paused")
#: A source that keeps less of its log than this may purge what is not applied yet.
_KEPT_SECONDS = 6 * 3600.0


class _Alert(NamedTuple):
    """``holds`` is called with the status and the allowed lag. An alert is raised when it has held
    for ``seconds``.
    """

    seconds: float
    holds: Callable[[Status, float], bool]


def _away(side: str) -> Callable[[Status, float], bool]:
    """Whether the connection to a side is lost; the classes of its errors begin with its name."""

    def holds(status: Status, _: float) -> bool:
        if status.state != "connecting" or not status.errors:
            return False
        last = status.errors[0]
        return last.retried and last.kind.startswith(side)

    return holds


def _lag_high(status: Status, max_lag_seconds: float) -> bool:
    return status.state not in _LAGS and (status.lag_seconds or 0.0) > max_lag_seconds


def _log_purged_soon(status: Status, max_lag_seconds: float) -> bool:
    kept = status.log_kept_seconds
    behind = (status.lag_seconds or 0.0) > max_lag_seconds
    return kept is not None and kept < _KEPT_SECONDS and behind


def _quarantined(status: Status, _: float) -> bool:
    return any(table.state == "quarantined" for table in status.tables)


#: By name.
ALERTS: Final = {
    "TailraceSourceAway": _Alert(120.0, _away("Source")),
    "TailraceTargetAway": _Alert(120.0, _away("Sink")),
    "TailraceLagHigh": _Alert(120.0, _lag_high),
    "TailraceLogPurgedSoon": _Alert(300.0, _log_purged_soon),
    "TailraceTableQuarantined": _Alert(0.0, _quarantined),
    "TailraceDeadLetters": _Alert(0.0, lambda status, _: bool(status.dead_letters)),
    "TailraceDifferent": _Alert(60.0, lambda status, _: any(it.differs for it in status.tables)),
    "TailracePaused": _Alert(3600.0, lambda status, _: status.state == "paused"),
}


class Alerts:
    """Which alerts are raised. ``max_lag_seconds`` is that of ``[api]``."""

    def __init__(self, max_lag_seconds: float) -> None:
        self._max_lag_seconds = max_lag_seconds
        #: By name: since when the condition holds.
        self._since: dict[str, float] = {}

    def raised(self, status: Status, now: float) -> frozenset[str]:
        """The names of the alerts that are raised at ``now``, in seconds of a steady clock."""
        for name, alert in ALERTS.items():
            if alert.holds(status, self._max_lag_seconds):
                self._since.setdefault(name, now)
            else:
                self._since.pop(name, None)
        since = self._since.items()
        return frozenset(name for name, at in since if now - at >= ALERTS[name].seconds)
