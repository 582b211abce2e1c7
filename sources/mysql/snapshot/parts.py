"""
SQL for the rows of a part of a table.

With a function, the source decides by its value where a row belongs. For a day that is not in the
calendar it may be another day than the column shows: TO_DAYS takes February 31 for a day in March.
So the function is compared, and the column only to let the server leave out partitions: with bounds
that are a month away, because no day is taken for one that is further away.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from engine.databases.mysql.identifiers import quote_name
from engine.schema import Bound, Part
from sources.mysql.ddl.tokens import quote

__all__ = ["part_condition"]

_FUNCTIONS = {"to_days": "TO_DAYS", "year": "YEAR"}
_MONTH = timedelta(days=32)


def part_condition(part: Part) -> str:
    """The condition that a row belongs to the part. Its column holds no NULL."""
    ranges = [" AND ".join(_in_range(part, *each)) or "TRUE" for each in part.ranges]
    if part.function in _FUNCTIONS and any(lower is None for lower, _ in part.ranges):
        # The function of a date with zeros may be NULL, which belongs to the first partition.
        ranges.append(f"{_FUNCTIONS[part.function]}({quote_name(part.column)}) IS NULL")
    return f"({' OR '.join(f'({each})' for each in ranges)})"


def _in_range(part: Part, lower: Bound, upper: Bound) -> Iterator[str]:
    column, function = quote_name(part.column), _FUNCTIONS.get(part.function)
    bounds = [(">=", lower, -_MONTH), ("<", upper, _MONTH)]
    for comparison, bound, month in bounds:
        if bound is None:
            continue
        if isinstance(bound, int):
            yield f"{column} {comparison} {bound}"
        elif function is None:
            yield f"{column} {comparison} {quote(bound)}"
        else:
            yield f"{function}({column}) {comparison} {function}({quote(bound)})"
            if (day := _day(bound, month)) is not None:
                yield f"{column} {comparison} {quote(day)}"


def _day(bound: str, distance: timedelta) -> str | None:
    """A day at a distance from a bound; None if it is not in the calendar."""
    try:
        return (date.fromisoformat(bound[:10]) + distance).isoformat()
    except (OverflowError, ValueError):
        return None
