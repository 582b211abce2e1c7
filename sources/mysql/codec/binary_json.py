"""
MySQL's binary JSON becomes the text that the server itself prints.

The format is documented in MySQL's source, ``sql-common/json_binary.h``: a value is a type byte and
data; objects and arrays hold a count, their size, and tables of offsets, in two- or four-byte form.
Offsets come from the log and are not trusted: every byte that is read counts against the size of
the document. So damaged bytes cannot cause an endless loop, endless recursion, or output that is
out of proportion to the input.

The documents of a table usually have the same keys. An object is therefore printed by a template,
the text around its values, which is cached by the bytes of the object's keys.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from decimal import Decimal
from json.encoder import encode_basestring as quoted  # in C, and escapes as the server does
from math import isfinite
from typing import Any, Final, NamedTuple

from sources.mysql.codec.values import decimal_reader, decimal_size

__all__ = ["double_text", "json_printer", "json_text", "json_text_of_5_7", "json_text_of_9_7"]

_LARGE_OBJECT, _LARGE_ARRAY = 1, 3
_LITERAL, _INT16, _UINT16, _INT32, _UINT32 = 4, 5, 6, 7, 8
_INT64, _UINT64, _DOUBLE, _STRING, _OPAQUE = 9, 10, 11, 12, 15
_LITERALS = ("null", "true", "false")
_NUMBERS = {
    _INT16: struct.Struct("<h").unpack_from,
    _UINT16: struct.Struct("<H").unpack_from,
    _INT32: struct.Struct("<i").unpack_from,
    _UINT32: struct.Struct("<I").unpack_from,
    _INT64: struct.Struct("<q").unpack_from,
    _UINT64: struct.Struct("<Q").unpack_from,
}
_DOUBLE_VALUE = struct.Struct("<d").unpack_from

# By type of container: the reader of count and size, the bytes that these take, the bytes of a key
# entry and of a value entry, and the reader of the value entries.
_SMALL = struct.Struct("<HH"), struct.Struct("<BH")
_LARGE = struct.Struct("<II"), struct.Struct("<BI")
_FORMS = (
    (_SMALL[0].unpack_from, 4, 4, 3, _SMALL[1].iter_unpack),
    (_LARGE[0].unpack_from, 8, 6, 5, _LARGE[1].iter_unpack),
    (_SMALL[0].unpack_from, 4, 0, 3, _SMALL[1].iter_unpack),
    (_LARGE[0].unpack_from, 8, 0, 5, _LARGE[1].iter_unpack),
)
_KEYS = (struct.Struct("<HH").iter_unpack, struct.Struct("<IH").iter_unpack)

# Column types of opaque values that are not printed as base64.
_TIMESTAMP, _DATE, _TIME, _DATETIME, _DECIMAL = 7, 10, 11, 12, 246
_VAR_STRING = 253
_BASE64_LINE = 76
_DEEPEST = 100  # the servers' limit


# Caches for objects, cleared when they are full; see _span and _template.
_SPANS: dict[tuple[int, bytes], tuple[int, int, int]] = {}
_TEMPLATES: dict[tuple[int, bytes, bytes], str] = {}
_CACHED_BYTES, _CACHE_ENTRIES = 1024, 1024


class _Style(NamedTuple):
    """How a release prints doubles, and values of column types that JSON does not have."""

    double: Callable[[float], str]
    opaque: Callable[[int, bytes], str]


def json_text(data: bytes, style: _Style | None = None) -> str:
    """The text of a JSON column's value; a value of zero bytes is JSON's null.

    ``style`` is by default that of MySQL 8.0. Raises ValueError, IndexError, KeyError or
    struct.error for bytes that are not binary JSON.
    """
    if not data:
        return "null"
    style = style or _STYLE
    if data[0] <= _LARGE_ARRAY:
        return _container(data[0], data, 1, len(data), 0, len(data), style)[0]
    return _scalar(data[0], data, 1, len(data), len(data), style)[0]


def json_text_of_5_7(data: bytes) -> str:
    """The text as MySQL 5.7 prints it: a double without a fraction looks like an integer."""
    return json_text(data, _STYLE_OF_5_7)


def json_text_of_9_7(data: bytes) -> str:
    """The text as MySQL 9.7 prints it.

    It stores a text with the charset ucs2, utf16, utf16le or utf32 in its own bytes, with the
    column type VAR_STRING, and prints them as they are. Earlier releases convert texts, and give
    that type to binary strings. Raises UnicodeDecodeError for bytes that are not UTF-8.
    """
    return json_text(data, _STYLE_OF_9_7)


def json_printer(version: tuple[int, ...]) -> Callable[[bytes], str]:
    """The function that prints as a version of MySQL does; an empty version is MySQL 8.0."""
    if version >= (9, 7):
        return json_text_of_9_7
    return json_text_of_5_7 if () < version < (8,) else json_text


def double_text(value: float) -> str:
    """A double as the servers print it: the shortest digits, without an exponent from 1e-15 up to
    1e15 and wherever there are digits after the point."""
    if 1e-4 <= value < 1e15:
        return repr(value)
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


def _container(
    kind: int,
    data: bytes,
    at: int,
    limit: int,
    depth: int,
    left: int,
    style: _Style,
) -> tuple[str, int]:
    """The object or array at ``data[at:limit]``, and the number of bytes that may still be read.

    ``left`` is that number before; it starts as the size of the document, so each byte may be read
    once.
    """
    sizes, header, key, entry, entries = _FORMS[kind]
    count, size = sizes(data, at)
    end, keys_end = at + size, at + header + count * key
    stop = keys_end + count * entry
    left -= stop - at
    if end > limit or stop > end or left < 0 or depth > _DEEPEST:
        raise ValueError("JSON is cut off, nested too deeply or refers to itself")
    texts = []
    for type, where in entries(data[keys_end:stop]):
        if type == _STRING:
            start = at + where + 1
            length = data[start - 1]
            if length > 127:
                length, start = _length(data, start - 1)
            left -= length
            if start + length > end or left < 0:
                raise ValueError("JSON is cut off or refers to the same bytes repeatedly")
            text = quoted(data[start : start + length].decode())
        elif type <= _LARGE_ARRAY:
            text, left = _container(type, data, at + where, end, depth + 1, left, style)
        elif type == _LITERAL:
            text = _LITERALS[where]
        elif type <= _UINT16 or (type <= _UINT32 and header == 8):
            text = _inlined(type, where)
        elif type in _NUMBERS:
            text = str(_NUMBERS[type](data, at + where)[0])
        elif type == _DOUBLE:
            text = style.double(_DOUBLE_VALUE(data, at + where)[0])
        else:
            text, left = _scalar(type, data, at + where, end, left, style)
        texts.append(text)
    if not key:
        return f"[{', '.join(texts)}]", left
    template, left = _template(kind, data, at, end, data[at + header : keys_end], left)
    return template % tuple(texts), left


def _inlined(type: int, number: int) -> str:
    """A value that is stored in place of its offset, in two or four bytes."""
    if type == _INT16:
        return str((number & 0xFFFF ^ 0x8000) - 0x8000)
    if type == _INT32:
        return str((number ^ 0x80000000) - 0x80000000)
    return str(number & 0xFFFF if type == _UINT16 else number)


def _template(
    kind: int, data: bytes, at: int, end: int, entries: bytes, left: int
) -> tuple[str, int]:
    """``{"key": %s, …}`` for the object at ``data[at:end]``, and the bytes still to be read."""
    start, stop, size = _SPANS.get((kind, entries)) or _span(kind, entries)
    left -= size
    if at + stop > end or left < 0:
        raise ValueError("the keys of JSON are cut off or refer to the same bytes repeatedly")
    keys = data[at + start : at + stop]
    template = _TEMPLATES.get((kind, entries, keys))
    if template is None:
        names = [
            keys[where - start : where - start + length].decode()
            for where, length in _KEYS[kind](entries)
        ]
        members = (quoted(name).replace("%", "%%") + ": %s" for name in names)
        template = "{" + ", ".join(members) + "}"
        if len(entries) + len(keys) <= _CACHED_BYTES:
            _bounded(_TEMPLATES)[kind, entries, keys] = template
    return template, left


def _span(kind: int, entries: bytes) -> tuple[int, int, int]:
    """The start and end of an object's keys, and the bytes to count for them."""
    places = list(_KEYS[kind](entries)) or [(0, 0)]
    start = min(where for where, _ in places)
    stop = max(where + length for where, length in places)
    # The whole slice counts: damaged offsets may place the keys far apart.
    span = start, stop, max(stop - start, sum(length for _, length in places))
    if len(entries) <= _CACHED_BYTES:
        _bounded(_SPANS)[kind, entries] = span
    return span


