"""
Numbers, labels and other values of the log: packed bytes → the value that travels.

Each function here makes what the table in ``engine.schema`` says, and raises ValueError (or what
indexing and unpacking raise) for bytes that cannot be. Decimals are read by functions generated per
precision and scale.
"""

from __future__ import annotations

import socket
import uuid
import zlib
from collections.abc import Callable
from functools import lru_cache

from engine.codegen import compile_function

__all__ = [
    "SetText",
    "address_text",
    "decimal_reader",
    "decimal_size",
    "ewkb",
    "uncompressed",
    "uuid_text",
]

# A decimal packs nine digits into four bytes, and what is left over into as few as hold it.
_DIGITS_PER_WORD = 9
_LEFTOVER_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)

# Ready texts of short groups: looking one up is quicker than formatting it.
_DIGIT_TEXTS = {
    digits: tuple(f"{number:0{digits}d}" for number in range(10**digits)) for digits in (1, 2, 3)
}

_EWKB_HAS_SRID = 0x20000000
_SRID_BYTES = 4
_SMALLEST_WKB = 9
_ADDRESS_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}


def decimal_size(precision: int, scale: int) -> int:
    """Bytes of a packed DECIMAL(precision, scale)."""
    whole, fraction = precision - scale, scale
    return sum(
        4 * (digits // _DIGITS_PER_WORD) + _LEFTOVER_BYTES[digits % _DIGITS_PER_WORD]
        for digits in (whole, fraction)
    )


def _groups(precision: int, scale: int) -> tuple[list[int], list[int]]:
    """Digits per group: of the whole part (short group first), of the fraction (short one last)."""
    words, left = divmod(precision - scale, _DIGITS_PER_WORD)
    whole = [left] * (left > 0) + [_DIGITS_PER_WORD] * words
    words, left = divmod(scale, _DIGITS_PER_WORD)
    return whole, [_DIGITS_PER_WORD] * words + [left] * (left > 0)


@lru_cache(maxsize=512)
def decimal_reader(precision: int, scale: int) -> Callable[[bytes], str]:
    """A function: packed DECIMAL(precision, scale) → text with all digits of the scale.

    The format is that of MySQL's ``decimal2bin``: big endian groups of digits, the top bit set for
    numbers that are not negative, all bits inverted for those that are.
    """
    if not 0 < precision <= 65 or not 0 <= scale <= min(precision, 38):
        raise ValueError(f"decimal({precision},{scale}) cannot be")
    whole, fraction = _groups(precision, scale)
    top = 1 << (8 * decimal_size(precision, scale) - 1)
    groups = _group_expressions(whole + fraction)
    integer = "0"
    for group in groups[: len(whole)]:
        integer = group if integer == "0" else f"({integer}) * {10**_DIGITS_PER_WORD} + {group}"
    tail = "".join(
        f"{{digits{digits}[{group}]}}" if digits in _DIGIT_TEXTS else f"{{{group}:0{digits}d}}"
        for group, digits in zip(groups[len(whole) :], fraction, strict=True)
    )
    text = f"{{{integer}}}" + (f".{tail}" if fraction else "")
    source = f"""
def decimal_text(data):
    packed = from_bytes(data, 'big')
    if packed >= {top}:
        packed -= {top}
        return f'{text}'
    packed ^= {top - 1}
    return f'-{text}' if packed else f'{text}'
"""
    names = {f"digits{digits}": texts for digits, texts in _DIGIT_TEXTS.items()}
    return compile_function("decimal_text", source, {"from_bytes": int.from_bytes, **names})


def _group_expressions(groups: list[int]) -> list[str]:
    """How each group of digits is cut out of ``packed``."""
    shift = 8 * sum(_LEFTOVER_BYTES[digits] for digits in groups)
    expressions = []
    for digits in groups:
        bits = 8 * _LEFTOVER_BYTES[digits]
        shift -= bits
        moved = f"packed >> {shift}" if shift else "packed"
        expressions.append(f"({moved} & {(1 << bits) - 1})")
    return expressions


class SetText(dict[int, str]):
    """Bits of a SET → its members joined by commas; IndexError for a bit without a member."""

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
    """MySQL's geometry (four bytes of SRID, then WKB) → EWKB; the SRID 0 is left out.

    The order of axes stays as stored.
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
    """A value of a MariaDB COMPRESSED column.

    The first byte is 0 for plain data; else its upper half is the method (8: zlib), bit 3 says raw
    deflate, the lower three bits how many bytes of original length follow, big endian.
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
        raise ValueError("a compressed column has another length than it says")
    return value


def uuid_text(data: bytes) -> str:
    """MariaDB's UUID: sixteen bytes, trailing zero bytes left out."""
    return str(uuid.UUID(bytes=data.ljust(16, b"\0")))


def address_text(family: socket.AddressFamily) -> Callable[[bytes], str]:
    """A function for MariaDB's INET4 or INET6: bytes, trailing zero bytes left out → text."""
    size = _ADDRESS_BYTES[family]
    return lambda data: socket.inet_ntop(family, data.ljust(size, b"\0"))
