"""
Comparisons and conditions in expressions.

A condition is true, false or NULL. A comparison is compiled only if Python can compare the values
as the source does: numbers in one scale, dates as texts of one form, and texts by a collation that
is known (``engine.mapping.text``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from engine.mapping.arithmetic import (
    ARITHMETIC,
    Operator,
    as_datetime,
    as_number,
    in_scale,
    moment,
)
from engine.mapping.generation import Generator
from engine.mapping.text import compares_code_points, equal_form, like_form, pads
from engine.mapping.values import NULL, UNKNOWN, ExpressionError, Shape, Value

__all__ = [
    "BINARY",
    "between",
    "case",
    "collated",
    "common_text",
    "is_",
    "is_in",
    "negated",
    "truth",
]

_NUMERIC: Final = frozenset(("number", "year", "bool", "bit"))
_BOOL: Final = Shape("bool")


def _comparison(operator: str) -> Operator:
    def build(one: Value, other: Value, generator: Generator) -> Value:
        if "null" in (one.shape.kind, other.shape.kind):
            return NULL
        equality = operator in ("==", "!=")
        left, right, padded = _comparable(one, other, equality, generator)
        if padded:
            swapped, no = operator in (">", "<="), "not " if operator[-1] == "=" else ""
            pair = [right, left] if swapped else [left, right]
            return generator.strict(pair, _BOOL, lambda a, b: f"{no}padded_less({a}, {b})")
        return generator.strict([left, right], _BOOL, lambda a, b: f"{a} {operator} {b}")

    return build


def _comparable(
    one: Value, other: Value, equality: bool, generator: Generator
) -> tuple[Value, Value, bool]:
    """Both values in a form in which Python compares them as the source does, and whether they are
    texts that have to be padded.
    """
    kinds = {one.shape.kind, other.shape.kind}
    if kinds <= _NUMERIC:
        one, other = as_number(one), as_number(other)
        scale = max(one.shape.scale, other.shape.scale)
        return in_scale(one, scale, generator), in_scale(other, scale, generator), False
    if kinds & {"date", "datetime"}:
        return (*_moments(one, other, generator), False)
    if kinds == {"text"}:
        return _texts(one, other, equality, generator)
    if "float" in kinds and kinds <= {"float", "number"}:
        return _float(one), _float(other), False
    raise ExpressionError(f"{one.shape} is compared with {other.shape}; write CAST(… AS …)")


def _float(value: Value) -> Value:
    if value.shape.kind == "float":
        return value
    if not isinstance(value.constant, int):
        raise ExpressionError("a float is compared with a number that is no literal")
    number = float(f"{value.constant}e-{value.shape.scale}")
    return value._replace(code=repr(number), shape=Shape("float"))


def _moments(one: Value, other: Value, generator: Generator) -> tuple[Value, Value]:
    one, other = moment(one), moment(other)
    if one.shape.kind == other.shape.kind == "date":
        return one, other
    scale = max(one.shape.scale, other.shape.scale)
    return as_datetime(one, scale, generator), as_datetime(other, scale, generator)


def common_text(values: Sequence[Value]) -> Shape:
    """The type of a text that these make together."""
    shapes = [value.shape for value in values if value.shape.kind != "null"]
    explicit = any(shape.explicit for shape in shapes)
    charsets = {shape.charset for shape in shapes if shape.charset}
    collations = {
        shape.collation or ("" if shape.kind == "text" else UNKNOWN)
        for shape in shapes
        if shape.explicit == explicit
    } - {""}
    charset = charsets.pop() if len(charsets) == 1 else "utf8mb4"
    collation = collations.pop() if len(collations) == 1 else UNKNOWN
    return Shape("text", charset=charset, collation=collation, explicit=explicit)


def _texts(
    one: Value, other: Value, equality: bool, generator: Generator
) -> tuple[Value, Value, bool]:
    collation = common_text([one, other]).collation
    if collation == UNKNOWN:
        raise ExpressionError(
            "texts are compared whose collation depends on the session, or differs; write"
            " COLLATE utf8mb4_bin after one of them"
        )
    exact = compares_code_points(collation)
    if not equality:
        if not exact:
            raise ExpressionError(
                f"the order of texts by {collation} is not supported; write COLLATE utf8mb4_bin"
            )
        return one, other, pads(collation)
    form = equal_form(collation)
    ascii = any(isinstance(it.constant, str) and it.constant.isascii() for it in (one, other))
    if form is None or not (ascii or collation.endswith("_bin")):
        raise ExpressionError(
            f"texts are compared by {collation}, and none of them is an ASCII literal; write"
            " COLLATE utf8mb4_bin after one of them"
        )
    return _formed(one, form, generator), _formed(other, form, generator), False


def _formed(value: Value, form: Callable[[str], str], generator: Generator) -> Value:
    """A text in the form that equal texts share."""
    if form is str:
        return value
    if isinstance(value.constant, str):
        text = form(value.constant)
        return value._replace(code=repr(text), constant=text)
    name = generator.constant(form)
    return generator.strict([value], value.shape, lambda code: f"{name}({code})")


def collated(value: Value, collation: str) -> Value:
    """A text with another collation of its charset."""
    collation = collation.lower()
    charset = value.shape.charset
    if value.shape.kind != "text":
        raise ExpressionError(f"{value.shape} has no collation")
    if charset and not collation.startswith((f"{charset}_", "uca1400_")):
        raise ExpressionError(f"the collation {collation} is not one of {charset}")
    if equal_form(collation) is None:
        raise ExpressionError(f"the collation {collation} is not supported")
    shape = value.shape._replace(
        collation=collation, charset=collation.partition("_")[0], explicit=True
    )
    return value._replace(shape=shape)


def _null_safe_equal(one: Value, other: Value, generator: Generator) -> Value:
    if "null" in (one.shape.kind, other.shape.kind):
        return is_(one if other.shape.kind == "null" else other, NULL, generator)
    left, right, _ = _comparable(one, other, True, generator)
    return Value(f"({left.code} == {right.code})", _BOOL, False)


def _like(one: Value, other: Value, generator: Generator) -> Value:
    pattern = other.constant
    if one.shape.kind != "text" or not isinstance(pattern, str):
        raise ExpressionError("LIKE needs a text and a literal pattern")
    collation = common_text([one, other]).collation
    form = None if collation == UNKNOWN else like_form(collation)
    exact = compares_code_points(collation)
    if form is None or not (pattern.isascii() or exact):
        raise ExpressionError(f"LIKE {pattern!r} by the collation {collation} is not supported")
    expression = _like_expression(form(pattern))
    matches = generator.constant(re.compile(expression, re.DOTALL).fullmatch)
    text = _formed(one, form, generator)
    return generator.strict([text], _BOOL, lambda code: f"{matches}({code}) is not None")


def _like_expression(pattern: str) -> str:
    """A regular expression for a pattern of LIKE, with the escape character ``\\``."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            parts.append(re.escape(next(characters, "\\")))
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    return "".join(parts)


