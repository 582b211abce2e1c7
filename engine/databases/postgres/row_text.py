"""
The text of a row as an expression of PostgreSQL (``engine.toolkit.checksums``). Pure.

The expression depends on settings of the session (``session_settings``): ``datestyle``,
``intervalstyle``, ``timezone`` and ``extra_float_digits``. ``concat_ws`` leaves out NULL and its
comma. So a NULL in a column that cannot have one makes a text with a field too few, which is that
of no row. Columns of dates can have one on the target, where a policy may store an invalid date as
NULL.

Sources: "String Functions and Operators", "Binary String Functions and Operators" and "Bit String
Types" in PostgreSQL's manual.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.databases.postgres.identifiers import quote
from engine.databases.postgres.types import TEMPORAL
from engine.schema import Column, Table
from engine.toolkit.checksums import LONGEST, PART_DIGITS, hashed, is_never_longer

__all__ = ["ROWS_DIGEST", "ROW_SUMS", "row_digest", "row_part", "row_text", "why_no_text"]

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
    return _joined([*map(_field, stored.columns), "''"])


def row_digest(stored: Table) -> str:
    """The SHA-256 of a row's text, of a table ``t``."""
    return f"sha256(convert_to({row_text(stored)}, 'UTF8'))"


def row_part(stored: Table) -> str:
    """The name of a row's part."""
    return f"left(encode({row_digest(hashed(stored))}, 'hex'), {PART_DIGITS})"


#: The columns of a SELECT that computes the checksum of a range. Its rows have the ``row_text``
#: ``x`` and come in the order of the key. ``Checksum.of_text`` gets the values.
ROWS_DIGEST: Final = "count(*), encode(sha256(convert_to(string_agg(x, ''), 'UTF8')), 'hex')"
#: The columns of a SELECT that computes a checksum of rows with the ``row_digest`` ``h``.
#: ``Checksum.of`` gets their values.
ROW_SUMS: Final = "count(*), " + ", ".join(
    f"sum(('x' || encode(substr(h, {first}, 8), 'hex'))::bit(64)::bigint)" for first in (1, 25)
)


def _joined(fields: Sequence[str]) -> str:
    if len(fields) <= _ARGUMENTS:
        return f"concat_ws(',', {', '.join(fields)})"
    groups = (fields[at : at + _ARGUMENTS] for at in range(0, len(fields), _ARGUMENTS))
    return _joined([_joined(group) for group in groups])


def _field(column: Column) -> str:
    name, kind = f"t.{quote(column.name)}", column.type.kind
    if kind in _LONG:
        text = f"{name}::text"
        return _long(column, text, text, f"convert_to({text}, 'UTF8')")
    if kind in ("binary", "geometry"):
        digits = f"upper(encode({name}, 'hex') COLLATE \"C\")"
        return _long(column, name, digits, name)
    if kind == "boolean":
        text = f"{name}::int"
    elif kind in ("float32", "float64"):
        text = _float(f"{name}::float8")
    else:
        text = name
    return f"coalesce({text}::text, '')" if column.nullable or kind in TEMPORAL else text


def _long(column: Column, value: str, text: str, bytes: str) -> str:
    """A long field of a value with this text and these bytes."""
    length = f"octet_length({value})"
    if not is_never_longer(column):
        digest = f"encode(sha256({bytes}), 'hex')"
        text = f"CASE WHEN {length} > {LONGEST} THEN {digest} ELSE {text} END"
    field = f"{length} || ':' || {text}"
    return f"coalesce({field}, ':')" if column.nullable else field


def _float(value: str) -> str:
    """As MySQL prints it: with an exponent below 1e-15 and from 1e15 on."""
    return (
        f"CASE WHEN abs({value}) >= 1e-4 OR {value} = 0 THEN replace({value}::text, 'e+', 'e')"
        f" WHEN abs({value}) >= 1e-15 THEN {value}::text::numeric::text ELSE {value}::text END"
    )
