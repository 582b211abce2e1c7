"""
What a compiled expression is: a Python expression, and the type of its value.

A number is an ``int``: that of a decimal counts units of its last digit, so ``12.50`` is 1250 with
the scale 2. So the arithmetic is exact. Texts, dates and times are ``str`` in the form of a row
tuple. A truth value is ``bool``. NULL is ``None`` for all.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from engine.databases.mysql.types import parse_type
from engine.schema import Column, Type

__all__ = [
    "NULL",
    "UNKNOWN",
    "ExpressionError",
    "Shape",
    "Value",
    "column_value",
    "result_type",
]

Kind = Literal[
    "number",
    "year",
    "bool",
    "bit",
    "float",
    "text",
    "binary",
    "date",
    "datetime",
    "time",
    "null",
    "other",
]

#: The collation of a text that depends on the session.
UNKNOWN = "?"

#: Digits of the largest value.
_DIGITS = {
    "int8": 3,
    "uint8": 3,
    "int16": 5,
    "uint16": 5,
    "int24": 7,
    "uint24": 8,
    "int32": 10,
    "uint32": 10,
    "int64": 19,
    "uint64": 20,
}
_LARGEST_PRECISION = 65
_TEMPORAL: dict[str, Kind] = {"datetime": "datetime", "timestamp": "datetime", "interval": "time"}


class ExpressionError(Exception):
    """An expression is wrong or not supported; ``place`` is a part of it, None for the whole."""

    def __init__(self, problem: str, place: object | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = place


class Shape(NamedTuple):
    """The type of a value.

    A number has ``digits`` before the point and ``scale`` after it. ``decimal`` tells a decimal
    from an integer, which may be ``unsigned``. A text has a charset and a collation; the collation
    of a literal is empty. ``explicit``: COLLATE says so, which takes precedence. A datetime or time
    has ``scale`` digits of a second's fraction. ``uncertain``: the servers show such a number with
    different numbers of digits, so it cannot become a text.
    """

    kind: Kind
    scale: int = 0
    digits: int = 0
    decimal: bool = False
    unsigned: bool = False
    charset: str = ""
    collation: str = ""
    explicit: bool = False
    uncertain: bool = False

    def __str__(self) -> str:
        if self.kind == "number":
            return "a decimal" if self.decimal else "an integer"
        return {"bool": "a condition", "null": "NULL", "other": "a value of another type"}.get(
            self.kind, f"a {self.kind}"
        )


class Value(NamedTuple):
    """A compiled expression: Python ``code`` that is evaluated at most once for a row.

    ``constant`` is the value of a literal.
    """

    code: str
    shape: Shape
    nullable: bool = True
    constant: str | int | None = None


NULL = Value("None", Shape("null"))


def column_value(column: Column, name: str) -> Value:
    """The value of a column whose value in the row tuple has the Python name ``name``."""
    shape = _shape(column)
    code = name
    if shape.decimal:
        code = f'int({name}.replace(".", ""))'
        if column.nullable:
            code = f"None if {name} is None else {code}"
        code = f"({code})"
    return Value(code, shape, column.nullable)


def _shape(column: Column) -> Shape:
    type = column.type
    source_type = parse_type(column.source_type)
    if source_type.base == "year":
        return Shape("year")
    if source_type.zerofill:  # its text has leading zeros
        return Shape("other")
    if type.kind in _DIGITS:
        return Shape("number", digits=_DIGITS[type.kind], unsigned=type.kind.startswith("u"))
    match type.kind:
        case "decimal":
            return Shape("number", type.scale, type.precision - type.scale, decimal=True)
        case "text" | "enum" if source_type.base not in ("inet4", "inet6"):
            return Shape("text", charset=source_type.charset, collation=source_type.collation)
        case "date" | "binary" | "bit":
            return Shape(type.kind)
        case "datetime" | "timestamp" | "interval":
            return Shape(_TEMPORAL[type.kind], type.scale)
        case "float32" | "float64":
            return Shape("float")
        case _:
            return Shape("other")


def result_type(shape: Shape) -> tuple[Type, str]:
    """The neutral type of a result, and its type on the source."""
    match shape.kind:
        case "number" if shape.decimal:
            precision = min(_LARGEST_PRECISION, max(1, shape.digits + shape.scale))
            return Type("decimal", precision=precision, scale=shape.scale), (
                f"decimal({precision},{shape.scale})"
            )
        case "number" if shape.unsigned:
            return Type("uint64"), "bigint unsigned"
        case "number" | "year" | "bool" | "bit":
            return Type("int64"), "bigint"
        case "date":
            return Type("date"), "date"
        case "datetime":
            fraction = f"({shape.scale})" if shape.scale else ""
            return Type("datetime", scale=shape.scale), f"datetime{fraction}"
        case "time":
            fraction = f"({shape.scale})" if shape.scale else ""
            return Type("interval", scale=shape.scale), f"time{fraction}"
        case "text" | "null":
            return Type("text"), "longtext character set utf8mb4 collate utf8mb4_bin"
        case kind:
            raise ExpressionError(f"{Shape(kind)} cannot be a result")
