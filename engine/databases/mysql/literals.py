"""
Canonical texts (``engine.toolkit.canonical``) as SQL literals of MySQL and MariaDB. Pure.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Self

from engine.databases.mysql.charset import is_single_byte, text_encoder
from engine.databases.mysql.types import INTEGER_KINDS, parse_type
from engine.schema import Column
from engine.toolkit.canonical import ReplacedText

__all__ = ["KeyText", "ReplacedKeyText", "bytes_literal", "literal", "literals", "with_srid"]

#: The number of an invalid value of an enum, whose text is empty ("The ENUM Type" in MySQL's
#: manual).
_INVALID_LABEL: Final = "0"

_NUMBERS: Final = INTEGER_KINDS | {"decimal", "bit", "boolean"}
#: The mark of an SRID in the highest byte of the type in EWKB.
_HAS_SRID: Final = 0x20
_UTF8: Final = ("", "utf8mb3", "utf8mb4")
_WITH_DATE: Final = frozenset(("date", "datetime", "timestamp"))


class KeyText(str):
    """A text of a key that was read as bytes, with their hexadecimal digits."""

    __slots__ = ("digits",)

    digits: str

    def __new__(cls, text: str, digits: str) -> Self:
        made = super().__new__(cls, text)
        made.digits = digits
        return made


class ReplacedKeyText(KeyText, ReplacedText):
    """A ``ReplacedText`` of a key."""

    __slots__ = ()


def literal(column: Column, text: str | None) -> str:
    """A canonical text as an SQL literal."""
    kind = column.type.kind
    if text is None:
        return "NULL"
    if isinstance(text, KeyText):
        return bytes_literal(column, text.digits)
    if kind in _NUMBERS:
        return text
    if kind in ("float32", "float64"):
        return f"{text}e0" if "e" not in text else text
    if kind == "binary":
        return f"x'{text}'"
    if kind == "geometry":
        return f"x'{with_srid(text)}'"
    if kind in _WITH_DATE:
        return f"'{text}'"
    if kind in ("time", "interval"):
        return f"TIME'{text}'"  # as a plain string it would be compared as text
    if kind in ("enum", "set"):
        return _number(column, text)
    source_type = parse_type(column.source_type)
    if is_single_byte(source_type.encoding) or source_type.holds:
        # The server does not convert each character of the charset back to its byte.
        with suppress(UnicodeEncodeError):
            return bytes_literal(column, text_encoder(source_type.encoding)(text).hex())
    plain = f"_utf8mb4 x'{text.encode().hex()}'"
    if source_type.encoding in _UTF8:
        return plain
    # A comparison would fail with a character that the server does not convert.
    collation = f" COLLATE {source_type.collation}" if source_type.collation else ""
    return f"CONVERT({plain} USING {source_type.charset}){collation}"


def literals(column: Column, text: str | None) -> list[str]:
    """The literals of all values that are read as a canonical text, which the column can have."""
    found, charset = [literal(column, text)], parse_type(column.source_type).encoding
    if column.type.kind == "enum" and text == "":
        found.append(_INVALID_LABEL)
    if column.type.kind == "text" and text and charset not in _UTF8:
        found.append(bytes_literal(column, text_encoder(charset)(text).hex()))
    return list(dict.fromkeys(found))


def bytes_literal(column: Column, digits: str) -> str:
    """A text with these bytes, which are hexadecimal digits, as an SQL literal."""
    return f"_{parse_type(column.source_type).charset} x'{digits}'"


def with_srid(text: str) -> str:
    """EWKB as MySQL's SRID and WKB ("Internal Geometry Storage Format" in its manual)."""
    order, kind, rest = text[:2], text[2:10], text[10:]
    if not text:
        return text
    if order == "01" and int(kind[-2:] or "0", 16) & _HAS_SRID:
        return f"{rest[:8]}{order}{kind[:6]}{int(kind[-2:], 16) & ~_HAS_SRID:02x}{rest[8:]}"
    return f"00000000{text}"


def _number(column: Column, text: str) -> str:
    """The number of an enum's label, or the bits of a set's labels; -1, which matches no row, for
    an unknown label. An enum may have a label that is empty, as the text of an invalid one is.
    """
    members = column.type.members
    if column.type.kind == "enum" and not text and text not in members:
        return _INVALID_LABEL
    try:
        if column.type.kind == "enum":
            return str(members.index(text) + 1)
        return str(sum(1 << members.index(label) for label in text.split(",") if label))
    except ValueError:
        return "-1"
