"""
The state of a pipeline in words, for the dashboard, `tailrace top` and the terminal.

``headline`` is pure: the same status, time and zone give the same words.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from engine.ops.status import FINISHED, Status
from engine.proof import TableProof
from engine.remedies import rendered

__all__ = [
    "Headline",
    "Level",
    "age",
    "counted",
    "duration",
    "headline",
    "proof_words",
    "shown_clock",
    "size",
]

#: ``fine``: nothing to do. ``busy``: it goes on by itself. ``warning``: a part is left out, or the
#: pipeline waits for somebody. ``error``: it does not go on by itself.
Level = Literal["fine", "busy", "warning", "error"]

#: A target that is not farther behind follows.
FOLLOWING_SECONDS = 5.0
#: A difference of clocks from which on it is shown.
CLOCK_SECONDS = 1.0


class Headline(msgspec.Struct, frozen=True):
    """One or two sentences, and what to do; ``remedy`` is empty where nothing is to be done."""

    level: Level
    text: str
    remedy: str = ""


def headline(status: Status, now: datetime, *, config: str = "") -> Headline:
    """The words for a status at ``now``, whose zone is that of the clock times in them."""
    found = _state(status, now, config)
    left_out = sum(table.state == "quarantined" for table in status.tables)
    different = sum(table.differs for table in status.tables)
    more = []  # each with a command that shows it
    if left_out:
        more.append(
            (f"{counted(left_out, 'table is', 'tables are')} quarantined.", "tables CONFIG")
        )
    if status.dead_letters:
        letters = counted(status.dead_letters, "dead letter waits", "dead letters wait")
        more.append((f"{letters}.", "dead-letters CONFIG list"))
    if different:
        tables = counted(different, "table was", "tables were")
        more.append((f"{tables} found different from the source.", "tables CONFIG"))
    if not more:
        return found
    level: Level = "error" if found.level == "error" else "warning"
    remedy = found.remedy or rendered(f"`tailrace {more[0][1]}`", config=config)
    return Headline(level, " ".join((found.text, *(text for text, _ in more))), remedy)


def _state(status: Status, now: datetime, config: str) -> Headline:
    last = status.errors[0] if status.errors else None
    behind = _behind(status)
    match status.state:
        case "paused":
            return Headline(
                "warning",
                f"Paused.{behind}",
                rendered("`tailrace resume CONFIG`", config=config),
            )
        case "draining":
            return Headline("busy", "Stopping: whole transactions are committed first.")
        case "stopped":
            if last is None or last.retried:
                return Headline("warning", "Stopped.")
            return Headline("error", f"Stopped: {last.message}.", last.remedy)
        case "connecting":
            if last is None:
                return Headline("busy", "Connecting.")
            return Headline("error", f"Connecting: {last.message}.{behind}", last.remedy)
        case "backfilling":
            return Headline("busy", f"{_backfills(status, now)}{behind}")
        case _:
            return _streaming(status, now, behind)


def _streaming(status: Status, now: datetime, behind: str) -> Headline:
    lag_seconds = status.lag_seconds
    if lag_seconds is None or lag_seconds <= FOLLOWING_SECONDS:
        return Headline("fine", f"Following.{behind}")
    level_at = _at(now, status.catch_up_seconds)
    if level_at:
        return Headline("busy", f"Catching up.{behind[:-1]}, level at about {level_at}.")
    return Headline("warning", f"Falling behind.{behind}")


def _backfills(status: Status, now: datetime) -> str:
    open_tables = [table for table in status.tables if table.state not in FINISHED]
    done, total = sum(it.rows for it in open_tables), sum(it.total for it in open_tables)
    text = f"Backfilling {counted(len(open_tables), 'table', 'tables')}"
    if total:
        text += f": {done:,} of about {total:,} rows"
    done_at = _at(now, status.backfill_left_seconds)
    return f"{text}, done at about {done_at}." if done_at else f"{text}."


def _behind(status: Status) -> str:
    if not status.lag_seconds:
        return ""
    return f" {duration(status.lag_seconds)} behind."


def _at(now: datetime, seconds: float | None) -> str:
    """The clock time after so many seconds, with the day if it is another one."""
    if seconds is None or seconds > timedelta(days=365).total_seconds():
        return ""
    at = now + timedelta(seconds=seconds)
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"


def counted(number: int, one: str, several: str) -> str:
    """``1 table``, ``2 tables``."""
    return f"{number:,} {one if number == 1 else several}"


def shown_clock(ahead_seconds: float | None) -> str:
    """The difference of the source's clock; empty if it is small or unknown."""
    if ahead_seconds is None or abs(ahead_seconds) < CLOCK_SECONDS:
        return ""
    way = "ahead of" if ahead_seconds > 0 else "behind"
    return f"the source's clock is {duration(abs(ahead_seconds))} {way} this machine's"


def duration(seconds: float) -> str:
    """A duration in at most two units: ``40 ms``, ``0.4 s``, ``1 min 15 s``, ``12 min``."""
    if seconds < 0.095:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def age(seconds: float) -> str:
    """How long ago, in one unit: ``just now``, ``12 min ago``, ``3 h ago``, ``12 d ago``."""
    minutes = int(seconds / 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d ago"


def proof_words(proof: TableProof | None, now: float) -> str:
    """The last comparison of a table: when it began if all was equal, or how many rows differ, or
    that it is open, because it could not be decided. Empty without one.
    """
    if proof is None:
        return ""
    if proof.outcome == "different":
        return f"{proof.differences:,} differ"
    return age(now - proof.started_at) if proof.outcome == "equal" else "open"


def size(count: int) -> str:
    """A number of bytes in powers of 1000: ``1.2 MB``."""
    if count < 1000:
        return f"{count} B"
    amount = count / 1000
    for unit in ("kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
