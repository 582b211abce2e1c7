"""
MySQL's binary JSON → the text that the server itself would print.

The format is documented in MySQL's source, ``sql-common/json_binary.h``: a value is a type byte and
data; objects and arrays hold a count, their size, and tables of offsets, in two- or four-byte form.
Offsets come from the log, so everything read is counted against the size of the value: no bytes can
make this loop, recurse without end, or print more than they hold.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from math import isfinite

from sources.mysql.values import decimal_reader, decimal_size

__all__ = ["double_text", "json_text"]

_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY = 0, 1, 2, 3
_LITERAL, _INT16, _UINT16, _INT32, _UINT32 = 4, 5, 6, 7, 8
_INT64, _UINT64, _DOUBLE, _STRING, _OPAQUE = 9, 10, 11, 12, 15
_LITERALS = {0: "null", 1: "true", 2: "false"}
_NUMBERS = {
    _INT16: struct.Struct("<h"),
    _UINT16: struct.Struct("<H"),
    _INT32: struct.Struct("<i"),
    _UINT32: struct.Struct("<I"),
    _INT64: struct.Struct("<q"),
    _UINT64: struct.Struct("<Q"),
}
_DOUBLE_VALUE = struct.Struct("<d")

# Column types that an opaque value can carry and that print as something else than base64.
_TIMESTAMP, _DATE, _TIME, _DATETIME, _DECIMAL = 7, 10, 11, 12, 246
_BASE64_LINE = 76
_DEEPEST = 100  # the servers refuse to nest deeper

_ESCAPE = re.compile(r'["\\\x00-\x1f]')
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def json_text(data: bytes) -> str:
    """The text of a JSON column's value; a value of zero bytes is JSON's null.

    Raises ValueError, IndexError, KeyError or struct.error for bytes that are no JSON.
    """
    if not data:
        return "null"
    # A view: cutting it copies nothing, however often a document is nested.
    return _Printer(len(data)).value(data[0], memoryview(data)[1:], 0)


def _quoted(text: str) -> str:
    escaped = _ESCAPE.sub(lambda found: _ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04x}", text)
    return f'"{escaped}"'


def double_text(value: float) -> str:
    """A double as the servers print it: the shortest digits, plain from 1e-15 up to 1e15 and
    wherever there are digits after the point."""
    if not isfinite(value):
        raise ValueError("JSON has no such number")
    negative, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text, point = "".join(map(str, digits)), len(digits) + int(exponent)
    sign = "-" * negative
    if not any(digits):
        return f"{sign}0.0"
    if not (-15 < point <= 15 or 0 < point < len(text)):
        mantissa = f"{text[0]}.{text[1:]}" if len(text) > 1 else text
        return f"{sign}{mantissa}e{point - 1}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{text}"
    return f"{sign}{text[:point].ljust(point, '0')}.{text[point:] or '0'}"


def _length(data: memoryview, at: int) -> tuple[int, int]:
    """A length of seven bits per byte, low bits first, and where it ends."""
    length = shift = 0
    for end in range(at, at + 5):
        byte = data[end]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, end + 1
        shift += 7
    raise ValueError("a length in JSON has no end")


def _cut(data: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise ValueError("JSON is cut off")
    return data[start : start + size]


class _Printer:
    """Prints one document; ``left`` is how many bytes may still be read."""

    def __init__(self, size: int) -> None:
        # Inlined values are read from entries that were already counted.
        self.left = 2 * size + 16

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("JSON refers to the same bytes again and again")

    def value(self, kind: int, data: memoryview, depth: int) -> str:
        if kind <= _LARGE_ARRAY:
            if depth > _DEEPEST:
                raise ValueError("JSON is nested too deeply")
            return self._container(kind, data, depth)
        self._spend(1)
        if kind == _LITERAL:
            return _LITERALS[data[0]]
        if kind in _NUMBERS:
            return str(_NUMBERS[kind].unpack_from(data)[0])
        if kind == _DOUBLE:
            return double_text(_DOUBLE_VALUE.unpack_from(data)[0])
        if kind == _STRING:
            length, start = _length(data, 0)
            self._spend(length)
            return _quoted(str(_cut(data, start, length), "utf-8"))
        if kind == _OPAQUE:
            length, start = _length(data, 1)
            self._spend(length)
            return _opaque(data[0], _cut(data, start, length))
        raise ValueError(f"JSON has no type {kind}")

    def _container(self, kind: int, data: memoryview, depth: int) -> str:
        large = kind in (_LARGE_OBJECT, _LARGE_ARRAY)
        width = 4 if large else 2
        keyed = kind <= _LARGE_OBJECT
        count = int.from_bytes(_cut(data, 0, width), "little")
        size = int.from_bytes(_cut(data, width, width), "little")
        data = _cut(data, 0, size)
        entry, key = 1 + width, (width + 2) * keyed
        self._spend(2 * width + count * (entry + key))
        values_at = 2 * width + count * key
        _cut(data, values_at, count * entry)
        values = [
            self._element(data, values_at + number * entry, width, depth) for number in range(count)
        ]
        if not keyed:
            return f"[{', '.join(values)}]"
        keys = [self._key(data, 2 * width + number * key, width) for number in range(count)]
        return "{" + ", ".join(map("{}: {}".format, keys, values)) + "}"

    def _key(self, data: memoryview, at: int, width: int) -> str:
        offset = int.from_bytes(data[at : at + width], "little")
        length = int.from_bytes(data[at + width : at + width + 2], "little")
        self._spend(length)
        return _quoted(str(_cut(data, offset, length), "utf-8"))

    def _element(self, data: memoryview, at: int, width: int, depth: int) -> str:
        kind = data[at]
        inlined = kind in (_LITERAL, _INT16, _UINT16) or (width == 4 and kind in (_INT32, _UINT32))
        if inlined:
            return self.value(kind, data[at + 1 : at + 1 + width], depth + 1)
        offset = int.from_bytes(data[at + 1 : at + 1 + width], "little")
        if offset >= len(data):
            raise ValueError("JSON refers to bytes outside of itself")
        return self.value(kind, data[offset:], depth + 1)


def _opaque(column_type: int, data: memoryview) -> str:
    printer = _OPAQUES.get(column_type)
    if printer is not None:
        return printer(data)
    text = base64.b64encode(data).decode()
    # The server breaks lines, and a line break in JSON is an escape.
    lines = [text[at : at + _BASE64_LINE] for at in range(0, len(text), _BASE64_LINE)]
    return f'"base64:type{column_type}:' + "\\n".join(lines) + '"'


def _decimal(data: memoryview) -> str:
    """Precision, scale, packed digits."""
    precision, scale = data[0], data[1]
    return decimal_reader(precision, scale)(bytes(_cut(data, 2, decimal_size(precision, scale))))


def _datetime(data: memoryview) -> str:
    """Eight bytes, little endian: 24 bits of microseconds below 13 · year + month, day, time."""
    packed = int.from_bytes(_cut(data, 0, 8), "little")
    packed, microseconds = packed >> 24, packed & 0xFFFFFF
    clock, date = packed & 0x1FFFF, packed >> 17
    months, day = divmod(date, 32)
    return (
        f'"{months // 13:04d}-{months % 13:02d}-{day:02d} '
        f'{clock >> 12:02d}:{clock >> 6 & 63:02d}:{clock & 63:02d}.{microseconds:06d}"'
    )


def _date(data: memoryview) -> str:
    return _datetime(data)[:11] + '"'


def _time(data: memoryview) -> str:
    packed = int.from_bytes(_cut(data, 0, 8), "little", signed=True)
    sign, packed = ("-", -packed) if packed < 0 else ("", packed)
    clock, microseconds = packed >> 24, packed & 0xFFFFFF
    return (
        f'"{sign}{clock >> 12 & 1023:02d}:{clock >> 6 & 63:02d}:{clock & 63:02d}'
        f'.{microseconds:06d}"'
    )


_OPAQUES: dict[int, Callable[[memoryview], str]] = {
    _TIMESTAMP: _datetime,
    _DATETIME: _datetime,
    _DATE: _date,
    _TIME: _time,
    _DECIMAL: _decimal,
}
