"""
The policy ``invalid_text``: what stands for bytes that are no character in their column's charset.
"""

from __future__ import annotations

from typing import Final

from engine.databases.mysql.charset import Errors
from engine.schema import Column, Table
from engine.toolkit.policies import ReadPolicies

__all__ = ["has_substitutes", "invalid_text"]

#: Supplementary Private Use Area-A of Unicode.
_PRIVATE_USE: Final = 0xF0000
_LAST_OF_PRIVATE_USE: Final = 0xFFFFF


def invalid_text(policies: ReadPolicies, table: Table, column: Column) -> Errors:
    """What the decoder of a text column does with such bytes.

    In a key column a character for private use stands for them, one for each two bytes: so two
    keys stay two, and a text stays as short as its column requires.
    """
    policy = policies.of(table.id, column.name).invalid_text
    if policy == "error":
        return "strict"
    in_key = table.ordinal(column.name) in table.key
    if in_key:
        return _private_use
    return "escape" if policy == "escape" else _replacement


def has_substitutes(text: str) -> bool:
    """Whether a text of a key has characters that may stand for bytes."""
    return any(_PRIVATE_USE <= ord(it) <= _LAST_OF_PRIVATE_USE for it in text)


def _private_use(found: bytes) -> str:
    pairs = (found[start : start + 2] for start in range(0, len(found), 2))
    return "".join(chr(_PRIVATE_USE + int.from_bytes(pair)) for pair in pairs)


def _replacement(found: bytes) -> str:
    return "\ufffd"
