"""
One text for each value, whichever database shows it: what parity compares.

Both sides are read through their ordinary clients, and each shows the same value in its own way. A
row reader brings what its client says into these forms (``None`` is NULL):

=======================  ======================================================================
neutral type             canonical text
=======================  ======================================================================
boolean                  ``0`` or ``1``
integers, bit            digits
decimal                  no superfluous zeros: ``-12.5``, ``0``
float32, float64         Python's shortest text of the four- or eight-byte value
text, enum, set, uuid    as it is
json                     as the database shows it; texts that differ are compared as values
binary, geometry         hexadecimal digits; a geometry as EWKB
date                     ``YYYY-MM-DD``
datetime, timestamp      ``YYYY-MM-DD HH:MM:SS.ffffff``, the timestamp in UTC
time, interval           ``[-]HH:MM:SS.ffffff``, at least two digits of hours
=======================  ======================================================================

What the target cannot hold is compared as what the engine's policies put in its place: what is no
date as NULL, a text without its U+0000. Columns of the key are never replaced.

Pure functions of text; a malformed text raises ValueError.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final

__all__ = [
    "Convert",
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

#: From a client's text of a value to the canonical one.
Convert = Callable[[str], str | None]

_FLOAT: Final = struct.Struct("<f")
_NO_FRACTION: Final = "." + "0" * 6
_INTERVAL: Final = re.compile(r"(-?)(\d+)(:\d\d:\d\d)(?:\.(\d{1,6}))?\Z")
_NUMBER: Final = "\0number"
_DAYS_IN_MONTH: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def canonical_rows(
    rows: Iterable[Sequence[str | None]], converts: Sequence[Convert | None]
) -> list[tuple[str | None, ...]]:
    """Rows of a client's texts in canonical form; a column without a function is in it already."""
    columns = [
        column if convert is None else [None if text is None else convert(text) for text in column]
        for column, convert in zip(zip(*rows, strict=True), converts, strict=False)
    ]
    return list(zip(*columns, strict=True))


def integer_text(text: str) -> str:
    """An integer without leading zeros."""
    return str(int(text))


def number_text(text: str) -> str:
    """A decimal without superfluous zeros."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    if not fraction:
        return "0" if whole == "0" else sign + whole
    return f"{sign}{whole}.{fraction}"


def float64_text(text: str) -> str:
    """The shortest text of an eight-byte float."""
    return repr(float(text))


def float32_text(text: str) -> str:
    """The shortest text of a four-byte float, as the eight-byte one that equals it."""
    return repr(_FLOAT.unpack(_FLOAT.pack(float(text)))[0])


def clock(text: str) -> str:
    """A moment with six digits of a second's fraction."""
    moment, dot, fraction = text.partition(".")
    return f"{moment}.{fraction:0<6}" if dot else moment + _NO_FRACTION


def interval_text(text: str) -> str:
    """``[-]H…H:MM:SS[.f…]`` in its canonical form; zero has no sign."""
    match = _INTERVAL.match(text)
    if match is None:
        raise ValueError("no interval of hours, minutes and seconds")
    sign, hours, rest, fraction = match.groups()
    result = f"{int(hours):02d}{rest}.{fraction or '':0<6}"
    return sign + result if result.strip("0:.") else result


def day_or_none(text: str) -> str | None:
    """``text`` if it begins with a date of the calendar, else None."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    if not (year and 0 < month < 13 and 0 < day <= _DAYS_IN_MONTH[month]):
        return None
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return None if (month, day) == (2, 29) and not leap else text


def without_nul(text: str) -> str:
    """``text`` without U+0000."""
    return text.replace("\0", "")


def canonical_json(text: str) -> str:
    """A text that is the same for equal JSON values: numbers exact, members in order."""
    value = json.loads(text, parse_float=_exact, parse_int=_exact, parse_constant=str)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _exact(text: str) -> dict[str, str]:
    """A number as what no other value of JSON is shown as, whatever its spelling."""
    sign, digits, exponent = Decimal(text).as_tuple()
    significant = "".join(map(str, digits)).lstrip("0")
    kept = significant.rstrip("0")
    if not kept:
        return {_NUMBER: "0"}
    place = int(exponent) + len(significant) - len(kept)
    return {_NUMBER: f"{'-' * sign}{kept}e{place}"}