def _bounded(cache: dict[Any, Any]) -> dict[Any, Any]:
    """The cache, emptied if it is full."""
    if len(cache) >= _CACHE_ENTRIES:
        cache.clear()
    return cache


def _scalar(type: int, data: bytes, at: int, end: int, left: int, style: _Style) -> tuple[str, int]:
    """The value at ``data[at:end]``, not a container, and the bytes that may still be read."""
    if type == _LITERAL:
        return _LITERALS[data[at]], left
    if type in _NUMBERS:
        return str(_NUMBERS[type](data, at)[0]), left
    if type == _DOUBLE:
        return style.double(_DOUBLE_VALUE(data, at)[0]), left
    if type not in (_STRING, _OPAQUE):
        raise ValueError(f"binary JSON has no type {type}")
    length, start = _length(data, at + (type == _OPAQUE))
    left -= length
    if start + length > end or left < 0:
        raise ValueError("JSON is cut off or refers to the same bytes repeatedly")
    value = data[start : start + length]
    return (quoted(value.decode()) if type == _STRING else style.opaque(data[at], value)), left


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of seven bits per byte, low bits first, and the position after it."""
    length = shift = 0
    for end in range(at, at + 5):
        byte = data[end]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, end + 1
        shift += 7
    raise ValueError("a length in JSON has no end")


def _opaque(column_type: int, data: bytes) -> str:
    printer = _OPAQUES.get(column_type)
    if printer is not None:
        return printer(data)
    text = base64.b64encode(data).decode()
    # The server breaks the base64 text into lines; in JSON a line break is an escape.
    lines = [text[at : at + _BASE64_LINE] for at in range(0, len(text), _BASE64_LINE)]
    return f'"base64:type{column_type}:' + "\\n".join(lines) + '"'


def _opaque_of_9_7(column_type: int, data: bytes) -> str:
    return quoted(data.decode()) if column_type == _VAR_STRING else _opaque(column_type, data)


def _cut(data: bytes, size: int) -> bytes:
    if size > len(data):
        raise ValueError("JSON is cut off")
    return data[:size]


def _decimal(data: bytes) -> str:
    """One byte of precision, one of scale, then the packed digits."""
    precision, scale = data[0], data[1]
    return decimal_reader(precision, scale)(_cut(data[2:], decimal_size(precision, scale)))


def _datetime(data: bytes) -> str:
    """Eight bytes, little endian: 24 bits of microseconds below 13 · year + month, day, time."""
    packed = int.from_bytes(_cut(data, 8), "little")
    packed, microseconds = packed >> 24, packed & 0xFFFFFF
    clock, date = packed & 0x1FFFF, packed >> 17
    months, day = divmod(date, 32)
    return (
        f'"{months // 13:04d}-{months % 13:02d}-{day:02d} '
        f'{clock >> 12:02d}:{clock >> 6 & 63:02d}:{clock & 63:02d}.{microseconds:06d}"'
    )


def _date(data: bytes) -> str:
    return _datetime(data)[:11] + '"'


def _time(data: bytes) -> str:
    packed = int.from_bytes(_cut(data, 8), "little", signed=True)
    sign, packed = ("-", -packed) if packed < 0 else ("", packed)
    clock, microseconds = packed >> 24, packed & 0xFFFFFF
    return (
        f'"{sign}{clock >> 12 & 1023:02d}:{clock >> 6 & 63:02d}:{clock & 63:02d}'
        f'.{microseconds:06d}"'
    )


_OPAQUES: dict[int, Callable[[bytes], str]] = {
    _TIMESTAMP: _datetime,
    _DATETIME: _datetime,
    _DATE: _date,
    _TIME: _time,
    _DECIMAL: _decimal,
}
_STYLE: Final = _Style(double_text, _opaque)
_STYLE_OF_5_7: Final = _Style(lambda value: double_text(value).removesuffix(".0"), _opaque)
_STYLE_OF_9_7: Final = _Style(double_text, _opaque_of_9_7)
