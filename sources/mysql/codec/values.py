"""
Numbers, labels and other values of the log: stored bytes become the values in row tuples.

The forms of the values are those of the table in ``engine.schema``. The functions raise ValueError,
or what indexing and unpacking raise, for invalid bytes.

A decimal is stored in groups of digits. The row's own unpack reads the groups, and an expression
that is written for the precision and scale prints them. Negative numbers are printed by a generated
function. For ``DECIMAL(5,2)`` it is::

    def negative_decimal_5_2(raw0, raw1):
        raw0 ^= 32767; raw1 ^= 255
        return f'-{raw0}.{digits2[raw1]}' if raw0 or raw1 else f'{raw0}.{digits2[raw1]}'

``digits2`` has the texts of all numbers of two digits.
"""

from __future__ import annotations

import socket
import struct
import uuid
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from engine.toolkit.codegen import compile_function

__all__ = [
    "SetText",
    "address_text",
    "big_endian",
    "decimal_expression",
    "decimal_reader",
    "decimal_size",
    "digit_texts",
    "digits_expression",
    "ewkb",
    "uncompressed",
    "uuid_text",
]

# A decimal stores nine digits in four bytes, and the remaining digits in as few bytes as possible.
_DIGITS_PER_WORD = 9
_LEFTOVER_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)

# Struct codes of a big-endian number by its size in bytes.
_BIG_ENDIAN = ("", "B", "H", "BH", "I", "BI", "HI", "BHI", "Q")
_DIGITS_PER_TABLE = 4

_EWKB_HAS_SRID = 0x20000000
_SRID_BYTES = 4
_SMALLEST_WKB = 9
_ADDRESS_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}


