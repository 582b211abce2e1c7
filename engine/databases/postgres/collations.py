"""
The ICU collation that compares as a collation of the source does, as far as ICU can. Pure.

A nondeterministic collation makes texts equal that differ only in case or accents (PostgreSQL
manual, "Nondeterministic Collations"). ``docs/charsets.md`` has how often the two differ.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from engine.schema import Column

__all__ = ["Collation", "icu_collation", "ignores_case"]

_COLLATION: Final = re.compile(r" collate (\w+)")
_CHARSET: Final = re.compile(r" character set (\w+)")
#: ICU's language for the names in collations of the source. Other languages are not known to agree.
_LANGUAGES: Final = {
    "swedish": "sv",
    "sv": "sv",
    "german2": "de-u-co-phonebk",
    "de_pb": "de-u-co-phonebk",
    "spanish": "es",
    "es": "es",
    "german1": "und",
    "general": "und",
    "unicode": "und",
    "unicode_520": "und",
    "0900": "und",
    "uca1400": "und",
    "uca1400_nopad": "und",
    "general_nopad": "und",
    "unicode_nopad": "und",
    "unicode_520_nopad": "und",
}
_UNICODE: Final = ("utf8", "utf16", "utf32", "ucs2")


#: The charsets whose default collation is not ``…_general_ci``, or one that compares like it.
_OTHER_DEFAULTS: Final = frozenset(
    ("big5", "gbk", "gb2312", "gb18030", "sjis", "cp932", "ujis", "eucjpms", "euckr", "tis620")
) | frozenset(("dec8", "hp8", "swe7", "binary"))


class Collation(NamedTuple):
    """An ICU collation: its name on the target, and its locale."""

    name: str
    locale: str


def ignores_case(column: Column) -> bool:
    """Whether the source takes texts of the column for equal that differ in case."""
    return column.type.kind == "text" and _collation(column).endswith("_ci")


def _collation(column: Column) -> str:
    """The collation of a column, or the default of its charset; empty if it is not known."""
    if found := _COLLATION.search(column.source_type):
        return found[1]
    found = _CHARSET.search(column.source_type)
    if found is None or found[1] in _OTHER_DEFAULTS:
        return ""
    return "latin1_swedish_ci" if found[1] == "latin1" else f"{found[1]}_general_ci"


def icu_collation(column: Column) -> Collation | None:
    """The collation for a text column that ignores case on the source; None if the source's does
    not, or none of ICU's is like it.
    """
    if not ignores_case(column):
        return None
    collation = _collation(column)
    charset, _, rest = collation.partition("_")
    if charset == "uca1400":  # for any charset
        charset, rest = "utf8mb4", collation
    rest = rest.removesuffix("_ci")
    accents = rest[-3:] if rest.endswith(("_ai", "_as")) else ""
    language = rest.removesuffix(accents)
    if language not in _LANGUAGES:
        language = language.removesuffix("_0900")
    if language not in _LANGUAGES:
        return None
    exact = accents == "_as" or (language == "general" and not charset.startswith(_UNICODE))
    level = 2 if exact else 1
    locale = _LANGUAGES[language]
    locale += f"{'-' if '-u-' in locale else '-u-'}ks-level{level}"
    return Collation(f"tailrace_{locale.replace('-', '_')}", locale)
