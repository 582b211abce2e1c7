"""
What generated columns are computed from, where it can be said exactly. Pure.

An expression that was read (``sources.mysql.ddl.expressions``) has no types. Here it gets them from
the columns of the table, and each conversion that the server does becomes part of it. What depends
on a collation, a session or the server's version, or could differ in the last digit, is
``inexact``.

The server stores numbers that are too large or too small as the nearest one of the column's type,
unless strict SQL mode refuses them. ``limit`` does the same. It is left out where the ranges of the
columns show that it cannot matter (MySQL manual, "Out-of-Range and Overflow Handling").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

import msgspec

from engine.databases.mysql.charset import BYTES_PER_CHARACTER, may_be_invalid
from engine.databases.mysql.types import INTEGER_KINDS, MySQLType, parse_type
from engine.schema import Column, Expression
from sources.mysql.ddl.expressions import inexact

__all__ = ["computed", "exact_condition"]

#: The most digits of an exact number, and of its fraction (MySQL manual, "DECIMAL Data Type").
_DIGITS: Final = 65
_SCALE: Final = 30
#: Whole numbers up to here are floating-point numbers, too.
_FLOAT_EXACT: Final = 1 << 53
_TEXTS: Final = {"varchar": 0, "tinytext": 8, "text": 16, "mediumtext": 24, "longtext": 32}
_DATES: Final = ("date", "datetime")


class _Inexact(Exception):
    """The expression is not exact, for this reason."""


class _Typed(NamedTuple):
    """An expression with its type.

    ``kind`` is ``null``, ``condition``, ``number``, ``float``, ``text``, ``date``, ``datetime`` or
    ``other``. ``low`` and ``high`` limit a number, ``scale`` is the number of digits of its
    fraction or of a second's. A text has at most ``length`` characters of these charsets.
    """

    node: Expression
    kind: str
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)
    scale: int = 0
    length: int = 0
    charsets: frozenset[str] = frozenset()


def computed(columns: Sequence[Column], found: Mapping[str, Expression]) -> tuple[Column, ...]:
    """The columns with the exact expressions of those that ``found`` names; each is as it was read,
    or ``inexact``."""
    names = {column.name.lower(): column for column in columns}
    return tuple(
        column
        if column.name not in found
        else msgspec.structs.replace(column, expression=_exact(column, found[column.name], names))
        for column in columns
    )


def exact_condition(columns: Sequence[Column], read: Expression) -> Expression:
    """The condition of a check over these columns, as it was read, or ``inexact``."""
    names = {column.name.lower(): column for column in columns}
    try:
        return _condition(_Types(names).of(read)).node
    except _Inexact as error:
        return _refused(error, read, names)


def _exact(column: Column, read: Expression, names: Mapping[str, Column]) -> Expression:
    try:
        return _stored(_Types(names).of(read), column).node
    except _Inexact as error:
        return _refused(error, read, names)


def _refused(error: _Inexact, read: Expression, names: Mapping[str, Column]) -> Expression:
    used = {name.lower() for name in read.columns}
    return inexact(str(error), (it.name for key, it in names.items() if key in used))


class _Types:
    """Gives expressions their types."""

    def __init__(self, names: Mapping[str, Column]) -> None:
        self._names = names

    def of(self, node: Expression) -> _Typed:
        """Raises _Inexact."""
        match node.name:
            case "inexact":
                raise _Inexact(node.text)
            case "column":
                return self._column(node.text)
            case "number":
                value = Fraction(node.text)
                scale = len(node.text.partition(".")[2])
                return _number(Expression("number", text=node.text), value, value, scale)
            case "float" | "null":
                return _Typed(node, node.name)
            case "text":
                return _Typed(node, "text", length=len(node.text))
            case "is_null":
                return self._is_null(node)
            case "equal" | "same" | "less" | "less_equal":
                return self._comparison(node)
            case "and" | "or" | "not":
                arguments = tuple(_condition(self.of(it)).node for it in node.arguments)
                return _Typed(Expression(node.name, arguments), "condition")
            case "if":
                condition = _condition(self.of(node.arguments[0]))
                return _choice("if", [self.of(it) for it in node.arguments[1:]], condition)
            case "coalesce":
                return _choice("coalesce", [self.of(it) for it in node.arguments])
            case "null_if":
                first, other = (_numeric(self.of(it)) for it in node.arguments)
                return first._replace(node=Expression("null_if", (first.node, other.node)))
            case "concat":
                return _concat([self.of(it) for it in node.arguments])
            case "year" | "month" | "day" | "date":
                return _part(node.name, self.of(node.arguments[0]))
        return _arithmetic(node, [self.of(it) for it in node.arguments])

    def _column(self, name: str) -> _Typed:
        column = self._names.get(name.lower())
        if column is None:
            raise _Inexact("it names an unknown column")
        node, type = Expression("column", text=column.name), parse_type(column.source_type)
        kind = column.type.kind
        if type.zerofill:
            return _Typed(node, "other")
        if kind in INTEGER_KINDS:
            return _number(node, *_range(column))
        if kind == "decimal":
            return _number(node, *_range(column), column.type.scale)
        if kind in ("float32", "float64"):
            return _Typed(node, "float")
        if kind in _DATES:
            return _Typed(node, kind, scale=column.type.scale)
        if type.base in _TEXTS and not type.binary and type.charset and not type.holds:
            length = type.length or 1 << _TEXTS[type.base]
            return _Typed(node, "text", length=length, charsets=frozenset((type.charset,)))
        return _Typed(node, "other")

    def _is_null(self, node: Expression) -> _Typed:
        value = self.of(node.arguments[0])
        column = self._names.get(value.node.text.lower()) if value.node.name == "column" else None
        if column is not None and not column.nullable and value.kind in _DATES:
            raise _Inexact("a zero date that is NOT NULL counts as NULL")
        return _Typed(Expression("is_null", (value.node,)), "condition")

    def _comparison(self, node: Expression) -> _Typed:
        left, right = (self.of(it) for it in node.arguments)
        if {left.kind, right.kind} == {"other", "text"} and node.name == "equal":
            label, other = (left, right) if right.kind == "other" else (right, left)
            self._check_label(other, label)
        elif left.kind != right.kind or left.kind not in _DATES:
            left, right = _alike(left, right)
        return _Typed(Expression(node.name, (left.node, right.node)), "condition")

    def _check_label(self, column: _Typed, label: _Typed) -> None:
        """Check that the collation takes no other label of an ENUM for this one."""
        found = self._names.get(column.node.text.lower())
        members = found.type.members if found is not None and found.type.kind == "enum" else ()
        plain = [it.lower() for it in members if it.isascii() and it.isprintable() and it.strip()]
        if (
            label.node.name != "text"
            or label.node.text not in members
            or len(set(plain)) < len(members)
        ):
            raise _Inexact("it compares texts, which depends on their collation")


def _number(node: Expression, low: Fraction, high: Fraction, scale: int = 0) -> _Typed:
    digits = len(str(int(max(abs(low), abs(high)))))
    if scale > _SCALE or digits + scale > _DIGITS:
        raise _Inexact(f"a number has more than {_DIGITS} digits, or {_SCALE} of its fraction")
    return _Typed(node, "number", low, high, scale)


def _range(column: Column) -> tuple[Fraction, Fraction]:
    """The least and the greatest value of a column with exact numbers."""
    type, unsigned = column.type, parse_type(column.source_type).unsigned
    if type.kind == "decimal":
        high = Fraction(10**type.precision - 1, 10**type.scale)
        return (Fraction(0) if unsigned else -high), high
    if parse_type(column.source_type).base == "year":
        raise _Inexact("it uses a YEAR")
    bits = int(type.kind.removeprefix("u").removeprefix("int"))
    if unsigned:
        return Fraction(0), Fraction((1 << bits) - 1)
    return Fraction(-(1 << bits - 1)), Fraction((1 << bits - 1) - 1)


def _condition(value: _Typed) -> _Typed:
    """A value as a condition: a number is true unless it is 0."""
    if value.kind == "condition":
        return value
    if value.kind != "number":
        raise _Inexact("it uses a value as a condition that is no exact number")
    zero = Expression("number", text="0")
    return _Typed(Expression("not", (Expression("equal", (value.node, zero)),)), "condition")


def _numeric(value: _Typed) -> _Typed:
    """A value as an exact number: a condition is 1 or 0."""
    if value.kind == "condition":
        return _number(Expression("from_condition", (value.node,)), Fraction(0), Fraction(1))
    if value.kind != "number":
        raise _Inexact("it uses a value as a number that is none")
    return value


def _float(value: _Typed) -> _Typed:
    if value.kind == "float":
        return value
    value = _numeric(value)
    if value.scale or max(abs(value.low), abs(value.high)) > _FLOAT_EXACT:
        raise _Inexact("it mixes floating-point numbers with others")
    return _Typed(Expression("float", (value.node,)), "float")


def _alike(left: _Typed, right: _Typed) -> tuple[_Typed, _Typed]:
    """Two values as numbers of one kind."""
    if "float" in (left.kind, right.kind):
        return _float(left), _float(right)
    if "text" in (left.kind, right.kind):
        raise _Inexact("it compares texts, which depends on their collation")
    return _numeric(left), _numeric(right)


def _arithmetic(node: Expression, values: list[_Typed]) -> _Typed:
    if any(value.kind == "float" for value in values):
        if node.name not in ("add", "subtract", "multiply", "minus"):
            raise _Inexact("it rounds or divides floating-point numbers")
        return _Typed(Expression(node.name, tuple(_float(it).node for it in values)), "float")
    values = [_numeric(value) for value in values]
    made = Expression(node.name, tuple(value.node for value in values), node.text)
    first, last = values[0], values[-1]
    scale = max(first.scale, last.scale)
    match node.name:
        case "add":
            return _number(made, first.low + last.low, first.high + last.high, scale)
        case "subtract":
            return _number(made, first.low - last.high, first.high - last.low, scale)
        case "multiply":
            ends = [a * b for a in (first.low, first.high) for b in (last.low, last.high)]
            return _number(made, min(ends), max(ends), first.scale + last.scale)
        case "minus":
            return _number(made, -first.high, -first.low, scale)
        case "abs":
            most = max(abs(first.low), abs(first.high))
            return _number(made, Fraction(0), most, scale)
        case "round" | "floor" | "ceiling":
            digits = int(node.text or 0)
            return first if digits >= first.scale else _rounded(made, first, digits)
        case "divide" | "modulo" if not scale:
            if min(first.low, last.low) < 0 and max(first.high, last.high) >= 1 << 63:
                raise _Inexact("it divides signed and unsigned numbers")
            most = max(abs(first.low), abs(first.high))
            return _number(made, min(Fraction(0), -most if last.low < 0 else first.low), most)
    raise _Inexact("it divides numbers with a fraction")


def _rounded(node: Expression, value: _Typed, digits: int) -> _Typed:
    step = Fraction(1, 10**digits)
    low, high = (value.low // step) * step, -((-value.high) // step) * step
    return _number(node, low, high, digits)


def _choice(name: str, values: list[_Typed], condition: _Typed | None = None) -> _Typed:
    """One of several values, which have one type."""
    first = [] if condition is None else [condition.node]
    known = [value for value in values if value.kind != "null"]
    kinds = {value.kind for value in known}
    if not known or "other" in kinds:
        raise _Inexact("it chooses between values of other types")
    if kinds <= {"number", "condition"}:
        values = [value if value.kind == "null" else _numeric(value) for value in values]
    elif len(kinds) > 1:
        values = [value if value.kind == "null" else _float(value) for value in values]
    known = [value for value in values if value.kind != "null"]
    if len({value.scale for value in known}) > 1 and known[0].kind in _DATES:
        raise _Inexact("it chooses between times of other precisions")
    node = Expression(name, (*first, *(value.node for value in values)))
    if known[0].kind == "number":
        low, high = min(it.low for it in known), max(it.high for it in known)
        return _number(node, low, high, max(it.scale for it in known))
    charsets = frozenset[str]().union(*(value.charsets for value in known))
    length = max(value.length for value in known)
    return known[0]._replace(node=node, length=length, charsets=charsets)


def _concat(values: list[_Typed]) -> _Typed:
    texts = [value if value.kind == "text" else _digits(value) for value in values]
    return _Typed(
        Expression("concat", tuple(text.node for text in texts)),
        "text",
        length=sum(text.length for text in texts),
        charsets=frozenset[str]().union(*(text.charsets for text in texts)),
    )


def _digits(value: _Typed) -> _Typed:
    """A whole number as a text."""
    if value.kind != "number" or value.scale or value.node.name != "column":
        raise _Inexact("it makes a text of a value that is no column with whole numbers")
    length = max(len(str(int(value.low))), len(str(int(value.high))))
    return _Typed(Expression("digits", (value.node,)), "text", length=length)


def _part(name: str, value: _Typed) -> _Typed:
    if value.kind not in _DATES:
        raise _Inexact("it uses a part of a value that is no DATE or DATETIME")
    node = Expression(name, (value.node,))
    if name == "date":
        return _Typed(node, "date")
    return _number(node, Fraction(0), Fraction(9999))


def _stored(value: _Typed, column: Column) -> _Typed:
    """The value as the server stores it in the column."""
    type, source_type = column.type, parse_type(column.source_type)
    if (type.kind in INTEGER_KINDS and source_type.base != "year") or type.kind == "decimal":
        return _stored_number(_numeric(value), column)
    if type.kind == "float64" and source_type.scale is None and value.kind in ("number", "float"):
        return _float(value)
    if type.kind in _DATES and value.kind == type.kind and value.scale == type.scale:
        return value
    if source_type.base in _TEXTS and not source_type.binary and value.kind == "text":
        return _stored_text(value, source_type)
    raise _Inexact("its type is converted to that of the column")


def _stored_number(value: _Typed, column: Column) -> _Typed:
    low, high = _range(column)
    scale = column.type.scale
    if value.scale > scale:
        value = _rounded(Expression("round", (value.node,), str(scale)), value, scale)
    if value.low < low or value.high > high:
        limits = [Expression("number", text=_decimal(it, scale)) for it in (low, high)]
        value = value._replace(node=Expression("limit", (value.node, *limits)))
    return value


def _decimal(value: Fraction, scale: int) -> str:
    digits = str(abs(int(value * 10**scale))).rjust(scale + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else sign + digits


def _stored_text(value: _Typed, source_type: MySQLType) -> _Typed:
    charset = source_type.charset
    each = BYTES_PER_CHARACTER.get(charset, 4)
    room = source_type.length or ((1 << _TEXTS[source_type.base]) - 1) // each
    unicode = charset == "utf8mb4" and value.charsets <= {"utf8mb3", "ascii", "utf8mb4"}
    if not (unicode or value.charsets <= {charset}) or source_type.holds or not charset:
        raise _Inexact("a text is converted to another charset")
    if may_be_invalid(charset) and not charset.startswith("utf8mb"):
        raise _Inexact(f"a text in {charset} may have bytes that are no character")
    if value.length > room:
        raise _Inexact("a text may be longer than the column")
    return value
