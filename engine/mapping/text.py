"""
The case of letters, and equality, by the collations of MySQL and MariaDB.

``collations.json`` was recorded from MySQL 9.7 and MariaDB 11.8: for each collation the characters
that equal ASCII text (U+00C9 equals ``e``), and for each family of collations the other case of
every letter. So a text can be compared exactly with an ASCII literal: every character is replaced
by the ASCII text that equals it, and one that equals none stays and is different. Two columns can
be compared by collations that compare code points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Final, Literal

import msgspec

__all__ = ["case_converter", "compares_code_points", "equal_form", "like_form", "pads"]

Case = Literal["lower", "upper"]

_UNICODE: Final = ("utf8mb3_", "utf8mb4_")
_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class _Recorded(msgspec.Struct):
    #: By collation, without its charset unless that is latin1: the characters by their ASCII text.
    equal: dict[str, dict[str, str]]
    #: By family and case: the letters, and what they become.
    case: dict[str, dict[str, tuple[str, str]]]


@cache
def _recorded() -> _Recorded:
    text = files(__package__).joinpath("collations.json").read_text(encoding="utf-8")
    return msgspec.convert(json.loads(text), _Recorded)


def _bare(collation: str) -> str:
    """The name without the charset, which MariaDB's ``uca1400_…`` names lack anyway."""
    for charset in _UNICODE:
        collation = collation.removeprefix(charset)
    return collation


def compares_code_points(collation: str) -> bool:
    """Whether a collation compares the code points of texts."""
    return collation.startswith(_UNICODE) and _bare(collation) in ("bin", "0900_bin", "nopad_bin")


def _compares_bytes(collation: str) -> bool:
    return collation in ("latin1_bin", "ascii_bin", "latin1_nopad_bin", "ascii_nopad_bin")


def pads(collation: str) -> bool:
    """Whether spaces at the end of a text do not count (PAD SPACE)."""
    return "nopad" not in collation and not _bare(collation).startswith("0900_")


@cache
def _table(collation: str) -> Mapping[int, str | int] | None:
    """The ASCII text of each character that equals one; None if the collation is not known."""
    if compares_code_points(collation) or _compares_bytes(collation):
        return {}
    name = _bare(collation).replace("nopad_", "")
    if collation in ("ascii_general_ci", "ascii_nopad_general_ci"):
        return _ASCII_LOWER
    classes = _recorded().equal.get(name)
    if classes is None:
        return None
    table: dict[int, str | int] = dict(_ASCII_LOWER)
    for ascii, characters in classes.items():
        table.update(dict.fromkeys(map(ord, characters), ascii))
    return table


@cache
def equal_form(collation: str) -> Callable[[str], str] | None:
    """A function that makes texts that are equal by the collation equal, if one of them is ASCII;
    None if the collation is not known. By a collation of code points or bytes it does so for all.
    """
    table = _table(collation)
    if table is None:
        return None
    if pads(collation):
        return (lambda text: text.translate(table).rstrip(" ")) if table else _without_spaces
    return (lambda text: text.translate(table)) if table else str


def _without_spaces(text: str) -> str:
    return text.rstrip(" ")


@cache
def like_form(collation: str) -> Callable[[str], str] | None:
    """As ``equal_form``, for LIKE, which compares single characters and does not pad."""
    table = _table(collation)
    if table is None:
        return None
    single = {
        character: ascii
        for character, ascii in table.items()
        if isinstance(ascii, int) or len(ascii) == 1
    }
    return (lambda text: text.translate(single)) if single else str


@cache
def case_converter(collation: str, case: Case) -> Callable[[str], str] | None:
    """LOWER or UPPER for texts of a collation; None if its letters are not known."""
    family = _family(collation)
    if family is None:
        return None
    letters, others = _recorded().case[family][case]
    table = str.maketrans(letters, others)
    ascii = str.lower if case == "lower" else str.upper
    # MySQL's result has no more bytes than the text; what does not fit is cut off.
    growing = frozenset(
        letter
        for letter, other in zip(letters, others, strict=True)
        if family == "0900" and len(other.encode()) > len(letter.encode())
    )

    def convert(text: str) -> str:
        if text.isascii():
            return ascii(text)
        other = text.translate(table)
        if growing.isdisjoint(text):
            return other
        return other.encode()[: len(text.encode())].decode(errors="ignore")

    return convert


def _family(collation: str) -> str | None:
    name = _bare(collation)
    if collation.startswith(("latin1_", "ascii_")):
        return "latin1"
    if name.startswith("0900_"):
        return "0900"
    if name.startswith("uca1400_"):
        return "uca1400"
    known = ("bin", "nopad_bin", "general_ci", "general_nopad_ci", "unicode_ci", "unicode_nopad_ci")
    return "general" if collation.startswith(_UNICODE) and name in known else None
