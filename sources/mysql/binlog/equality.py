"""
Whether a target can tell which values InnoDB takes for equal, as a foreign key does. Pure.

Texts with a collation may be equal although they differ, in letters, accents and more. For texts of
printable ASCII characters alone, the collations in ``_FOLDINGS`` differ only in whether case, and
spaces at the end, matter. ``tests/mysql/test_equality.py`` compares them with the servers.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.change import Folding
from engine.databases.mysql.charset import may_be_invalid
from engine.databases.mysql.types import MySQLType, parse_type
from engine.schema import Column

__all__ = ["CASE_INSENSITIVE", "CASE_SENSITIVE", "FOLDED_CHARSETS", "Comparison", "comparison"]

#: The kinds of values that PostgreSQL compares as InnoDB does.
_EXACT: Final = frozenset(
    ("int8", "int16", "int24", "int32", "int64", "uint8", "uint16", "uint24", "uint32", "uint64")
) | frozenset(("decimal", "binary", "uuid", "date", "datetime", "timestamp", "time", "interval"))
#: The kinds of which the types must be the same, too: labels by number, and the values' precision.
_EXACT_IN_ONE_TYPE: Final = frozenset(("enum", "set", "float32", "float64", "bit"))

#: The server checks what is stored in these charsets.
_CHECKED: Final = frozenset(("ascii", "utf8mb3", "utf8mb4"))
#: Collations that compare bytes and do not ignore spaces at the end.
_BYTES: Final = ("_nopad_bin", "_0900_bin")

#: The charsets whose collations are known.
FOLDED_CHARSETS: Final = ("ascii", "latin1", "utf8mb3", "utf8mb4")
#: The collations of these charsets, without the charset's name.
CASE_INSENSITIVE: Final = (
    *("general_ci", "general_nopad_ci", "unicode_ci", "unicode_nopad_ci", "unicode_520_ci"),
    *("unicode_520_nopad_ci", "swedish_ci", "swedish_nopad_ci", "0900_ai_ci", "0900_as_ci"),
    *("uca1400_ai_ci", "uca1400_as_ci", "uca1400_nopad_ai_ci", "uca1400_nopad_as_ci"),
)
CASE_SENSITIVE: Final = (
    *("bin", "general_cs", "0900_as_cs", "uca1400_as_cs", "uca1400_nopad_as_cs"),
)

#: None: values are equal if they are the same. A text: why it is not known which are.
Comparison = Folding | str | None


def comparison(mine: Column, its: Column) -> Comparison:
    """How values of a child's column and of its parent's are compared."""
    unknown = f"values of the column {mine.name} that differ may be equal for the source"
    kind = mine.type.kind
    if kind != its.type.kind or mine.type.scale != its.type.scale:
        return unknown
    if kind in _EXACT or (
        kind in _EXACT_IN_ONE_TYPE and mine.type == its.type and "" not in mine.type.members
    ):
        return None
    if kind != "text":
        return unknown
    own, other = parse_type(mine.source_type), parse_type(its.source_type)
    if not other.collation and other.charset == own.charset:
        # The log has no collations. A foreign key has the same one on both sides.
        other = msgspec.structs.replace(other, collation=own.collation)
    found = _compared(own)
    return unknown if found == "" or found != _compared(other) else found


def _compared(type: MySQLType) -> Comparison:
    """How values of a type with a collation are compared; an empty text if that is not known."""
    # Bytes that are no character are replaced, in the parent's key otherwise than in a child.
    if may_be_invalid(type.charset) and type.charset not in _CHECKED:
        return ""
    if type.collation.endswith(_BYTES):
        return None
    charset, _, name = type.collation.partition("_")
    # In CHAR no value has spaces at the end.
    spaces = type.base != "char" and "nopad" not in name and not name.startswith("0900")
    if name == "bin" and not spaces:
        return None
    if charset not in FOLDED_CHARSETS or name not in CASE_INSENSITIVE + CASE_SENSITIVE:
        return ""
    return Folding(case=name in CASE_INSENSITIVE, spaces=spaces)
