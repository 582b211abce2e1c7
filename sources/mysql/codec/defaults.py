"""
Constant column defaults: the SQL text of a default becomes the value in a row tuple.

A partial row image omits the columns of a new row that have their default value. Such a column is
filled in only if its default is a constant whose stored value is known exactly. Every other default
is a ValueError, never a guess.

A session without strict mode may also omit a NOT NULL column without a default. The server stores
the implicit default of its type (https://dev.mysql.com/doc/refman/9.7/en/data-type-defaults.html).
"""

from __future__ import annotations

import re
import struct
from decimal import Context, Decimal
from typing import Any

from engine.databases.mysql.types import INTEGER_KINDS, unquote
from engine.schema import Column, Type

__all__ = ["constant_default", "zero_address"]

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\Z")
_DECIMALS = Context(prec=100)
_FLOAT = struct.Struct("<f")
_DATE = r"\d{4}-\d\d-\d\d"
_CLOCK = r"\d\d:\d\d:\d\d"
_TEMPORAL = {"date": _DATE, "datetime": f"{_DATE} {_CLOCK}", "interval": f"-?\\d?{_CLOCK}"}


def constant_default(column: Column) -> Any:
    """The value of a column that an INSERT does not name; ValueError if it is not known exactly."""
    default = column.default
    if column.generated:
        raise ValueError("the column is generated")
    if default is None or default.upper() == "NULL":
        return None if column.nullable else _implicit_default(column)
    if default[:1] == "'" and default[-1:] == "'" and len(default) > 1:
        return _from_text(column.type, unquote(default))
    if _NUMBER.match(default):
        return _from_text(column.type, default)
    if column.type.kind == "bit" and re.fullmatch(r"b'[01]+'", default):
        return int(default[2:-1], 2)
    raise ValueError("the default is an expression")


def _implicit_default(column: Column) -> Any:
    """0, the zero date, the empty text, or the first member of an ENUM."""
    type = column.type
    fraction = f".{'0' * type.scale}" if type.scale else ""
    if address := zero_address(column.source_type):
        return address
    if column.source_type.startswith("vector"):
        raise ValueError("the default of a vector is not known")
    match type.kind:
        case "text" | "set":
            return ""
        case "enum":
            return type.members[0]
        case "date":
            return "0000-00-00"
        case "datetime" | "timestamp":
            return f"0000-00-00 00:00:00{fraction}"
        case "interval":
            return f"00:00:00{fraction}"
        case "binary":
            fixed = column.source_type.startswith("binary")
            return bytes(type.length) if fixed else b""
        case "bit":
            return 0
        case "boolean":
            return False
    if type.kind in INTEGER_KINDS or type.kind in ("decimal", "float32", "float64"):
        return _from_text(type, "0")
    raise ValueError("the column has no default")


def zero_address(source_type: str) -> str:
    """The implicit default of MariaDB's INET4 and INET6; empty for other types."""
    return {"inet4": "0.0.0.0", "inet6": "::"}.get(source_type, "")


def _from_text(type: Type, text: str) -> Any:
    if type.kind in ("text", "enum", "set"):
        return text
    if type.kind in _TEMPORAL:
        fraction = f"\\.\\d{{{type.scale}}}" if type.scale else ""
        if not re.fullmatch(_TEMPORAL[type.kind] + fraction, text):
            raise ValueError("the default is not in canonical form")
        return text
    if not _NUMBER.match(text):
        raise ValueError("the default is not a number")
    if type.kind in INTEGER_KINDS:
        number = Decimal(text)
        if number != int(number):
            raise ValueError("the default would be rounded")
        return int(number)
    if type.kind == "decimal":
        return str(Decimal(text).quantize(Decimal(1).scaleb(-type.scale), context=_DECIMALS))
    if type.kind == "float32":
        return _FLOAT.unpack(_FLOAT.pack(float(text)))[0]
    if type.kind == "float64":
        return float(text)
    raise ValueError("the default's value is unknown")
