"""
The changes of a column's type that PostgreSQL can do exactly as the source does.

The list is short on purpose. A conversion is listed if both servers convert every value to the same
value, or if PostgreSQL raises an error where they could differ, or if a query (the *guard*) finds
the rows for which they differ. After any other change the table must be backfilled again.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.databases.postgres.identifiers import quote
from engine.databases.postgres.types import column_type
from engine.schema import Column
from sinks.postgres.defaults import literal

__all__ = ["Conversion", "conversion"]

RANGES = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 24, 32, 64)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 24, 32, 64)},
}
#: MySQL converts wider integers to a float in two steps, each of which rounds.
ROUNDED_ONCE = frozenset(RANGES) - {"int64", "uint64"}


#: Source types whose values are stored as text by the policy ``zero_date = "text"``.
DATED = frozenset({"date", "datetime", "timestamp"})


class Conversion(NamedTuple):
    """``using`` is the new value as an SQL expression, empty if the stored value does not change.
    ``guard`` is a condition that must be false for every row, empty if none is needed."""

    using: str = ""
    guard: str = ""


KEEP = Conversion()


def conversion(before: Column, after: Column) -> Conversion | None:
    """How to convert values of ``before`` to values of ``after``; None if no conversion is certain
    to be exact."""
    name, old, new = quote(after.name), before.type.kind, after.type.kind
    if "year" in (_word(before), _word(after)) and _word(before) != _word(after):
        return None
    words = {_word(before), _word(after)}
    if new == "text" and DATED & words and (before.type != after.type or len(words) == 2):
        return None  # dates that are stored as text
    if old == new:
        return _same_kind(before, after, name)
    if old in RANGES or old == "decimal":
        return _from_exact_number(before, after, name)
    match old, new:
        case "boolean", _ if new in RANGES:
            return Conversion(f"{name}::integer")
        case ("float32", "float64") | ("float64", "float32"):
            return None if _rounds(after) else Conversion(f"{name}::{column_type(after)}")
        case ("text", "enum") | ("enum", "set"):
            return _to_labels(after, name)
        case ("enum", "text") | ("set", "text"):
            return Conversion(f"{name}::text")
        case "date", "datetime":
            return Conversion(f"{name}::{column_type(after)}")
        case "datetime", "date" if before.type.scale == 0:
            return Conversion(f"{name}::date")
    return None


def _same_kind(before: Column, after: Column, name: str) -> Conversion | None:
    old, new = before.type, after.type
    match new.kind:
        case "text":
            trimmed = _word(after) == "char" and _word(before) != "char"
            return Conversion(f"rtrim({name}, ' ')") if trimmed else KEEP
        case "enum":
            return KEEP if set(old.members) <= set(new.members) else _to_labels(after, name)
        case "set":
            kept = tuple(member for member in new.members if member in old.members)
            return KEEP if kept == old.members else None
        case "binary":
            return _binary(after, name)
        case "bit":
            wider = f"lpad({name}::text, {new.length}, '0')::{column_type(after)}"
            return None if new.length < old.length else Conversion(wider)
        case "time" | "datetime" | "timestamp" | "interval" if new.scale < old.scale:
            return Conversion(guard=f"{name} <> {name}::{column_type(after)}")
        case "float32" | "float64":
            return None if _rounds(after) else KEEP
        case "decimal":
            return Conversion(guard=_unsigned_guard(after, name))
        case "array" if old != new:
            return None
    return KEEP


def _from_exact_number(before: Column, after: Column, name: str) -> Conversion | None:
    old, new = before.type.kind, after.type.kind
    if new in RANGES:
        low, high = RANGES[new]
        narrower = old not in RANGES or RANGES[old][0] < low or RANGES[old][1] > high
        guard = f"round({name}::numeric) NOT BETWEEN {low} AND {high}" if narrower else ""
        return Conversion(f"{name}::{column_type(after)}", guard)
    using = Conversion(f"{name}::{column_type(after)}", _unsigned_guard(after, name))
    match new:
        case "decimal":
            return using
        case "float64":
            return None if _rounds(after) else using
        case "float32":
            return using if old in ROUNDED_ONCE and not _rounds(after) else None
        case "text" if "zerofill" not in before.source_type.lower():
            return Conversion(f"{name}::text")
    return None


def _to_labels(after: Column, name: str) -> Conversion | None:
    """Text to ``enum`` or ``set``. The guard finds values that are not exactly a label: the source
    may match those by the collation (case, trailing spaces)."""
    if not after.type.members:
        return None
    labels = ", ".join(map(literal, after.type.members))
    return Conversion(f"{name}::text", f'{name}::text COLLATE "C" NOT IN ({labels})')


def _binary(after: Column, name: str) -> Conversion:
    length = after.type.length
    guard = f"octet_length({name}) > {length}" if length else ""
    if _word(after) == "binary" and length:
        zeros = f"decode(repeat('00', {length} - octet_length({name})), 'hex')"
        return Conversion(f"{name} || {zeros}", guard)
    return Conversion(guard=guard)


def _unsigned_guard(after: Column, name: str) -> str:
    return f"{name} < 0" if "unsigned" in after.source_type.lower() else ""


def _rounds(column: Column) -> bool:
    """Whether the source rounds values of the type: FLOAT(M,D) rounds to D digits."""
    return "," in column.source_type


def _word(column: Column) -> str:
    """The first word of the source type."""
    words = column.source_type.lower().replace("(", " ").split()
    return words[0] if words else ""
