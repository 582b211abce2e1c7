"""
The limit of repeats in the log: the first line of a series at once, then one line per interval.

A series is the lines of one logger with the same level, message, and ``SERIES`` fields, and the
same error but for its numbers, such as a port or a count of bytes. While a series goes on, the last
line of each interval is written, with the number of the lines that were left out before it. The
first and the last line of a series are never left out.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["INTERVAL_SECONDS", "PROGRESS", "RepeatLimit"]

#: A series has at most one line in this time.
INTERVAL_SECONDS: Final = 60.0
#: The logger of lines that are written at regular times, which are not limited.
PROGRESS: Final = "tailrace.progress"
#: The fields that tell one series from another.
SERIES: Final = (
    *("pipeline", "table", "column", "error_class", "state", "command_id", "policy", "subject"),
    *("reason", "url", "receiver"),
)

#: What differs between two messages of one error.
_NUMBER: Final = re.compile(r"\d+")

_Series = tuple[object, ...]


class _Interval:
    """The time since a line of a series: its end, the last line since, and their number."""

    __slots__ = ("end", "held", "last")

    def __init__(self, end: float) -> None:
        self.end = end
        self.last: logging.LogRecord | None = None
        self.held = 0


class RepeatLimit:
    """Decides which records are written, and when. Not thread-safe: a handler has a lock."""

    def __init__(
        self, seconds: float = INTERVAL_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        #: Ordered by their ends.
        self._intervals: OrderedDict[_Series, _Interval] = OrderedDict()

    def take(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """The records to write now that ``record`` was made: held ones that are due, and it."""
        due = self.due()
        if record.name == PROGRESS:
            return [*due, record]
        series = _series(record)
        interval = self._intervals.get(series)
        if interval is not None:
            interval.last = record
            interval.held += 1
            return due
        self._intervals[series] = _Interval(self._clock() + self._seconds)
        return [*due, record]

    def due(self) -> list[logging.LogRecord]:
        """The last record of each series whose interval has ended."""
        now = self._clock()
        found = []
        while self._intervals:
            series, interval = next(iter(self._intervals.items()))
            if interval.end > now:
                break
            del self._intervals[series]
            if interval.last is not None:
                found.append(_counted(interval.last, interval.held))
                self._intervals[series] = _Interval(now + self._seconds)
        return found

    def rest(self) -> list[logging.LogRecord]:
        """The last record of each series that has not been written."""
        ended = [it for it in self._intervals.values() if it.last is not None]
        self._intervals.clear()
        found = [_counted(it.last, it.held) for it in ended if it.last is not None]
        return sorted(found, key=lambda record: record.created)


def _series(record: logging.LogRecord) -> _Series:
    fields = vars(record)
    values = (str(fields.get(name, "")) for name in SERIES)
    error = _NUMBER.sub("0", str(fields.get("error", "")))
    return (record.name, record.levelno, record.getMessage(), error, *values)


def _counted(record: logging.LogRecord, held: int) -> logging.LogRecord:
    if held > 1:
        record.left_out = held - 1
    return record