def decimal_size(precision: int, scale: int) -> int:
    """The size of a packed DECIMAL(precision, scale)."""
    whole, fraction = precision - scale, scale
    return sum(
        4 * (digits // _DIGITS_PER_WORD) + _LEFTOVER_BYTES[digits % _DIGITS_PER_WORD]
        for digits in (whole, fraction)
    )


def _groups(precision: int, scale: int) -> tuple[list[int], list[int]]:
    """Digits per group: the whole part (short group first), the fraction (short group last)."""
    words, left = divmod(precision - scale, _DIGITS_PER_WORD)
    whole = [left] * (left > 0) + [_DIGITS_PER_WORD] * words
    words, left = divmod(scale, _DIGITS_PER_WORD)
    return whole, [_DIGITS_PER_WORD] * words + [left] * (left > 0)


def big_endian(size: int, first: int = 0) -> tuple[str, str]:
    """Struct codes of a big-endian number of ``size`` bytes, and the expression that makes the
    number from the unpacked values.

    ``raw<first>`` is the first of these. ValueError for a size that is not 1 to 8.
    """
    if not 0 < size < len(_BIG_ENDIAN):
        raise ValueError(f"a number of {size} bytes is invalid")
    codes = _BIG_ENDIAN[size]
    shift, parts = 8 * size, []
    for number, code in enumerate(codes, first):
        shift -= 8 * struct.calcsize(f">{code}")
        parts.append(f"raw{number} << {shift}" if shift else f"raw{number}")
    return codes, parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


@lru_cache(maxsize=8)
def digit_texts(digits: int) -> tuple[str, ...]:
    """The texts of all numbers with ``digits`` digits; a look-up is faster than formatting."""
    return tuple(f"{number:0{digits}d}" for number in range(10**digits))


def digits_expression(number: str, digits: int) -> tuple[str, dict[str, Any]]:
    """The inside of an f-string that prints the number with ``digits`` digits, and its names.

    ``number`` is an expression. The f-string raises IndexError for a number with more digits.
    """
    if digits <= _DIGITS_PER_TABLE:
        name = f"digits{digits}"
        return f"{{{name}[{number}]}}", {name: digit_texts(digits)}
    unit = 10**_DIGITS_PER_TABLE
    if " " in number:
        number, again = f"(v := {number})", "v"  # evaluated once, used twice
    else:
        again = number
    high, names = digits_expression(f"{number} // {unit}", digits - _DIGITS_PER_TABLE)
    low, more = digits_expression(f"{again} % {unit}", _DIGITS_PER_TABLE)
    return high + low, names | more


@lru_cache(maxsize=512)
def decimal_expression(precision: int, scale: int) -> tuple[str, str, dict[str, Any]]:
    """Big-endian struct codes of a packed DECIMAL(precision, scale), the expression that makes text
    from the unpacked values (``raw0``, …), and its names. The text has all digits of the scale.

    The format is that of MySQL's ``decimal2bin``: big-endian groups of digits. The top bit is set
    unless the number is negative; all bits of a negative number are inverted.
    """
    if not 0 < precision <= 65 or not 0 <= scale <= min(precision, 38):
        raise ValueError(f"decimal({precision},{scale}) is invalid")
    codes, text, names = _decimal_text(precision, scale)
    top = 1 << (8 * struct.calcsize(f">{codes[0]}") - 1)
    raws = [f"raw{number}" for number in range(len(codes))]
    masks = [(1 << 8 * struct.calcsize(f">{code}")) - 1 for code in codes]
    masks[0] = top - 1
    inverted = "; ".join(f"{raw} ^= {mask}" for raw, mask in zip(raws, masks, strict=True))
    negative = f"negative_decimal_{precision}_{scale}"
    source = f"""
def {negative}({", ".join(raws)}):
    {inverted}
    return f'-{text}' if {" or ".join(raws)} else f'{text}'
"""
    names[negative] = compile_function(negative, source, names)
    positive = text.replace("raw0", f"(raw0 - {top})")
    expression = f"(f'{positive}' if raw0 >= {top} else {negative}({', '.join(raws)}))"
    return codes, expression, names


def _decimal_text(precision: int, scale: int) -> tuple[str, str, dict[str, Any]]:
    """Codes, the inside of an f-string for a number that is not negative, and its names."""
    whole, fraction = _groups(precision, scale)
    codes, integer, text = "", "0", ""
    names: dict[str, Any] = {}
    for digits in whole:
        more, group = big_endian(_LEFTOVER_BYTES[digits], len(codes))
        integer = f"({integer}) * {10**_DIGITS_PER_WORD} + {group}" if codes else group
        codes += more
    for digits in fraction:
        more, group = big_endian(_LEFTOVER_BYTES[digits], len(codes))
        part, needed = digits_expression(group, digits)
        codes, text, names = codes + more, text + part, names | needed
    return codes, f"{{{integer}}}" + (f".{text}" if text else ""), names


@lru_cache(maxsize=512)
def decimal_reader(precision: int, scale: int) -> Callable[[bytes], str]:
    """A function that makes text from a packed DECIMAL(precision, scale).

    It raises struct.error for bytes of another size.
    """
    codes, expression, names = decimal_expression(precision, scale)
    raws = "".join(f"raw{number}, " for number in range(len(codes)))
    source = f"""
def decimal_text(data):
    {raws}= unpack(data)
    return {expression}
"""
    return compile_function(
        "decimal_text", source, {"unpack": struct.Struct(f">{codes}").unpack, **names}
    )


class SetText(dict[int, str]):
    """Bits of a SET → its members, joined by commas; IndexError for a bit without a member."""

    def __init__(self, members: tuple[str, ...]) -> None:
        super().__init__({0: ""})
        self._members = members

    def __missing__(self, bits: int) -> str:
        if bits >> len(self._members):
            raise IndexError("a SET holds a bit without a member")
        text = ",".join(member for number, member in enumerate(self._members) if bits >> number & 1)
        if len(self) < 1 << 12:
            self[bits] = text
        return text


def ewkb(data: bytes) -> bytes:
    """The EWKB of MySQL's geometry, which is four bytes of SRID, then WKB; SRID 0 is omitted.

    The order of the axes is not changed.
    """
    if len(data) < _SRID_BYTES + _SMALLEST_WKB:
        if data:
            raise ValueError("a geometry is cut off")
        return data
    srid, order, wkb = data[:_SRID_BYTES], data[4], data[5:]
    if order not in (0, 1):
        raise ValueError("a geometry has no byte order")
    if srid == b"\0\0\0\0":
        return data[_SRID_BYTES:]
    if order == 1:
        kind = int.from_bytes(wkb[:4], "little") | _EWKB_HAS_SRID
        return b"\x01" + kind.to_bytes(4, "little") + srid + wkb[4:]
    kind = int.from_bytes(wkb[:4], "big") | _EWKB_HAS_SRID
    return b"\x00" + kind.to_bytes(4, "big") + srid[::-1] + wkb[4:]


def uncompressed(data: bytes) -> bytes:
    """The value of a MariaDB COMPRESSED column.

    The first byte is 0 for plain data. Otherwise its upper half is the method (8: zlib), bit 3 is
    set for raw deflate, and the lower three bits are the size of the original length, which follows
    in big endian.
    """
    if not data:
        return data
    header = data[0]
    if header == 0:
        return data[1:]
    if header >> 4 != 8:
        raise ValueError("a compressed column uses an unknown method")
    start = 1 + (header & 7)
    length = int.from_bytes(data[1:start], "big")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS if header & 8 else zlib.MAX_WBITS)
    value = inflate.decompress(data[start:], length + 1)
    if len(value) != length:
        raise ValueError("a compressed value does not have its stated length")
    return value


def uuid_text(data: bytes) -> str:
    """The text of MariaDB's UUID: sixteen bytes, of which the log omits trailing zero bytes."""
    return str(uuid.UUID(bytes=data.ljust(16, b"\0")))


def address_text(family: socket.AddressFamily) -> Callable[[bytes], str]:
    """A function that makes the text of MariaDB's INET4 or INET6 from its bytes, of which the log
    omits trailing zero bytes.
    """
    size = _ADDRESS_BYTES[family]
    return lambda data: socket.inet_ntop(family, data.ljust(size, b"\0"))
