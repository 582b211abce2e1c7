"""
The text of a row as an expression of PostgreSQL (``engine.toolkit.checksums``). Pure.

The expression depends on settings of the session (``session_settings``): ``datestyle``,
``intervalstyle``, ``timezone`` and ``extra_float_digits``. ``concat`` leaves out NULL, which so
becomes an empty field, or one without a length.

Sources: "String Functions and Operators", "Binary String Functions and Operators" and "Bit String
Types" in PostgreSQL's manual.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.databases.postgres.identifiers import quote
from engine.databases.postgres.types import TEMPORAL
from engine.schema import Column, Table
from engine.toolkit.checksums import PART_DIGITS, hashed

__all__ = ["ROW_SUMS", "row_digest", "row_part", "row_text", "why_no_text"]

#: A function has at most 100 arguments.
_ARGUMENTS: Final = 90
_LONG: Final = frozenset(("text", "json", "enum", "set", "uuid"))


def why_no_text(table: Table, stored: Table) -> str:
    """Why there is no expression for the rows of ``table``, which are stored as those of
    ``stored``; empty if there is one."""
    for column, other in zip(table.columns, stored.columns, strict=True):
        if column.type.kind in TEMPORAL and other.type.kind not in TEMPORAL:
            return f"the column {column.name} is stored as {other.type}"
        if other.type.kind == "array":
            return f"the column {column.name} has the type {other.type}"
    return ""


def row_text(stored: Table) -> str:
    """The text of a row of a table ``t``."""
    return _concat([piece for each in stored.columns for piece in (*_field(each), "','")])


def row_digest(stored: Table) -> str:
    """The SHA-256 of a row's text, of a table ``t``."""
    return f"sha256(convert_to({row_text(stored)}, 'UTF8'))"


def row_part(stored: Table) -> str:
    """The name of a row's part."""
    return f"left(encode({row_digest(hashed(stored))}, 'hex'), {PART_DIGITS})"


#: The columns of a SELECT that computes a checksum of rows with the ``row_digest`` ``h``.
#: ``Checksum.of`` gets their values.
ROW_SUMS: Final = "count(*), " + ", ".join(
    f"sum(('x' || encode(substr(h, {first}, 8), 'hex'))::bit(64)::bigint)" for first in (1, 25)
)


def _concat(pieces: Sequence[str]) -> str:
    if len(pieces) <= _ARGUMENTS:
        return f"concat({', '.join(pieces)})"
    groups = (pieces[at : at + _ARGUMENTS] for at in range(0, len(pieces), _ARGUMENTS))
    return _concat([_concat(group) for group in groups])


def _field(column: Column) -> tuple[str, ...]:
    """The expressions whose texts, one after the other, are a field."""
    name, kind = f"t.{quote(column.name)}", column.type.kind
    if kind in _LONG:
        return f"octet_length({name}::text)", "':'", f"{name}::text"
    if kind in ("binary", "geometry"):
        return f"octet_length({name})", "':'", f"upper(encode({name}, 'hex') COLLATE \"C\")"
    if kind == "boolean":
        return (f"{name}::int",)
    if kind in ("float32", "float64"):
        return (_float(f"{name}::float8"),)
    return (name,)


def _float(value: str) -> str:
    """As MySQL prints it: with an exponent below 1e-15 and from 1e15 on."""
    return (
        f"CASE WHEN abs({value}) >= 1e-4 OR {value} = 0 THEN replace({value}::text, 'e+', 'e')"
        f" WHEN abs({value}) >= 1e-15 THEN {value}::text::numeric::text ELSE {value}::text END"
    )
