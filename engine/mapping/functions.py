"""
The functions of expressions, each as the source defines it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from sqlglot import exp

from engine.mapping.arithmetic import as_number, as_text, integer
from engine.mapping.comparisons import BINARY, common_text, truth, unified
from engine.mapping.generation import Generator
from engine.mapping.text import Case, case_converter
from engine.mapping.values import UNKNOWN, ExpressionError, Shape, Value

__all__ = ["FUNCTIONS", "LITERAL_ARGUMENTS", "SUPPORTED_FUNCTIONS", "Function"]

Build = Callable[[Sequence[Value], Generator], Value]

#: The arguments that sqlglot gives as a word or truth value, with their defaults.
LITERAL_ARGUMENTS: Final[Mapping[str, str | bool]] = {
    "position": "BOTH",
    "is_left": False,
    "binary": False,
}

SUPPORTED_FUNCTIONS: Final = (
    *("ABS", "CEILING", "CHAR_LENGTH", "COALESCE", "CONCAT", "CONCAT_WS", "DATE", "DATE_FORMAT"),
    *("DAY", "FLOOR", "HEX", "HOUR", "IF", "IFNULL", "LEFT", "LENGTH", "LOWER", "LPAD", "LTRIM"),
    *("MD5", "MINUTE", "MOD", "MONTH", "NULLIF", "QUARTER", "REPLACE", "REVERSE", "RIGHT"),
    *("ROUND", "RPAD", "RTRIM", "SECOND", "SHA1", "SHA2", "SIGN", "SUBSTRING", "SUBSTRING_INDEX"),
    *("TRIM", "TRUNCATE", "UPPER", "YEAR"),
)

_INTEGER: Final = Shape("number", digits=10)
_SMALL: Final = Shape("number", digits=4)
_HEX: Final = Shape("text", charset="utf8mb4", collation=UNKNOWN)
_ENCODINGS: Final = {"utf8mb4": "utf-8", "utf8mb3": "utf-8", "ascii": "ascii"}
_CODE: Final = re.compile(r"(%-?.?)|([^%])", re.DOTALL)
#: Python's code for a part of a date → its name in ``runtime.date_format``.
_FORMATS: Final = dict(
    zip(
        ["%Y", "%y", "%m", "%-m", "%d", "%-d", "%H", "%-H", "%M", "%S", "%f"],
        "YymcdeHkisf",
        strict=True,
    )
)


class Function(NamedTuple):
    """A function by the class of sqlglot: its arguments in order, and how it is compiled.

    ``moment``: sqlglot wraps the first argument into conversions that the source does not make.
    """

    arguments: Sequence[str]
    build: Build
    moment: bool = False


def _text(values: Sequence[Value], generator: Generator, at: int = 0) -> Value:
    """An argument that must be a text; a number or date is converted."""
    return as_text(values[at], generator)


def _number(values: Sequence[Value], at: int) -> Value:
    value = as_number(values[at])
    if value.shape.scale:
        raise ExpressionError("a count must be an integer")
    return value


def _literal_text(value: Value) -> str:
    if not isinstance(value.constant, str) or not value.constant:
        raise ExpressionError("this argument must be a literal text that is not empty")
    return value.constant


def _changed_case(case: Case) -> Build:
    def build(values: Sequence[Value], generator: Generator) -> Value:
        text = _text(values, generator)
        collation = text.shape.collation
        convert = None if collation in ("", UNKNOWN) else case_converter(collation, case)
        if convert is None:
            raise ExpressionError(
                f"{case.upper()} of a text with the collation {collation or 'of a literal'} is not"
                " supported; write COLLATE utf8mb4_bin after it"
            )
        name = generator.constant(convert)
        return generator.strict([text], text.shape, lambda code: f"{name}({code})")

    return build


def _concat(values: Sequence[Value], generator: Generator) -> Value:
    texts = [as_text(value, generator) for value in values]
    return generator.strict(texts, common_text(values), lambda *codes: " + ".join(codes))


def _concat_ws(values: Sequence[Value], generator: Generator) -> Value:
    separator, *texts = [as_text(value, generator) for value in values]
    parts = ", ".join(text.code for text in texts)
    return generator.strict(
        [separator],
        common_text(values),
        lambda code: f"concat_ws({code}, {parts})",
    )


def _part(template: str) -> Build:
    """A function of a text and one number."""

    def build(values: Sequence[Value], generator: Generator) -> Value:
        text = _text(values, generator)
        return generator.strict([text, _number(values, 1)], text.shape, template.format)

    return build


def _substring(values: Sequence[Value], generator: Generator) -> Value:
    text = _text(values, generator)
    counts = [_number(values, at) for at in range(1, len(values))]
    return generator.strict(
        [text, *counts], text.shape, lambda *codes: f"substring({', '.join(codes)})"
    )


def _substring_index(values: Sequence[Value], generator: Generator) -> Value:
    text, delimiter = _text(values, generator), repr(_literal_text(values[1]))
    return generator.strict(
        [text, _number(values, 2)],
        text.shape,
        lambda code, count: f"substring_index({code}, {delimiter}, {count})",
    )


def _trim(values: Sequence[Value], generator: Generator) -> Value:
    text, where = _text(values, generator), values[1].constant
    part = _literal_text(values[2]) if len(values) > 2 else " "
    return generator.strict(
        [text], text.shape, lambda code: f"trimmed({code}, {part!r}, {where!r})"
    )


def _replace(values: Sequence[Value], generator: Generator) -> Value:
    text = _text(values, generator)
    old, new = repr(_literal_text(values[1])), _text(values, generator, 2)
    return generator.strict(
        [text, new], text.shape, lambda code, other: f"{code}.replace({old}, {other})"
    )


def _padded(values: Sequence[Value], generator: Generator) -> Value:
    text, left = _text(values, generator), values[-1].constant
    count, part = values[1].constant, _literal_text(values[2])
    if not isinstance(count, int) or count < 0:
        raise ExpressionError("the length must be a literal")
    name = "left_padded" if left else "right_padded"
    return generator.strict([text], text.shape, lambda code: f"{name}({code}, {count}, {part!r})")


def _reversed(values: Sequence[Value], generator: Generator) -> Value:
    text = _text(values, generator)
    return generator.strict([text], text.shape, lambda code: f"{code}[::-1]")


def _encoded(value: Value, code: str) -> str:
    """The code of a text's bytes in its charset."""
    if value.shape.kind == "binary":
        return code
    encoding = _ENCODINGS.get(value.shape.charset or "utf8mb4")
    if encoding is None:
        raise ExpressionError(f"the bytes of a text in {value.shape.charset} are not supported")
    return f'{code}.encode("{encoding}")'