def is_in(value: Value, items: Sequence[Value], generator: Generator) -> Value:
    """Whether the value is one of the literals."""
    if not items or any(item.constant is None for item in items):
        raise ExpressionError("IN needs a list of literals that are not NULL")
    left = value
    allowed: list[Value] = []
    for item in items:
        left, right, _ = _comparable(value, item, True, generator)
        if left.shape.scale != value.shape.scale:
            raise ExpressionError("an item of the list has more digits than the value")
        allowed.append(right)
    name = generator.constant(frozenset(item.constant for item in allowed))
    return generator.strict([left], _BOOL, lambda code: f"{code} in {name}")


def between(value: Value, low: Value, high: Value, generator: Generator) -> Value:
    """Whether the value is in a range, whose ends belong to it."""
    return generator.let(
        value,
        lambda kept: _and(
            BINARY["GTE"](kept, low, generator), BINARY["LTE"](kept, high, generator), generator
        ),
    )


def is_(value: Value, other: Value, generator: Generator) -> Value:
    """IS NULL, IS TRUE and IS FALSE."""
    if other.shape.kind == "null":
        # Python warns about a literal that is compared with None.
        code = f"({value.code} is None)" if value.nullable else f"({value.code}, False)[1]"
        return Value(code, _BOOL, False)
    if other.shape.kind != "bool" or other.constant is None:
        raise ExpressionError("IS needs NULL, TRUE or FALSE")
    return Value(f"({truth(value, generator).code} is {bool(other.constant)})", _BOOL, False)


