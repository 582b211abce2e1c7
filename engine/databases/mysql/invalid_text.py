"""
The policy ``invalid_text``: what stands for bytes that are no character in their column's charset.
"""

from __future__ import annotations

import re
from typing import Final

from engine.databases.mysql.charset import Errors, text_decoder, text_encoder
from engine.schema import Column, Table
from engine.toolkit.policies import ReadPolicies

__all__ = ["bytes_of", "has_substitutes", "invalid_text"]

#: Supplementary Private Use Area-A of Unicode.
_PRIVATE_USE: Final = 0xF0000
_SUBSTITUTE: Final = re.compile("([\U000f0000-\U000fffff])")


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
    return _SUBSTITUTE.search(text) is not None


def bytes_of(text: str, charset: str) -> bytes | None:
    """The bytes that are read as this text of a key; None if there are none.

    A substitute below U+F0100 stands for one byte, or for two in a charset with zero bytes.
    """
    decode, encode = text_decoder(charset, _private_use), text_encoder(charset)
    pieces = _SUBSTITUTE.split(text)
    for shortest in (1, 2):
        try:
            found = b"".join(
                encode(piece) if n % 2 == 0 else _stood_for(piece, shortest)
                for n, piece in enumerate(pieces)
            )
        except UnicodeEncodeError:
            return None
        if decode(found) == text:
            return found
    return None


def _stood_for(substitute: str, shortest: int) -> bytes:
    value = ord(substitute) - _PRIVATE_USE
    return value.to_bytes(shortest if value < 256 else 2)


def _private_use(found: bytes) -> str:
    pairs = (found[start : start + 2] for start in range(0, len(found), 2))
    return "".join(chr(_PRIVATE_USE + int.from_bytes(pair)) for pair in pairs)


def _replacement(found: bytes) -> str:
    return "\ufffd"
