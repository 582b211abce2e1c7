"""
The canonical text of a value, which is the same from every database.

``engine.verify`` reads source and target through their ordinary clients. Each client has its own
text for a value. A ``RowReader`` converts it to this form (None is NULL):

=======================  ======================================================================
neutral type             canonical text
=======================  ======================================================================
boolean                  ``0`` or ``1``
integers, bit            digits
decimal                  without superfluous zeros: ``-12.5``, ``0``
float32, float64         Python's ``repr`` of the value; a float32 is widened to eight bytes
text, enum, set, uuid    unchanged
json                     unchanged; texts that differ are compared by ``canonical_json``
binary, geometry         hexadecimal digits; a geometry as EWKB
date                     ``YYYY-MM-DD``
datetime, timestamp      ``YYYY-MM-DD HH:MM:SS.ffffff``, the timestamp in UTC
time, interval           ``[-]HH:MM:SS.ffffff``, at least two digits of hours
=======================  ======================================================================

Some values cannot be stored by the target, and the sink replaces them by policy. The target's
``RowReader`` tells what becomes of the source's texts (``StoredText``).

A source may have values without a text. Its reader makes a ``ReplacedText`` of them, by a policy.

All functions are pure. They raise ValueError for a malformed text.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Final, Protocol, runtime_checkable

from engine.schema import Table

__all__ = [
    "Convert",
    "NamesReadPolicies",
    "ReplacedText",
    "canonical_json",
    "canonical_rows",
    "clock",
    "day_or_none",
    "float32_text",
    "float64_text",
    "integer_text",
    "interval_text",
    "number_text",
    "without_nul",
]

#: Converts a client's text of a value to the canonical text.
Convert = Callable[[str], str | None]

_FLOAT: Final = struct.Struct("<f")
_NO_FRACTION: Final = "." + "0" * 6
_INTERVAL: Final = re.compile(r"(-?)(\d+)(:\d\d:\d\d)(?:\.(\d{1,6}))?\Z")
_DAYS_IN_MONTH: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class ReplacedText(str):
    """A canonical text that a source's reader has made by a policy, because the value has none. It
    equals the same text of a value that has one."""

    __slots__ = ()


@runtime_checkable
class NamesReadPolicies(Protocol):
    """A ``RowReader`` of a source whose policies may make a text of a value that has none."""

    def read_policies(self, table: Table) -> Sequence[str]:
        """For each column the policy that makes a ``ReplacedText``; empty if none does."""


def canonical_rows(
    rows: Iterable[Sequence[str | None]], converts: Sequence[Convert | None]
) -> list[tuple[str | None, ...]]:
    """Convert rows of a client's texts; a column with None in ``converts`` stays as it is."""
    columns = [
        column if convert is None else [None if text is None else convert(text) for text in column]
        for column, convert in zip(zip(*rows, strict=True), converts, strict=False)
    ]
    return list(zip(*columns, strict=True))


def integer_text(text: str) -> str:
    """Return an integer without leading zeros."""
    return str(int(text))


def number_text(text: str) -> str:
    """Return a decimal without superfluous zeros; zero has no sign."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    if not fraction:
        return "0" if whole == "0" else sign + whole
    return f"{sign}{whole}.{fraction}"


def float64_text(text: str) -> str:
    """Return the shortest text of an eight-byte float."""
    return repr(float(text))


def float32_text(text: str) -> str:
    """Round to a four-byte float; return the shortest text of the eight-byte float equal to it."""
    return repr(_FLOAT.unpack(_FLOAT.pack(float(text)))[0])


def clock(text: str) -> str:
    """Return a date and time with six digits of a second's fraction."""
    moment, dot, fraction = text.partition(".")
    return f"{moment}.{fraction:0<6}" if dot else moment + _NO_FRACTION


def interval_text(text: str) -> str:
    """Return ``[-]H…H:MM:SS[.f…]`` in its canonical form; zero has no sign. Another interval, such
    as ``1 day``, which no source has, is unchanged."""
    match = _INTERVAL.match(text)
    if match is None:
        return text
    sign, hours, rest, fraction = match.groups()
    result = f"{int(hours):02d}{rest}.{fraction or '':0<6}"
    return sign + result if result.strip("0:.") else result


def day_or_none(text: str) -> str | None:
    """Return ``text`` if it begins with a date of the calendar, else None."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    if not (year and 0 < month < 13 and 0 < day <= _DAYS_IN_MONTH[month]):
        return None
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return None if (month, day) == (2, 29) and not leap else text


def without_nul(text: str) -> str:
    """Return ``text`` without U+0000."""
    return text.replace("\0", "")


def canonical_json(text: str) -> str:
    """Return a text that is the same for equal JSON values.

    Members are sorted, and those of the same name are kept in their order. Numbers are compared
    exactly: ``1.0`` equals ``1e0``, and no digit is lost. Strings may hold line breaks that are not
    escaped, which MySQL 5.7 prints.
    """
    value = json.loads(
        text,
        strict=False,
        parse_float=_number,
        parse_int=_number,
        parse_constant=_constant,
        object_pairs_hook=_object,
    )
    return json.dumps(value, ensure_ascii=False)


def _object(members: list[tuple[str, object]]) -> dict[str, object]:
    """An object with its members as a list. It differs from every array and every number."""
    return {"object": sorted(members, key=itemgetter(0))}


def _number(text: str) -> dict[str, str]:
    """An object with a text that depends on the number's value only."""
    return {"number": _exact(text)}


def _constant(text: str) -> dict[str, str]:
    """``NaN`` or an infinity, which Python reads although it is no JSON."""
    return {"number": text}


def _exact(text: str) -> str:
    sign, digits, exponent = Decimal(text).as_tuple()
    significant = "".join(map(str, digits)).lstrip("0")
    kept = significant.rstrip("0")
    if not kept:
        return "0"
    place = int(exponent) + len(significant) - len(kept)
    return f"{'-' * sign}{kept}e{place}"
