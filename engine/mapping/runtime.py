"""
The functions that generated row functions call. Each does what the source's function of the name
does, for values that are not NULL.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import md5, sha1, sha224, sha256, sha384, sha512

__all__ = [
    "RUNTIME",
    "Broken",
    "OutOfRange",
    "clamped",
    "concat_ws",
    "date_format",
    "digest",
    "fixed_text",
    "flag",
    "division",
    "as_number",
    "as_signed",
    "as_unsigned",
    "left_padded",
    "modulo",
    "right_padded",
    "rightmost",
    "trimmed",
    "padded_less",
    "rounded",
    "signed",
    "substring",
    "substring_index",
    "truncated",
    "unsigned",
]

_SMALLEST, _LARGEST, _LARGEST_UNSIGNED = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_DIGESTS = {0: sha256, 224: sha224, 256: sha256, 384: sha384, 512: sha512}


class OutOfRange(Exception):
    """The result of an expression is out of the range of its type."""


class Broken(Exception):
    """A row breaks the assertion with this number."""


def signed(number: int) -> int:
    """An integer that must be a BIGINT."""
    if _SMALLEST <= number <= _LARGEST:
        return number
    raise OutOfRange("BIGINT value is out of range")


def unsigned(number: int) -> int:
    """An integer that must be a BIGINT UNSIGNED."""
    if 0 <= number <= _LARGEST_UNSIGNED:
        return number
    raise OutOfRange("BIGINT UNSIGNED value is out of range")


def fixed_text(number: int, scale: int) -> str:
    """The text of a decimal, in the form of a row tuple."""
    if not scale:
        return str(number)
    digits = str(abs(number)).zfill(scale + 1)
    return f"{'-' if number < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


def truncated(number: int, unit: int) -> int:
    """The quotient without its fraction."""
    return number // unit if number >= 0 else -(-number // unit)


def rounded(number: int, unit: int) -> int:
    """The quotient, rounded; a half away from zero."""
    half = unit // 2
    return (number + half) // unit if number >= 0 else -((half - number) // unit)


def clamped(number: int, largest: int) -> int:
    """The nearest number whose absolute value is at most ``largest``."""
    return max(-largest, min(largest, number))


def division(number: int, divisor: int, check: Callable[[int], int]) -> int | None:
    """DIV: NULL for a division by zero. ``check`` is ``signed`` or ``unsigned``."""
    if not divisor:
        return None
    quotient = abs(number) // abs(divisor)
    return check(quotient if (number < 0) == (divisor < 0) else -quotient)


def as_unsigned(number: int) -> int:
    """CAST of an integer to UNSIGNED."""
    return number & _LARGEST_UNSIGNED


def as_number(truth: bool | None) -> int | None:
    """A truth value as a number."""
    return None if truth is None else int(truth)


def as_signed(number: int) -> int:
    """CAST of an integer to SIGNED."""
    return number - (1 << 64) if number > _LARGEST else number


def modulo(number: int, divisor: int) -> int | None:
    """MOD: the remainder has the sign of ``number``; NULL for a division by zero."""
    if not divisor:
        return None
    rest = abs(number) % abs(divisor)
    return -rest if number < 0 else rest


def substring(text: str, start: int, length: int | None = None) -> str:
    """SUBSTRING: ``start`` counts from 1, from the end if it is negative."""
    first = start - 1 if start > 0 else len(text) + start
    if not start or first < 0 or (length is not None and length <= 0):
        return ""
    return text[first:] if length is None else text[first : first + length]


def substring_index(text: str, delimiter: str, count: int) -> str:
    """SUBSTRING_INDEX: the text before the delimiter's occurrence of this number."""
    if not delimiter or not count:
        return ""
    if count > 0:
        return delimiter.join(text.split(delimiter, count)[:count])
    return delimiter.join(text.rsplit(delimiter, -count)[count:])


def concat_ws(separator: str, *parts: str | None) -> str:
    """CONCAT_WS: parts that are NULL are left out."""
    return separator.join([part for part in parts if part is not None])


def rightmost(text: str, count: int) -> str:
    """RIGHT."""
    return text[-count:] if count > 0 else ""


def trimmed(text: str, part: str, where: str) -> str:
    """TRIM of ``part``, which is not empty."""
    if where != "TRAILING":
        while text.startswith(part):
            text = text[len(part) :]
    if where != "LEADING":
        while text.endswith(part):
            text = text[: -len(part)]
    return text


def left_padded(text: str, length: int, part: str) -> str:
    """LPAD, with a part that is not empty."""
    missing = length - len(text)
    if missing <= 0:
        return text[:length]
    return (part * (missing // len(part) + 1))[:missing] + text


def right_padded(text: str, length: int, part: str) -> str:
    """RPAD, with a part that is not empty."""
    missing = length - len(text)
    if missing <= 0:
        return text[:length]
    return text + (part * (missing // len(part) + 1))[:missing]


def padded_less(one: str, other: str) -> bool:
    """Whether ``one`` is less than ``other`` by a PAD SPACE collation of code points."""
    width = max(len(one), len(other))
    return one.ljust(width) < other.ljust(width)


def digest(data: bytes, bits: int) -> str | None:
    """SHA2: NULL for a length that it does not know. 160 is SHA1, and 128 is MD5."""
    if bits == 128:
        return md5(data, usedforsecurity=False).hexdigest()
    if bits == 160:
        return sha1(data, usedforsecurity=False).hexdigest()
    return _DIGESTS[bits](data).hexdigest() if bits in _DIGESTS else None


def flag(number: int) -> bool:
    """A number as a truth value."""
    if number in (0, 1):
        return number == 1
    raise OutOfRange("a number that becomes a boolean is neither 0 nor 1")


def date_format(moment: str, pattern: str) -> str:
    """DATE_FORMAT, with a pattern for ``str.format`` that was made by the compiler."""
    parts = f"{moment} 00:00:00" if len(moment) == 10 else moment
    return pattern.format(
        Y=parts[:4],
        y=parts[2:4],
        m=parts[5:7],
        c=str(int(parts[5:7])),
        d=parts[8:10],
        e=str(int(parts[8:10])),
        H=parts[11:13],
        k=str(int(parts[11:13])),
        i=parts[14:16],
        s=parts[17:19],
        f=f"{parts[20:]:0<6}",
    )


#: The names that generated code may use.
RUNTIME = {
    function.__name__: function
    for function in (
        Broken,
        as_number,
        *(
            as_signed,
            as_unsigned,
            clamped,
            concat_ws,
            date_format,
            digest,
            division,
            fixed_text,
            flag,
        ),
        *(left_padded, modulo, padded_less, right_padded, rightmost, rounded, signed, substring),
        *(substring_index, trimmed, truncated, unsigned),
    )
}
