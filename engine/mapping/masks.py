"""
Masks: what replaces personal data. Pure.

``hash`` and ``digits`` are keyed: whoever does not have the key cannot try values. They do not
depend on the table, so equal values are masked alike everywhere, and joins survive.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Final

__all__ = ["REDACTED", "digits_mask", "hash_mask", "key_digest"]

#: What ``redact`` writes.
REDACTED: Final = "redacted"

_ROUNDS: Final = 10
_DIGIT: Final = re.compile("[0-9]")

_Mask = Callable[[str], str]


def hash_mask(key: str) -> _Mask:
    """HMAC-SHA256 of a text, as 64 hexadecimal digits."""
    prepared = hmac.new(key.encode(), digestmod=sha256)

    def mask(text: str) -> str:
        keyed = prepared.copy()
        keyed.update(text.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()

    return mask


def digits_mask(key: str) -> _Mask:
    """Other digits in the place of the digits 0 to 9; all other characters stay.

    A Feistel network over the digits, keyed by HMAC: for each number of digits it is a permutation,
    so different texts stay different.
    """
    prepared = hmac.new(f"digits {key}".encode(), digestmod=sha256)

    def mask(text: str) -> str:
        found = _DIGIT.findall(text)
        if not found:
            return text
        masked = iter(_permuted("".join(found), prepared))
        return _DIGIT.sub(lambda _: next(masked), text)

    return mask


def _permuted(digits: str, prepared: hmac.HMAC) -> str:
    left, right = digits[: len(digits) // 2], digits[len(digits) // 2 :]
    for number in range(_ROUNDS):
        keyed = prepared.copy()
        keyed.update(f"{len(digits)} {number} {right}".encode())
        width = len(left)
        shift = int.from_bytes(keyed.digest())
        mixed = str((int(left or "0") + shift) % 10**width).zfill(width) if width else ""
        left, right = right, mixed
    return left + right


def key_digest(key: str) -> str:
    """A text that tells whether the key has changed, and does not tell the key."""
    return hmac.new(key.encode(), b"fingerprint", sha256).hexdigest()[:8]
