"""
A column's default, which the source gives as SQL text, becomes a PostgreSQL literal.

When a column is added, the source fills the existing rows with the column's default, or, if it is
NOT NULL and has no default, with the zero value of its type (MySQL manual, "Data Type Default
Values"). These values are not in the log. Only constants can be followed exactly.
"""

from __future__ import annotations

import re

from engine.databases.postgres.stored import INFINITY
from engine.databases.postgres.types import TEMPORAL, TEXTUAL
from engine.schema import Column
from sinks.postgres.copy import is_date

__all__ = [
    "constant_default",
    "existing_value",
    "implicit_value",
    "literal",
    "replaced_default",
    "time_default",
    "value_literal",
]

NULL = "NULL"

_STRING = re.compile(r"(?:_\w+\s*|(?:date|time|timestamp)\s*)?'((?:[^'\\]|''|\\.)*)'", re.I | re.S)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.I)
_BITS = re.compile(r"b'([01]*)'|0b([01]+)", re.I)
_BYTES = re.compile(r"x'((?:[0-9a-f]{2})*)'|0x((?:[0-9a-f]{2})+)", re.I)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}

#: The time of now, and the date of today, as both servers show them in a default.
_NOW = re.compile(r"(?:current_timestamp|now|localtimestamp)(?:\(\d?\))?", re.I)
_CLOCKS = {"timestamp": "CURRENT_TIMESTAMP", "datetime": "LOCALTIMESTAMP"}
_TODAY = re.compile(r"(?:current_date|curdate)(?:\(\))?", re.I)

_NUMERIC = frozenset({"decimal", "float32", "float64"})


def literal(text: str) -> str:
    """A text as an SQL string literal."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"


def constant_default(column: Column) -> str | None:
    """The default of new rows as an SQL literal, ``NULL`` if there is none. None if the default is
    not a constant, or depends on the session that set it."""
    if column.default is None:
        return NULL
    value = _parse(column.default.strip())
    if value is None:
        return NULL
    return _literal_of(column, value) if not isinstance(value, _Expression) else None


def time_default(column: Column) -> str | None:
    """A default that is the time of now or the date of today, as SQL; None if it is another one.

    In PostgreSQL it is the time at which the transaction began, in the session's time zone.
    """
    text = (column.default or "").strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    kind, scale = column.type.kind, column.type.scale
    if kind in _CLOCKS and _NOW.fullmatch(text):
        return f"{_CLOCKS[kind]}({scale})"
    return "CURRENT_DATE" if kind == "date" and _TODAY.fullmatch(text) else None


def existing_value(column: Column) -> str | None:
    """The value that existing rows get in the source when the column is added, as an SQL literal;
    None if it cannot be known."""
    if column.generated or "auto_increment" in column.source_type.lower():
        return None
    value = constant_default(column)
    if value == NULL and not column.nullable and column.default is None:
        return implicit_value(column)
    return value


def replaced_default(column: Column) -> str:
    """The policy that replaces the value which existing rows get in the source when the column is
    added; empty if the target can store the value, or it is not known."""
    if column.generated:
        return ""
    kind, value = column.type.kind, _parse((column.default or "").strip())
    if kind in TEMPORAL:
        implied = column.default is None and not column.nullable
        invalid = isinstance(value, str) and not is_date(value[:10]) and value != INFINITY
        return "zero_date" if implied or invalid else ""
    contains = isinstance(value, str) and "\0" in value
    return "nul_byte" if kind in TEXTUAL and contains else ""


def value_literal(column: Column, value: str) -> str:
    """A number, or a valid date or time, in the form of a row tuple, as an SQL literal."""
    return literal(f"{value}+00" if column.type.kind == "timestamp" else value)


def implicit_value(column: Column) -> str | None:
    """The zero value of the column's type, as an SQL literal; None for a type without one."""
    kind = column.type.kind
    if kind in TEMPORAL:
        return NULL
    if kind == "enum":
        return literal(column.type.members[0]) if column.type.members else None
    if kind == "json":
        return literal("null")
    if kind in TEXTUAL:
        return literal("")
    if kind == "binary":
        return _literal_of(column, b"")
    if kind in ("time", "interval"):
        return literal("00:00:00")
    if kind == "uuid":
        return literal("00000000-0000-0000-0000-000000000000")
    if kind in ("geometry", "array"):
        return None
    return _literal_of(column, "0")


class _Expression:
    """A default that is not a constant."""


def _parse(text: str) -> str | bytes | _Expression | None:
    """The value of a literal of the source's SQL: text, bytes, None for NULL, or ``_Expression``
    for anything else."""
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if text.upper() in ("NULL", ""):
        return None
    if text.upper() in ("TRUE", "FALSE"):
        return "1" if text.upper() == "TRUE" else "0"
    if found := _STRING.fullmatch(text):
        return re.sub(r"''|\\(.)", _unescaped, found[1], flags=re.S)
    if _NUMBER.fullmatch(text):
        return text
    if found := _BITS.fullmatch(text):
        return str(int(found[1] or found[2] or "0", 2))
    if found := _BYTES.fullmatch(text):
        return bytes.fromhex(found[1] or found[2] or "")
    return _Expression()


def _unescaped(found: re.Match[str]) -> str:
    if found[1] is None:
        return "'"
    return _ESCAPES.get(found[1], found[1])


def _literal_of(column: Column, value: str | bytes) -> str | None:
    """The constant as an SQL literal of the column's type; None if it is not certain to be a value
    of that type."""
    kind = column.type.kind
    if kind == "binary":
        data = value if isinstance(value, bytes) else value.encode()
        if column.source_type.lower().startswith("binary"):
            data = data.ljust(column.type.length, b"\0")
        return literal("\\x" + data.hex())
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace") if kind in TEXTUAL else str(int.from_bytes(value))
    if kind in TEMPORAL and value == INFINITY:
        return literal(value)
    if kind == "timestamp" and is_date(value[:10]) and not value.endswith("+00"):
        return None  # it was read in the time zone of the session that set it
    if kind in TEMPORAL:
        return literal(value) if is_date(value[:10]) else NULL
    if kind in TEXTUAL or kind in ("uuid", "time"):
        return literal(value)
    if kind == "interval":
        return literal(value) if ":" in value else None
    return _number_of(column, value)


def _number_of(column: Column, value: str) -> str | None:
    kind = column.type.kind
    if kind in _NUMERIC:
        return literal(value) if _NUMBER.fullmatch(value) else None
    if kind in ("geometry", "array") or not re.fullmatch(r"[+-]?\d+", value):
        return None
    if kind == "bit":
        return literal(f"{int(value):0{column.type.length or 1}b}")
    if kind == "boolean":
        return "true" if int(value) else "false"
    return literal(value)