def _bytes_of(values: Sequence[Value], generator: Generator) -> Value:
    value = values[0]
    return value if value.shape.kind == "binary" else as_text(value, generator)


def _digest(bits: int) -> Build:
    def build(values: Sequence[Value], generator: Generator) -> Value:
        value = _bytes_of(values, generator)
        size = bits
        if len(values) > 1:
            if not isinstance(values[1].constant, int):
                raise ExpressionError("the number of bits must be a literal")
            size = values[1].constant
        return generator.strict(
            [value], _HEX, lambda code: f"digest({_encoded(value, code)}, {size})", null=True
        )

    return build


def _hex(values: Sequence[Value], generator: Generator) -> Value:
    if values[0].shape.kind not in ("text", "binary"):
        raise ExpressionError("HEX needs a text or binary value")
    value = values[0]
    return generator.strict([value], _HEX, lambda code: f"{_encoded(value, code)}.hex().upper()")


def _length(values: Sequence[Value], generator: Generator) -> Value:
    value = _bytes_of(values[:1], generator)
    if values[1].constant:
        return generator.strict([value], _INTEGER, lambda code: f"len({_encoded(value, code)})")
    return generator.strict([value], _INTEGER, "len({})".format)


# -- numbers -------------------------------------------------------------------------------------


def _abs(values: Sequence[Value], generator: Generator) -> Value:
    value = as_number(values[0])
    shape = value.shape
    return generator.strict(
        [value],
        shape,
        lambda code: f"abs({code})" if shape.decimal else integer(f"abs({code})", shape),
    )


def _sign(values: Sequence[Value], generator: Generator) -> Value:
    value = as_number(values[0])
    return generator.let(
        value,
        lambda kept: generator.strict([kept], _SMALL, lambda code: f"({code} > 0) - ({code} < 0)"),
    )


def _whole(down: bool) -> Build:
    """FLOOR and CEILING."""

    def build(values: Sequence[Value], generator: Generator) -> Value:
        value = as_number(values[0])
        shape = value.shape
        if not shape.decimal:
            return value
        unit, digits = 10**shape.scale, shape.digits + 1
        result = Shape("number", digits=digits, decimal=digits > 18)
        body = "{} // " + str(unit) if down else "-(-{} // " + str(unit) + ")"
        return generator.strict([value], result, body.format)

    return build


def _rounding(function: str) -> Build:
    """ROUND and TRUNCATE to a literal number of digits."""

    def build(values: Sequence[Value], generator: Generator) -> Value:
        value = as_number(values[0])
        places = values[1].constant if len(values) > 1 else 0
        if not isinstance(places, int) or (len(values) > 1 and values[1].shape.scale):
            raise ExpressionError("the number of digits must be a literal integer")
        shape, scale = value.shape, max(0, min(places, value.shape.scale))
        if places >= shape.scale:
            uncertain = shape.uncertain or (shape.decimal and places > shape.scale)
            return value._replace(shape=shape._replace(uncertain=uncertain), constant=None)
        unit, factor = 10 ** (shape.scale - places), 10 ** max(0, -places)
        result = shape._replace(scale=scale, digits=shape.digits + 1)

        def body(code: str) -> str:
            code = f"{function}({code}, {unit})" + (f" * {factor}" if factor > 1 else "")
            return code if shape.decimal else integer(code, shape)

        return generator.strict([value], result, body)

    return build


