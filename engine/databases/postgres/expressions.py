"""
The expression of a generated column as SQL of PostgreSQL. Pure.

All numbers are ``numeric``, whose arithmetic is exact, so nothing overflows. Every function and
cast is IMMUTABLE, which PostgreSQL demands (manual, "Generated Columns"). An expression whose
columns a policy stores with other values is not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from engine.databases.postgres.identifiers import quote
from engine.schema import Column, Expression
from engine.toolkit.policies import StoragePolicies

__all__ = ["Inexact", "Operand", "expression_sql"]

_FORMS: Final = {
    "null": "NULL",
    "minus": "(- {})",
    "abs": "abs({})",
    "floor": "floor({})",
    "ceiling": "ceil({})",
    "add": "({} + {})",
    "subtract": "({} - {})",
    "multiply": "({} * {})",
    "divide": "div({}, nullif({}, 0))",
    "modulo": "mod({}, nullif({}, 0))",
    "limit": "CASE WHEN {0} < {1} THEN {1} WHEN {0} > {2} THEN {2} ELSE {0} END",
    "equal": "({} = {})",
    "same": "({} IS NOT DISTINCT FROM {})",
    "less": "({} < {})",
    "less_equal": "({} <= {})",
    "is_null": "({} IS NULL)",
    "not": "(NOT {})",
    "from_condition": "({})::integer::numeric",
    "if": "CASE WHEN {} THEN {} ELSE {} END",
    "null_if": "nullif({}, {})",
    "year": "extract(year FROM {})::numeric",
    "month": "extract(month FROM {})::numeric",
    "day": "extract(day FROM {})::numeric",
    "date": "({})::date",
    "digits": "({})::text",
}
_JOINED: Final = {"concat": " || ", "and": " AND ", "or": " OR "}
_DATES: Final = frozenset(("date", "datetime", "timestamp"))


class Inexact(Exception):
    """PostgreSQL does not compute the expression exactly, for this reason."""


class Operand(NamedTuple):
    """A column that an expression may use. ``kept``: it is stored as the source's type."""

    column: Column
    policies: StoragePolicies
    kept: bool
    key: bool


def expression_sql(expression: Expression, operands: Mapping[str, Operand], nul_byte: str) -> str:
    """The SQL of an expression over these columns, of those that PostgreSQL does not compute.

    ``nul_byte`` is the policy of the column that is computed. Raises Inexact.
    """
    match expression.name:
        case "inexact":
            raise Inexact(expression.text)
        case "column":
            return _column(_operand(expression, operands), nul_byte)
        case "number":
            return f"{expression.text}::numeric"
        case "float" if not expression.arguments:
            return f"'{expression.text}'::double precision"
        case "text":
            text = expression.text.replace("'", "''")
            return f"'{text}'"
        case "is_null" if expression.arguments[0].name == "column":
            return _is_null(_operand(expression.arguments[0], operands))
    values = [expression_sql(it, operands, nul_byte) for it in expression.arguments]
    match expression.name:
        case "concat" | "and" | "or":
            return "(" + _JOINED[expression.name].join(values) + ")"
        case "coalesce":
            return f"coalesce({', '.join(values)})"
        case "round":
            return f"round({values[0]}, {expression.text})"
        case "float":
            return f"({values[0]})::double precision"
    return _FORMS[expression.name].format(*values)


def _operand(expression: Expression, operands: Mapping[str, Operand]) -> Operand:
    found = operands.get(expression.text)
    if found is None:
        raise Inexact(f"it uses the generated column {expression.text}")
    return found


def _column(operand: Operand, nul_byte: str) -> str:
    column, policies = operand.column, operand.policies
    kind, name = column.type.kind, quote(column.name)
    if kind in _DATES and policies.zero_date != "error":
        raise Inexact(
            f"the date in {column.name} may be one that PostgreSQL cannot store (with zero_date ="
            ' "error" for this column there is none)'
        )
    if kind == "enum":
        return name
    if not operand.kept:
        raise Inexact(f"a policy stores {column.name} as another type")
    if kind == "text":
        if policies.nul_byte != nul_byte or (operand.key and nul_byte != "error"):
            raise Inexact(f"U+0000 in {column.name} is stored by another policy")
        return f"{name}::text"
    if kind in _DATES:
        return name
    return f"{name}::{'double precision' if kind in ('float32', 'float64') else 'numeric'}"


def _is_null(operand: Operand) -> str:
    """Whether a column is NULL: no policy may make it so, or not so."""
    column, policies = operand.column, operand.policies
    if column.type.kind in _DATES and policies.zero_date == "null":
        raise Inexact(
            f"the date in {column.name} may be stored as NULL (not with zero_date = "
            '"-infinity" or "error" for this column)'
        )
    if not operand.kept and policies.out_of_range == "null":
        raise Inexact(f"a policy may store NULL in {column.name}")
    return f"({quote(column.name)} IS NULL)"
