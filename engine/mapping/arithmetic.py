"""
Numbers in expressions: arithmetic, and conversions between types (CAST).

Decimals are integers in units of their last digit. An operator brings both sides to one scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from engine.mapping.generation import Generator
from engine.mapping.values import NULL, UNKNOWN, ExpressionError, Shape, Value

__all__ = [
    "ARITHMETIC",
    "as_datetime",
    "as_number",
    "as_text",
    "cast",
    "in_scale",
    "integer",
    "moment",
    "negative",
]

Operator = Callable[[Value, Value, Generator], Value]

#: Numbers of so many digits are in the range of BIGINT, and so is the sum of two of them.
_SAFE_DIGITS: Final = 18
_MOST_DIGITS: Final = 65
_MOST_SCALE: Final = 30
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(?:\.(\d{1,6}))?)?\Z", re.ASCII)


def as_number(value: Value) -> Value:
    """A truth value, a year or bits as a number; a number as it is."""
    if value.shape.kind == "bool":
        shape = Shape("number", digits=1)
        if value.constant is not None:
            return Value(str(int(value.constant)), shape, False, int(value.constant))
        return value._replace(code=f"as_number({value.code})", shape=shape)
    if value.shape.kind == "year":
        return value._replace(shape=Shape("number", digits=4))
    if value.shape.kind == "bit":
        return value._replace(shape=Shape("number", digits=20, unsigned=True))
    if value.shape.kind in ("number", "null"):
        return value
    raise ExpressionError(f"{value.shape} is used as a number")


def integer(code: str, shape: Shape) -> str:
    """The code of an integer, with a check of its range where that is needed."""
    if shape.unsigned:
        return f"unsigned({code})"
    return code if shape.digits <= _SAFE_DIGITS else f"signed({code})"


def in_scale(value: Value, scale: int, generator: Generator) -> Value:
    """A number in units of a scale, which is not smaller than its own."""
    shape = value.shape._replace(scale=scale)
    if scale == value.shape.scale or value.shape.kind == "null":
        return value
    factor = 10 ** (scale - value.shape.scale)
    if isinstance(value.constant, int):
        number = value.constant * factor
        return Value(f"({number})", shape, False, number)
    return generator.strict([value], shape, lambda code: f"{code} * {factor}")


def _same_scale(one: Value, other: Value, generator: Generator) -> tuple[Value, Value]:
    one, other = as_number(one), as_number(other)
    scale = max(one.shape.scale, other.shape.scale)
    return in_scale(one, scale, generator), in_scale(other, scale, generator)


def _result(one: Shape, other: Shape, digits: int, scale: int) -> Shape:
    decimal = one.decimal or other.decimal
    if scale > _MOST_SCALE or (decimal and digits + scale > _MOST_DIGITS):
        raise ExpressionError("the result has more digits than a decimal can have")
    unsigned = (one.unsigned or other.unsigned) and not decimal
    return Shape("number", scale, digits, decimal, unsigned)


def _sum(operator: str) -> Operator:
    def build(one: Value, other: Value, generator: Generator) -> Value:
        one, other = _same_scale(one, other, generator)
        digits = max(one.shape.digits, other.shape.digits) + 1
        shape = _result(one.shape, other.shape, digits, one.shape.scale)

        def body(left: str, right: str) -> str:
            code = f"{left} {operator} {right}"
            return code if shape.decimal else integer(code, shape)

        return generator.strict([one, other], shape, body)

    return build


def _product(one: Value, other: Value, generator: Generator) -> Value:
    one, other = as_number(one), as_number(other)
    scale = one.shape.scale + other.shape.scale
    shape = _result(one.shape, other.shape, one.shape.digits + other.shape.digits, scale)

    def body(left: str, right: str) -> str:
        code = f"{left} * {right}"
        return code if shape.decimal else integer(code, shape)

    return generator.strict([one, other], shape, body)


def _remainder(one: Value, other: Value, generator: Generator) -> Value:
    one, other = _same_scale(one, other, generator)
    digits = max(one.shape.digits, other.shape.digits)
    shape = _result(one.shape, other.shape, digits, one.shape.scale)
    if one.shape.unsigned != other.shape.unsigned and not shape.decimal:
        shape = shape._replace(unsigned=one.shape.unsigned)
    return generator.strict([one, other], shape, "modulo({}, {})".format, null=True)


def _quotient(one: Value, other: Value, generator: Generator) -> Value:
    one, other = _same_scale(one, other, generator)
    unsigned = one.shape.unsigned or other.shape.unsigned
    if unsigned and (one.shape.decimal or other.shape.decimal):
        raise ExpressionError("DIV of a decimal and an unsigned integer is not supported")
    shape = Shape("number", digits=20 if unsigned else 19, unsigned=unsigned)
    body = f"division({{}}, {{}}, {'un' if unsigned else ''}signed)".format
    return generator.strict([one, other], shape, body, null=True)


def negative(value: Value, generator: Generator) -> Value:
    """The number with the other sign."""
    value = as_number(value)
    if isinstance(value.constant, int):
        number = -value.constant
        return Value(f"({number})", value.shape, False, number)
    shape = value.shape._replace(unsigned=False)
    return generator.strict(
        [value], shape, lambda code: f"-{code}" if shape.decimal else integer(f"-{code}", shape)
    )


ARITHMETIC: Mapping[str, Operator] = {
    "Add": _sum("+"),
    "Sub": _sum("-"),
    "Mul": _product,
    "Mod": _remainder,
    "IntDiv": _quotient,
}


# -- conversions ---------------------------------------------------------------------------------


def as_text(value: Value, generator: Generator) -> Value:
    """The value as the source shows it as text."""
    kind = value.shape.kind
    if kind in ("text", "null"):
        return value
    shape = Shape("text", charset="utf8mb4", collation=UNKNOWN)
    if kind in ("date", "datetime", "time"):
        return value._replace(shape=shape, constant=None)
    if kind == "bool":
        return generator.strict([value], shape, lambda code: f'("1" if {code} else "0")')
    if value.shape.uncertain:
        raise ExpressionError(
            "the text of this number has other digits on other servers; write CAST(… AS DECIMAL(…))"
        )
    if kind == "year":
        return generator.strict([value], shape, lambda code: f"str({code}).zfill(4)")
    if kind == "number":
        scale = value.shape.scale
        body = f"fixed_text({{}}, {scale})" if scale else "str({})"
        return generator.strict([value], shape, body.format)
    raise ExpressionError(f"{value.shape} is used as a text")


def cast(value: Value, to: str, sizes: Sequence[int], generator: Generator) -> Value:
    """CAST to a type of sqlglot."""
    build = _CASTS.get(to)
    if build is None:
        raise ExpressionError(f"CAST AS {to} is not supported")
    if value.shape.kind == "null":
        return NULL
    return build(value, sizes, generator)


def _to_text(value: Value, sizes: Sequence[int], generator: Generator) -> Value:
    text = as_text(value, generator)
    text = text._replace(shape=text.shape._replace(collation=UNKNOWN), constant=None)
    if not sizes:
        return text
    return generator.strict([text], text.shape, lambda code: f"{code}[:{sizes[0]}]")


def _to_integer(unsigned: bool) -> Callable[[Value, Sequence[int], Generator], Value]:
    def build(value: Value, sizes: Sequence[int], generator: Generator) -> Value:
        number = as_number(value)
        old = number.shape
        if old.decimal and (unsigned or old.digits > _SAFE_DIGITS):
            raise ExpressionError("CAST of such a decimal to an integer is not supported")
        shape = Shape("number", digits=20 if unsigned else 19, unsigned=unsigned)
        if old.decimal:
            unit = 10**old.scale
            shape = shape._replace(digits=old.digits + 1)
            return generator.strict([number], shape, lambda code: f"rounded({code}, {unit})")
        if old.unsigned == unsigned or (old.unsigned and old.digits <= _SAFE_DIGITS):
            return number._replace(shape=shape._replace(digits=old.digits), constant=None)
        name = "as_unsigned" if unsigned else "as_signed"
        return generator.strict([number], shape, lambda code: f"{name}({code})")

    return build


def _to_decimal(value: Value, sizes: Sequence[int], generator: Generator) -> Value:
    number = as_number(value)
    precision, scale = (*sizes, 10, 0)[:2] if not sizes else (*sizes, 0)[:2]
    if not scale <= precision <= _MOST_DIGITS or scale > _MOST_SCALE:
        raise ExpressionError(f"there is no type DECIMAL({precision},{scale})")
    shape = Shape("number", scale, precision - scale, decimal=True)
    largest = 10**precision - 1

    def body(code: str) -> str:
        if scale < number.shape.scale:
            code = f"rounded({code}, {10 ** (number.shape.scale - scale)})"
        elif scale > number.shape.scale:
            code = f"{code} * {10 ** (scale - number.shape.scale)}"
        return f"clamped({code}, {largest})"

    return generator.strict([number], shape, body)


def moment(value: Value) -> Value:
    """A date or datetime; a literal text as one."""
    if value.shape.kind in ("date", "datetime"):
        return value
    text = value.constant
    if value.shape.kind != "text" or not isinstance(text, str):
        raise ExpressionError(f"a date is expected, not {value.shape} that is no literal")
    match = _DATE.match(text)
    try:
        if match is None:
            raise ValueError
        datetime.fromisoformat(text[:19])
    except ValueError as error:
        raise ExpressionError(
            "a text stands for a date, and is not YYYY-MM-DD or YYYY-MM-DD HH:MM:SS"
        ) from error
    shape = Shape("datetime", len(match[2] or "")) if match[1] else Shape("date")
    return value._replace(shape=shape)


def _to_date(value: Value, sizes: Sequence[int], generator: Generator) -> Value:
    value = moment(value)
    if value.shape.kind == "date":
        return value
    return generator.strict([value], Shape("date"), lambda code: f"{code}[:10]")


def _to_datetime(value: Value, sizes: Sequence[int], generator: Generator) -> Value:
    value, scale = moment(value), sizes[0] if sizes else 0
    if scale < value.shape.scale:
        raise ExpressionError(f"{value.shape} is converted to a datetime of {scale} digits")
    return as_datetime(value, scale, generator)


def as_datetime(value: Value, scale: int, generator: Generator) -> Value:
    """A date or datetime as a datetime with more digits of a second's fraction."""
    missing = scale - value.shape.scale
    tail = " 00:00:00" if value.shape.kind == "date" else ""
    if missing:
        tail += ("" if value.shape.scale else ".") + "0" * missing
    shape = Shape("datetime", scale)
    if not tail:
        return value._replace(shape=shape)
    if isinstance(value.constant, str):
        text = f"{value.constant}{tail}"
        return Value(repr(text), shape, False, text)
    return generator.strict([value], shape, lambda code: f"{code} + {tail!r}")


_CASTS: Mapping[str, Callable[[Value, Sequence[int], Generator], Value]] = {
    "CHAR": _to_text,
    "BIGINT": _to_integer(unsigned=False),
    "UBIGINT": _to_integer(unsigned=True),
    "DECIMAL": _to_decimal,
    "DATE": _to_date,
    "DATETIME": _to_datetime,
}
