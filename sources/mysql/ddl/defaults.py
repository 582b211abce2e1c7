"""
The default of a column in the form in which the server stores it. Pure.

A server converts a default to the column's type when it reads the statement, and sets it in
existing rows: ``'B'`` becomes the member ``b`` of an enum, ``1e3`` the text ``1000``. If the stored
form is not known exactly, the statement is unreadable.
"""

from __future__ import annotations

import re
import socket
from typing import Final

from engine.databases.mysql.charset import BYTES_PER_CHARACTER, text_decoder
from engine.databases.mysql.types import MySQLType, unquote
from engine.schema import Type
from sources.mysql.ddl.tokens import Unreadable, quote

__all__ = ["bytes_of", "decoded", "is_converted", "stored_default"]

_NUMBER: Final = re.compile(r"-?[0-9.]+(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
#: The server writes whole floats below this bound with all their digits.
_EXACT_BELOW: Final = 1e15
_CHARACTER_TYPES: Final = frozenset(
    ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
)
#: The forms of constants of temporal types that every server and target read in the same way.
_DATE: Final = r"'\d{4}-\d\d-\d\d'|0"
_MOMENT: Final = r"'\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.(\d+))?)?'|0"
_TEMPORAL: Final = {
    "date": re.compile(f"(?:DATE *)?(?:{_DATE})()", re.IGNORECASE),
    "datetime": re.compile(f"(?:TIMESTAMP *)?(?:{_MOMENT})", re.IGNORECASE),
    "timestamp": re.compile(f"(?:TIMESTAMP *)?(?:{_MOMENT})", re.IGNORECASE),
    "time": re.compile(r"(?:TIME *)?'-?\d{2,3}:\d\d:\d\d(?:\.(\d+))?'", re.IGNORECASE),
    "year": re.compile(r"'(?:19|20|21)\d\d'|(?:19|20|21)\d\d|0()"),
}
_LITERAL: Final = re.compile(r"(?:[A-Z]+ *)?'|[-+.]?\d", re.IGNORECASE)


def is_converted(default: str | None, type: MySQLType) -> bool:
    """Whether a server may store another number or time than the default that a statement contains:
    it rounds, or reads a form such as ``20200102``.
    """
    if default is None or not _LITERAL.match(default):
        return False
    if type.base == "year" and type.length:
        return True
    if type.base in _TEMPORAL:
        found = _TEMPORAL[type.base].fullmatch(default)
        return found is None or len(found[1] or "") > type.fraction
    if type.base not in ("float", "double") or type.scale is None:
        return False
    _, _, decimals = default.strip("'").partition(".")
    return len(decimals) > type.scale or (not decimals.isdigit() and bool(decimals))


def stored_default(default: str | None, type: Type, source_type: MySQLType) -> str | None:
    """``default``, as ``read_default`` returns it, in the form that the column stores.

    Raises Unreadable if that form is not known. Defaults of numeric and temporal columns are
    returned unchanged; the reader of the default converts them.
    """
    if default is None or not _is_constant(default):
        return default
    if type.kind == "bit" and default[0] == "'":
        bits = int.from_bytes(_ascii(unquote(default)).encode())
        return f"b'{bits:b}'"
    if type.kind == "binary":
        return _binary(default)
    if source_type.base == "inet6" and default[0] == "'":
        return quote(_address(unquote(default)))
    if source_type.base not in _CHARACTER_TYPES:
        return default
    text = _text(default, source_type.charset)
    if type.kind == "enum":
        return quote(_member(text, type.members))
    if type.kind == "set":
        chosen = {_member(part, type.members) for part in text.split(",")} if text else set()
        return quote(",".join(member for member in type.members if member in chosen))
    if source_type.base == "char":
        text = text.rstrip(" ")
    return quote(_cut(text, source_type.length or len(text)))


def bytes_of(literal: str) -> bytes | None:
    """The bytes of a bit or hexadecimal literal; None for any other literal."""
    mark, digits = literal[:2].lower(), literal[2:].rstrip("'")
    try:
        if mark in ("x'", "0x"):
            return bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0"))
        if mark in ("b'", "0b"):
            return int(digits or "0", 2).to_bytes((len(digits) + 7) // 8)
    except ValueError as error:
        raise _unknown() from error
    return None


def decoded(data: bytes, charset: str) -> str:
    """Bytes as text. Raises Unreadable if they are invalid in the charset, or it is unknown."""
    if charset not in BYTES_PER_CHARACTER and not (data.isascii() and not charset):
        raise _unknown()
    try:
        return text_decoder(charset)(data) if charset else data.decode("ascii")
    except ValueError as error:
        raise _unknown() from error


def _is_constant(default: str) -> bool:
    return default[:1] in ("'", "-") or default[:1].isdigit() or default[1:2] == "'"


def _text(default: str, charset: str) -> str:
    """The constant as text."""
    if default[0] == "'":
        return unquote(default)
    data = bytes_of(default)
    return _digits(default) if data is None else decoded(data, charset)


def _binary(default: str) -> str:
    if default[0] == "'":
        _ascii(unquote(default))
        return default
    data = bytes_of(default)
    return quote(_digits(default)) if data is None else f"x'{data.hex()}'"


def _digits(number: str) -> str:
    """A number in the text form of the server."""
    if _INTEGER.fullmatch(number):
        return str(int(number))
    if _DECIMAL.fullmatch(number) and number.strip("-0."):
        return number
    if _NUMBER.fullmatch(number) and "e" in number.lower():
        value = float(number)
        if value == int(value) and 0 < abs(value) < _EXACT_BELOW:
            return str(int(value))
    raise _unknown()


def _member(text: str, members: tuple[str, ...]) -> str:
    text = text.rstrip(" ")
    if text in members:
        return text
    same = [member for member in members if member.casefold() == text.casefold()]
    if len(same) != 1:
        raise _unknown()
    return same[0]


def _cut(text: str, length: int) -> str:
    """Cut spaces that do not fit; raise Unreadable if other characters do not fit."""
    if text[length:].strip(" "):
        raise _unknown()
    return text[:length]


def _address(text: str) -> str:
    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError) as error:
        raise _unknown() from error


def _ascii(text: str) -> str:
    """``text`` if it is ASCII; other characters have bytes that depend on the session."""
    if not text.isascii():
        raise _unknown()
    return text


def _unknown() -> Unreadable:
    return Unreadable("sets a default whose stored form cannot be derived")