# -- NULL ----------------------------------------------------------------------------------------


def _coalesce(values: Sequence[Value], generator: Generator) -> Value:
    shape, values = unified(values, generator)
    *others, last = values
    code, nullable = last.code, last.nullable
    for value in reversed(others):
        if not value.nullable:
            code, nullable = value.code, False
            continue
        name = generator.variable()
        code = f"{name} if ({name} := {value.code}) is not None else {code}"
    return Value(f"({code})", shape, nullable)


def _nullif(values: Sequence[Value], generator: Generator) -> Value:
    def build(kept: Value) -> Value:
        equal = truth(BINARY["EQ"](kept, values[1], generator), generator)
        code = f"(None if {equal.code} is True else {kept.code})"
        if kept.shape.kind == "year":
            return Value(code, as_number(kept).shape._replace(uncertain=True))
        return Value(code, kept.shape)

    return generator.let(values[0], build)


# -- dates ---------------------------------------------------------------------------------------


def _moment(value: Value, *, clock: bool = False) -> Value:
    kinds = ("datetime",) if clock else ("date", "datetime")
    if value.shape.kind == "null" or value.shape.kind in kinds:
        return value
    raise ExpressionError(f"{value.shape} is used as a {' or '.join(kinds)}")


def _field(start: int, end: int, *, clock: bool = False) -> Build:
    def build(values: Sequence[Value], generator: Generator) -> Value:
        value = _moment(values[0], clock=clock)
        return generator.strict([value], _SMALL, lambda code: f"int({code}[{start}:{end}])")

    return build


def _quarter(values: Sequence[Value], generator: Generator) -> Value:
    value = _moment(values[0])
    return generator.strict([value], _SMALL, lambda code: f"(int({code}[5:7]) + 2) // 3")


def _date(values: Sequence[Value], generator: Generator) -> Value:
    value = _moment(values[0])
    return generator.strict([value], Shape("date"), lambda code: f"{code}[:10]")


def _date_format(values: Sequence[Value], generator: Generator) -> Value:
    """sqlglot gives the format in Python's codes."""
    value, text = _moment(values[0]), _literal_text(values[1])
    pattern = ""
    for code, character in _CODE.findall(text):
        if code and code not in _FORMATS:
            raise ExpressionError(f"DATE_FORMAT with {code} is not supported")
        pattern += (
            f"{{{_FORMATS[code]}}}" if code else {"{": "{{", "}": "}}"}.get(character, character)
        )
    name = generator.constant(pattern)
    return generator.strict([value], _HEX, lambda code: f"date_format({code}, {name})")


FUNCTIONS: Mapping[type[exp.Expression], Function] = {
    exp.Abs: Function(("this",), _abs),
    exp.Ceil: Function(("this",), _whole(down=False)),
    exp.Coalesce: Function(("this", "expressions"), _coalesce),
    exp.Concat: Function(("expressions",), _concat),
    exp.ConcatWs: Function(("expressions",), _concat_ws),
    exp.Day: Function(("this",), _field(8, 10), moment=True),
    exp.DayOfMonth: Function(("this",), _field(8, 10), moment=True),
    exp.Floor: Function(("this",), _whole(down=True)),
    exp.Hex: Function(("this",), _hex),
    exp.Hour: Function(("this",), _field(11, 13, clock=True)),
    exp.Left: Function(("this", "expression"), _part("{}[:max(0, {})]")),
    exp.Length: Function(("this", "binary"), _length),
    exp.Lower: Function(("this",), _changed_case("lower")),
    exp.MD5: Function(("this",), _digest(128)),
    exp.Minute: Function(("this",), _field(14, 16, clock=True)),
    exp.Month: Function(("this",), _field(5, 7), moment=True),
    exp.Nullif: Function(("this", "expression"), _nullif),
    exp.Pad: Function(("this", "expression", "fill_pattern", "is_left"), _padded),
    exp.Quarter: Function(("this",), _quarter, moment=True),
    exp.Replace: Function(("this", "expression", "replacement"), _replace),
    exp.Reverse: Function(("this",), _reversed),
    exp.Right: Function(("this", "expression"), _part("rightmost({}, {})")),
    exp.Round: Function(("this", "decimals"), _rounding("rounded")),
    exp.Second: Function(("this",), _field(17, 19, clock=True)),
    exp.SHA: Function(("this",), _digest(160)),
    exp.SHA2: Function(("this", "length"), _digest(256)),
    exp.Sign: Function(("this",), _sign),
    exp.Substring: Function(("this", "start", "length"), _substring),
    exp.SubstringIndex: Function(("this", "delimiter", "count"), _substring_index),
    exp.TimeToStr: Function(("this", "format"), _date_format, moment=True),
    exp.Trim: Function(("this", "position", "expression"), _trim),
    exp.Trunc: Function(("this", "decimals"), _rounding("truncated")),
    exp.TsOrDsToDate: Function(("this",), _date),
    exp.Upper: Function(("this",), _changed_case("upper")),
    exp.Year: Function(("this",), _field(0, 4), moment=True),
}