def truth(value: Value, generator: Generator) -> Value:
    """The value as a condition: a number is true unless it is 0."""
    if value.shape.kind in ("bool", "null"):
        return value._replace(shape=_BOOL)
    number = as_number(value)
    return generator.strict([number], _BOOL, lambda code: f"{code} != 0")


def negated(value: Value, generator: Generator) -> Value:
    """NOT."""
    return generator.strict([truth(value, generator)], _BOOL, lambda code: f"not {code}")


def _and(one: Value, other: Value, generator: Generator) -> Value:
    return _junction(one, other, generator, "and", "False")


def _or(one: Value, other: Value, generator: Generator) -> Value:
    return _junction(one, other, generator, "or", "True")


def _junction(one: Value, other: Value, generator: Generator, word: str, decisive: str) -> Value:
    """AND and OR: one of the two truth values decides, whatever the other side is."""
    one, other = truth(one, generator), truth(other, generator)
    if not one.nullable and not other.nullable:
        return Value(f"({one.code} {word} {other.code})", _BOOL, False)
    left, right = generator.variable(), generator.variable()
    code = (
        f"({decisive} if ({left} := {one.code}) is {decisive} else"
        f" {decisive} if ({right} := {other.code}) is {decisive} else"
        f" None if {left} is None or {right} is None else {decisive != 'True'})"
    )
    return Value(code, _BOOL)


def _xor(one: Value, other: Value, generator: Generator) -> Value:
    pair = [truth(one, generator), truth(other, generator)]
    return generator.strict(pair, _BOOL, lambda a, b: f"{a} is not {b}")


def case(branches: Sequence[tuple[Value, Value]], other: Value, generator: Generator) -> Value:
    """CASE and IF: the value of the first branch whose condition is true, else ``other``."""
    shape, results = unified([*(result for _, result in branches), other], generator)
    code = results[-1].code
    for (condition, _), result in reversed(list(zip(branches, results, strict=False))):
        test = truth(condition, generator)
        test_code = f"{test.code} is True" if test.nullable else test.code
        code = f"{result.code} if {test_code} else {code}"
    return Value(f"({code})", shape, any(result.nullable for result in results))


def unified(values: Sequence[Value], generator: Generator) -> tuple[Shape, list[Value]]:
    """The values in one type, and the type."""
    shapes = [value.shape for value in values if value.shape.kind != "null"]
    kinds = {shape.kind for shape in shapes}
    if not kinds:
        return Shape("null"), list(values)
    if kinds == {"bool"}:
        return _BOOL, list(values)
    if kinds <= _NUMERIC:
        return _unified_numbers(values, generator)
    if kinds == {"text"}:
        return common_text(values), list(values)
    if kinds in ({"date"}, {"datetime"}) and len(set(shapes)) == 1:
        return shapes[0], list(values)
    raise ExpressionError("the results have different types; write CAST(… AS …)")


def _unified_numbers(values: Sequence[Value], generator: Generator) -> tuple[Shape, list[Value]]:
    years = any(value.shape.kind == "year" for value in values)
    numbers = [as_number(value) for value in values]
    shapes = [number.shape for number in numbers if number.shape.kind != "null"]
    scale = max(shape.scale for shape in shapes)
    decimal = any(shape.decimal for shape in shapes)
    unsigned = all(shape.unsigned for shape in shapes) and not decimal
    if any(shape.unsigned for shape in shapes) and not unsigned:
        decimal = True  # neither type of integer holds all
    uncertain = years or any(it.uncertain or it.scale != scale for it in shapes)
    digits = max(it.digits for it in shapes)
    shape = Shape("number", scale, digits, decimal, unsigned, uncertain=uncertain)
    return shape, [in_scale(number, scale, generator) for number in numbers]


BINARY: Mapping[str, Operator] = {
    **ARITHMETIC,
    "EQ": _comparison("=="),
    "NEQ": _comparison("!="),
    "LT": _comparison("<"),
    "LTE": _comparison("<="),
    "GT": _comparison(">"),
    "GTE": _comparison(">="),
    "NullSafeEQ": _null_safe_equal,
    "Like": _like,
    "And": _and,
    "Or": _or,
    "Xor": _xor,
}
