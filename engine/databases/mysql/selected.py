"""
What a plain read selects for a value, and how the server's text of it becomes canonical. Pure.
"""

from __future__ import annotations

from typing import Final

from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.types import parse_type
from engine.schema import Column
from engine.toolkit.canonical import (
    Convert,
    clock,
    float32_text,
    float64_text,
    interval_text,
    number_text,
)

__all__ = ["CONVERTS", "text_of_value", "text_or_bytes"]

_EWKB_HAS_SRID: Final = 0x20000000


def text_of_value(column: Column) -> str:
    """The expression that the server returns as the text of the whole value."""
    name, kind = quote_name(column.name), column.type.kind
    if kind in ("binary", "geometry"):
        return f"LOWER(HEX({name}))"
    if kind == "bit":
        return f"CAST({name} AS UNSIGNED)"
    if kind in ("float32", "float64"):
        # A FLOAT is printed with six digits, a product with all; a sum would change -0.
        return f"{name} * 1e0"
    if kind in ("enum", "set", "uuid") or column.source_type.startswith("inet"):
        return f"CAST({name} AS CHAR)"
    return _text(column)


def _text(column: Column) -> str:
    name, holds = quote_name(column.name), parse_type(column.source_type).holds
    return f"CONVERT(CAST({name} AS BINARY) USING {holds})" if holds else name


def text_or_bytes(column: Column) -> str:
    """The expression for a text, or for U+0000 and its bytes as hexadecimal digits if the server
    does not convert the text back to these bytes, or shows U+FFFD: they are invalid, or have the
    character of other bytes."""
    name, text = quote_name(column.name), f"CONVERT({_text(column)} USING utf8mb4)"
    again = f"CONVERT({text} USING {parse_type(column.source_type).encoding})"
    lost = f"NOT (CAST({again} AS BINARY) <=> CAST({name} AS BINARY))"
    marked = f"LOCATE(_utf8mb4 x'EFBFBD', {text}) OR ORD({name}) = 0"
    # Old servers do not join a text in ascii with a constant in the connection's charset.
    return f"IF({lost} OR {marked}, CONCAT('\\0', HEX({name})), {text})"


def _ewkb(text: str) -> str:
    """MySQL's SRID and WKB as PostGIS's EWKB; both are little-endian. The SRID 0 is left out."""
    srid, order, rest = text[:8], text[8:10], text[10:]
    if srid == "00000000" or order != "01":
        return order + rest
    kind = int.from_bytes(bytes.fromhex(rest[:8]), "little") | _EWKB_HAS_SRID
    return order + kind.to_bytes(4, "little").hex() + srid + rest[8:]


#: The functions that make the server's text canonical, by neutral type.
CONVERTS: Final[dict[str, Convert]] = {
    "decimal": number_text,
    "float32": float32_text,
    "float64": float64_text,
    "datetime": clock,
    "timestamp": clock,
    "time": interval_text,
    "interval": interval_text,
    "geometry": _ewkb,
}
