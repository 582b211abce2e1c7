"""
Whether a change of a column's type keeps every value. Pure.

In strict SQL mode a server refuses to lose data. Otherwise it cuts, rounds and replaces values, and
the log does not show it. Conversions between kinds and of integers and decimals are left to the
sink, which checks the values that it has.
"""

from __future__ import annotations

from typing import Final

from engine.databases.mysql.charset import BYTES_PER_CHARACTER, may_be_hidden
from engine.databases.mysql.types import MySQLType

__all__ = ["FORMATS", "loss"]

_MOST_BYTES: Final = {
    f"{size}{family}": (1 << bits) - 1
    for size, bits in (("tiny", 8), ("", 16), ("medium", 24), ("long", 32))
    for family in ("text", "blob")
}
_CHARACTERS: Final = frozenset(
    ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
)
_LABELS: Final = frozenset(("enum", "set"))
_ALL_OF_UNICODE: Final = frozenset(("utf8mb4", "utf16", "utf16le", "utf32", "gb18030"))
_SAME_BYTES: Final = frozenset((("ascii", "utf8mb3"), ("ascii", "utf8mb4"), ("utf8mb3", "utf8mb4")))
#: Types of text or bytes in a certain form, to which other values are converted.
FORMATS: Final = frozenset(("inet4", "inet6", "vector"))
_FLOATING: Final = frozenset(("float", "double", "decimal"))


def loss(old: MySQLType, new: MySQLType, *, strict: bool, pads: bool = False) -> str:
    """How a conversion from ``old`` to ``new`` may change values; empty if it changes none.

    ``strict``: the server refuses conversions that it regards as a loss of data. ``pads``: it reads
    CHAR values with spaces up to their length (the SQL mode PAD_CHAR_TO_FULL_LENGTH).
    """
    if pads and old.base == "char" != new.base:
        return "pads values with spaces"
    if new.base == "char" and old.base in _CHARACTERS - _LABELS and old.base != "char":
        return "trims spaces at the end of values"
    if new.base == "binary" and old.binary and (old.base, old.length) != ("binary", new.length):
        return "pads values with zeros"
    if "year" in (old.base, new.base) and old != new and 2 in (old.length, new.length):
        return "changes years of two digits"
    if new.base in FORMATS and (old.base, old.length) != (new.base, new.length):
        return "converts values"
    if strict:
        return ""
    if old.base in _CHARACTERS and new.base in _CHARACTERS and not (old.binary or new.binary):
        return _loss_of_text(old, new)
    if old.binary and new.binary:
        return "" if _bytes(old) <= _bytes(new) else "may cut values"
    if new.base in _FLOATING and new.unsigned and not old.unsigned:
        return "may replace negative values"
    if (new.base == "year") > (old.base == "year") or (
        old.base == new.base == "bit" and old.length > new.length
    ):
        return "may replace values that are out of range"
    return ""


def _loss_of_text(old: MySQLType, new: MySQLType) -> str:
    if not _has_all_characters(new.charset, old.charset):
        return "may replace characters"
    if new.base in _LABELS:
        kept = old.base == new.base and set(old.members) <= set(new.members)
        return "" if kept else "may replace values that are not members"
    if _characters(old) > new.length if new.length else not _fits(old, new):
        return "may cut values"
    return ""


def _has_all_characters(new: str, old: str) -> bool:
    if new == old:
        return True
    if not (new and old) or may_be_hidden(old):
        return False  # what the server shows as a question mark becomes one
    if new == "utf8mb3":
        return old not in _ALL_OF_UNICODE
    return new in _ALL_OF_UNICODE or old == "ascii"


def _fits(old: MySQLType, new: MySQLType) -> bool:
    """Whether every text of ``old`` fits in ``new``, a type without a length, in bytes."""
    limit = _MOST_BYTES.get(new.base, 0)
    if old.charset == new.charset or (old.charset, new.charset) in _SAME_BYTES:
        return _bytes(old) <= limit
    return _characters(old) * BYTES_PER_CHARACTER.get(new.charset, 4) <= limit


def _characters(type: MySQLType) -> int:
    """The maximum number of characters in a value."""
    if type.base == "enum":
        return max(map(len, type.members), default=0)
    if type.base == "set":
        return sum(map(len, type.members)) + max(0, len(type.members) - 1)
    return _MOST_BYTES.get(type.base, type.length)


def _bytes(type: MySQLType) -> int:
    """The maximum number of bytes in a value."""
    each = BYTES_PER_CHARACTER.get(type.charset, 1)
    return _MOST_BYTES.get(type.base, _characters(type) * each)
