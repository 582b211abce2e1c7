"""
Which keys a MySQL or MariaDB server can hold.

The other side of a comparison may have keys that no column of the server can have, and that the
server refuses even in a condition: a year above 9999, NaN, a character outside of the column's
charset. All functions are pure and take canonical texts (``engine.toolkit.canonical``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from engine.databases.mysql.charset import text_encoder
from engine.databases.mysql.invalid_text import has_substitutes
from engine.databases.mysql.types import parse_type
from engine.schema import Column

__all__ = ["can_hold", "finds_row", "nearest"]

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d\Z")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\Z")
_SPAN: Final = re.compile(r"-?(\d{2,3}):(\d\d:\d\d\.\d{6})\Z")
_ADDRESS: Final = re.compile(r"[0-9a-fA-F:.]+\Z")
#: The longest TIME is 838:59:59.
_MOST_HOURS: Final = 838
_LAST_OF_HOUR: Final = "59:59.000000"
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?\Z")
_NUMBERS: Final = frozenset(
    (
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 24, 32, 64)),
        *("decimal", "float32", "float64", "boolean", "bit"),
    )
)
#: The least and the greatest value by kind, for the kinds that every database sorts alike.
_CLOCKS: Final = ("0000-00-00 00:00:00.000000", "9999-12-31 23:59:59.999999")
_LIMITS: Final = {
    "date": ("0000-00-00", "9999-12-31"),
    "datetime": _CLOCKS,
    "timestamp": _CLOCKS,
    "decimal": ("-" + "9" * 65, "9" * 65),
}
#: The charsets that have no characters above U+FFFF, though the codecs do.
_SHORT: Final = frozenset(("utf8mb3", "ucs2"))


def can_hold(column: Column, text: str | None) -> bool:
    """Whether the server can be asked for this value of a key's column."""
    if text is None:
        return True
    kind = column.type.kind
    if kind in _NUMBERS:
        return _NUMBER.match(text) is not None
    match kind:
        case "date":
            return _DAY.match(text) is not None
        case "datetime" | "timestamp":
            return _MOMENT.match(text) is not None
        case "time" | "interval":
            return _is_span(text)
        case "text":
            return _has_characters(parse_type(column.source_type).encoding, text)
        case _:
            return True


def finds_row(column: Column, text: str) -> bool:
    """Whether a lookup by this value of a key is sure to find the row that has it, if there is one.

    It is not where characters may stand for bytes, by the policy ``invalid_text``.
    """
    if column.source_type.startswith("inet"):
        return _ADDRESS.match(text) is not None
    return can_hold(column, text) and not (column.type.kind == "text" and has_substitutes(text))


def nearest(column: Column, text: str | None) -> str | None:
    """``text``, or the limit of the column's type beyond which it is."""
    if text is None or can_hold(column, text) or column.type.kind not in _LIMITS:
        return text
    least, greatest = _LIMITS[column.type.kind]
    return least if text.startswith("-") or text.endswith(" BC") else greatest


def _is_span(text: str) -> bool:
    match = _SPAN.match(text)
    if match is None:
        return False
    hours = int(match[1])
    return hours < _MOST_HOURS or (hours == _MOST_HOURS and match[2] <= _LAST_OF_HOUR)


def _has_characters(charset: str, text: str) -> bool:
    encode: Callable[[str], bytes] = text_encoder(charset) if charset else str.encode
    try:
        encode(text)
    except UnicodeEncodeError:
        return False
    return charset not in _SHORT or max(text, default="") <= "\uffff"
