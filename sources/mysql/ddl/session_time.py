"""
The time of a statement and the time zone of its session, which decide what new temporal columns
hold in existing rows. Pure.

A server stores a TIMESTAMP in UTC and a DATETIME as the session shows it. ``CURRENT_TIMESTAMP(n)``
is the time at which the statement began, cut to n digits. The log holds that time and, for a
statement that depends on it, the session's time zone. A value that is not certain is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

__all__ = ["ConvertTime", "SessionTime"]

#: A local time ``YYYY-MM-DD HH:MM:SS`` of the first time zone in the second one, as the server
#: converts it. None if it is not certain that the server did so when it executed the statement.
ConvertTime = Callable[[str, str, str], str | None]

UTC_OFFSET: Final = "+00:00"
_OFFSET: Final = re.compile(r"([+-])(\d\d):([0-5]\d)")
_LITERAL: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?)?")


class SessionTime(msgspec.Struct, frozen=True):
    """When a statement began, in Unix seconds and microseconds, and the time zone of its session.

    ``seconds`` is 0 if the time is not known, and ``microseconds`` is None if the log does not have
    them. ``zone`` is empty if the statement does not depend on it, and ``SYSTEM`` is the server's
    own. ``convert`` converts times of zones that are not an offset from UTC.
    """

    seconds: int = 0
    microseconds: int | None = None
    zone: str = ""
    convert: ConvertTime | None = None

    def current(self, kind: str, digits: int) -> str | None:
        """``CURRENT_TIMESTAMP(digits)`` as a value of the kind ``timestamp`` or ``datetime``."""
        if not self.seconds or (digits and self.microseconds is None):
            return None
        at = f"{datetime.fromtimestamp(self.seconds, UTC):%Y-%m-%d %H:%M:%S}"
        text = at if kind == "timestamp" else self._converted(at, UTC_OFFSET, self.zone)
        return text and text + _fraction(f"{self.microseconds or 0:06}", digits)

    def utc(self, literal: str, digits: int) -> str | None:
        """A TIMESTAMP that a statement contains as text, in UTC, with ``digits`` of a fraction."""
        found = _LITERAL.fullmatch(literal)
        if found is None:
            return None
        date, clock, fraction = found.groups(default="")
        if len(fraction) > digits:
            return None
        local = f"{date} {clock or '00:00:00'}"
        text = self._converted(local, self.zone, UTC_OFFSET)
        # A local time in a gap does not exist, and servers store another one.
        if text is None or self._converted(text, UTC_OFFSET, self.zone) != local:
            return None
        return text + _fraction(fraction, digits)

    def _converted(self, text: str, of: str, to: str) -> str | None:
        """A time of one zone in another one."""
        shift = _offset(of), _offset(to)
        if shift[0] is None or shift[1] is None:
            return self.convert(text, of, to) if of and to and self.convert is not None else None
        try:
            at = datetime.fromisoformat(text) - shift[0] + shift[1]
        except (ValueError, OverflowError):
            return None
        return f"{at:%Y-%m-%d %H:%M:%S}"


def _offset(zone: str) -> timedelta | None:
    """How far a zone such as ``+05:30`` is ahead of UTC; None for a zone with a name."""
    found = _OFFSET.fullmatch(zone)
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return -offset if found[1] == "-" else offset


def _fraction(digits: str, scale: int) -> str:
    """A fraction of a second with exactly ``scale`` digits: cut, or filled with zeros."""
    return f".{digits[:scale]:0<{scale}}" if scale else ""
