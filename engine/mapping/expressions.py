"""
Expressions: SQL in the source's dialect, compiled to Python.

sqlglot parses the text. Each node becomes a ``Value`` (``values``): a Python expression and its
type. Only what is listed in ``SUPPORTED`` is compiled, because its result is known to be the
source's for every value; a test compares it with the servers. All else is refused. For example,
``total * 2 > 10 AND code <> 'x'`` becomes::

    (False if (v1 := (None if (v0 := c2) is None else v0 * 2 > 10)) is False else …)

Expressions mean what they mean in a session with ``time_zone = '+00:00'`` and an empty
``sql_mode``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from engine.errors import ConfigError
from engine.mapping import comparisons as compare
from engine.mapping.arithmetic import cast, negative
from engine.mapping.functions import FUNCTIONS, LITERAL_ARGUMENTS, SUPPORTED_FUNCTIONS
from engine.mapping.generation import Generator
from engine.mapping.values import NULL, ExpressionError, Shape, Value, column_value
from engine.schema import Table

__all__ = ["SUPPORTED", "Compiler", "SelectItem", "parse_condition", "parse_select"]

Node = exp.Expression

#: What expressions may contain.
SUPPORTED = (
    "columns, literals, NULL, + - * % DIV, = <> < <= > >= <=>, IS NULL, BETWEEN, IN (literals),"
    " LIKE, AND, OR, XOR, NOT, CASE, COLLATE, CAST (AS CHAR, SIGNED, UNSIGNED, DECIMAL, DATE,"
    f" DATETIME), and the functions {', '.join(SUPPORTED_FUNCTIONS)}"
)


class SelectItem(NamedTuple):
    """An item of a SELECT list: ``expression`` under ``name``; ``*`` has no expression."""

    name: str
    expression: Node | None
    text: str


def parse_select(text: str, where: str) -> list[SelectItem]:
    """The items of a SELECT list. Raises ConfigError; ``where`` names the key."""
    select = _parse(f"SELECT {text}", text, where)
    items: list[SelectItem] = []
    for node in select.expressions:
        if isinstance(node, exp.Star) and not any(node.args.values()):
            items.append(SelectItem("*", None, text))
        elif isinstance(node, exp.Alias):
            items.append(SelectItem(node.alias, node.this, text))
        elif isinstance(node, exp.Column) and not node.table:
            items.append(SelectItem(node.name, node, text))
        else:
            raise ConfigError(
                f"{where}: an expression has no name: {node.sql('mysql')}",
                hint="write: expression AS name",
            )
    return items


def parse_condition(text: str, where: str) -> Node:
    """A condition. Raises ConfigError; ``where`` names the key."""
    conditions = _parse(f"SELECT {text}", text, where).expressions
    if len(conditions) != 1:
        raise ConfigError(
            f"{where}: {text!r} is a list of expressions, not a condition",
            hint="write AND or OR between them",
        )
    condition: Node = conditions[0]
    return condition


def _parse(statement: str, text: str, where: str) -> exp.Select:
    try:
        tokens = sqlglot.tokenize(statement, read="mysql")
        parsed = sqlglot.parse_one(statement, read="mysql")
    except SqlglotError as error:
        details = getattr(error, "errors", None) or [{}]
        column = details[0].get("col")
        place = f" near character {max(1, column - len('SELECT '))}" if column else ""
        problem = details[0].get("description") or "it cannot be read"
        if problem.startswith("Required keyword"):
            problem = "an operand is missing"
        raise ConfigError(
            f"{where}: {text!r} is not SQL{place}: {problem}", hint="write it as in a SELECT"
        ) from error
    if "%-" in text and "date_format" in text.lower():
        raise ConfigError(f"{where}: DATE_FORMAT with %- is not supported", hint="leave it out")
    if any(token.token_type.name == "DPIPE" for token in tokens):
        raise ConfigError(
            f"{where}: || means OR or concatenation, as the source's sql_mode says",
            hint="write OR, or CONCAT(…)",
        )
    extra = [key for key, value in parsed.args.items() if value and key != "expressions"]
    if not isinstance(parsed, exp.Select) or extra:
        raise ConfigError(f"{where}: {text!r} is more than expressions", hint="write one or more")
    return parsed


class Compiler:
    """Compiles expressions over the columns of one table version.

    ``inputs`` collects the ordinals of the columns that are used. ``names`` are the constants that
    the generated code needs.
    """

    def __init__(self, table: Table, generator: Generator) -> None:
        self._table = table
        self._ordinals = {name.lower(): n for n, name in enumerate(table.names)}
        self._generator = generator
        self.inputs: set[int] = set()

    def compile(self, node: Node, text: str, where: str) -> Value:
        """The value of an expression. Raises ConfigError with the place in the text."""
        try:
            return self._value(node)
        except ExpressionError as error:
            place = error.place if isinstance(error.place, exp.Expression) else node
            raise ConfigError(
                f"{where}: {error.problem}, at character {_position(place, text)} of {text!r}",
                hint=f"supported are {SUPPORTED}",
                table=self._table.id,
            ) from error

    def condition(self, node: Node, text: str, where: str) -> Value:
        """As ``compile``; the value is a truth value."""
        value = self.compile(node, text, where)
        try:
            return compare.truth(value, self._generator)
        except ExpressionError as error:
            raise ConfigError(
                f"{where}: {text!r} is {value.shape}, not a condition",
                hint="write a comparison, such as total > 0",
                table=self._table.id,
            ) from error

    def column_of(self, node: Node) -> int | None:
        """The ordinal of the column that an expression consists of; None if it is another one."""
        if not isinstance(node, exp.Column) or node.table:
            return None
        return self._ordinals.get(node.name.lower())

    def _value(self, node: Node) -> Value:
        if isinstance(node, exp.Column):
            return self._column(node)
        handler = _NODES.get(type(node))
        if handler is not None:
            _check_arguments(node, _ARGUMENTS[type(node)])
            value = self._located(node, lambda: handler(self, node))
            return compare.negated(value, self._generator) if node.args.get("negate") else value
        found = FUNCTIONS.get(type(node))
        if found is None:
            raise ExpressionError(f"{_name(node)} is not supported", node)
        _check_arguments(node, {*found.arguments, *_IMPLIED})
        arguments: list[Value] = []
        for name in found.arguments:
            if found.moment and name == "this":
                arguments.append(self._value(_unwrapped(node.this)))
            else:
                arguments += self._argument(node, name)
        return self._located(node, lambda: found.build(arguments, self._generator))

    def _located(self, node: Node, build: Callable[[], Value]) -> Value:
        try:
            return build()
        except ExpressionError as error:
            if error.place is None:
                raise ExpressionError(error.problem, node) from error
            raise

    def _argument(self, node: Node, name: str) -> list[Value]:
        argument = node.args.get(name)
        if name in LITERAL_ARGUMENTS:
            constant = argument or LITERAL_ARGUMENTS[name]
            return [Value(repr(constant), Shape("other"), False, constant)]
        if argument is None:
            return []
        each = argument if isinstance(argument, list) else [argument]
        return [self._value(item) for item in each]

    def _column(self, node: exp.Column) -> Value:
        ordinal = self._ordinals.get(node.name.lower())
        if ordinal is None or node.table:
            raise ExpressionError(f"the table has no column {node.sql('mysql')}", node)
        self.inputs.add(ordinal)
        return column_value(self._table.columns[ordinal], f"c{ordinal}")

    # -- nodes -------------------------------------------------------------------------------------

    def _literal(self, node: Node) -> Value:
        assert isinstance(node, exp.Literal)
        text = node.this
        if node.is_string:
            return Value(repr(text), Shape("text"), False, text)
        whole, point, fraction = text.partition(".")
        if not (whole + fraction).isdigit():
            raise ExpressionError(f"the number {text} is not a decimal", node)
        number = int(whole + fraction)
        digits = max(1, len(whole.lstrip("0")))
        shape = Shape(
            *("number", len(fraction), digits),
            decimal=bool(point),
            unsigned=number >= 1 << 63 and not point,
        )
        if digits + len(fraction) > 30 or (not point and number >= 1 << 64):
            raise ExpressionError(f"the number {text} is too long", node)
        return Value(str(number), shape, False, number)

    def _negative(self, node: Node) -> Value:
        return negative(self._value(node.this), self._generator)

    def _boolean(self, node: Node) -> Value:
        return Value(str(bool(node.this)), Shape("bool"), False, bool(node.this))

    def _binary(self, node: Node) -> Value:
        one, other = self._value(node.this), self._value(node.expression)
        return compare.BINARY[type(node).__name__](one, other, self._generator)

    def _not(self, node: Node) -> Value:
        return compare.negated(self._value(node.this), self._generator)

    def _is(self, node: Node) -> Value:
        value, other = self._value(node.this), self._value(node.expression)
        return compare.is_(value, other, self._generator)

    def _in(self, node: Node) -> Value:
        value = self._value(node.this)
        items = [self._value(each) for each in node.expressions]
        return compare.is_in(value, items, self._generator)

    def _between(self, node: Node) -> Value:
        value = self._value(node.this)
        low, high = self._value(node.args["low"]), self._value(node.args["high"])
        return compare.between(value, low, high, self._generator)

    def _case(self, node: Node) -> Value:
        if node.this is None:
            return self._branches(node, None)
        return self._generator.let(
            self._value(node.this), lambda subject: self._branches(node, subject)
        )

    def _branches(self, node: Node, subject: Value | None) -> Value:
        branches: list[tuple[Value, Value]] = []
        for branch in node.args["ifs"]:
            condition = self._value(branch.this)
            if subject is not None:
                condition = compare.BINARY["EQ"](subject, condition, self._generator)
            branches.append((condition, self._value(branch.args["true"])))
        default = node.args.get("default")
        other = NULL if default is None else self._value(default)
        return compare.case(branches, other, self._generator)

    def _if(self, node: Node) -> Value:
        yes, no = self._value(node.args["true"]), self._value(node.args["false"] or exp.Null())
        return compare.case([(self._value(node.this), yes)], no, self._generator)

    def _collate(self, node: Node) -> Value:
        return compare.collated(self._value(node.this), node.expression.name)

    def _cast(self, node: Node) -> Value:
        to = node.args["to"]
        sizes = [int(each.this.name) for each in to.expressions]
        return cast(self._value(node.this), to.this.name, sizes, self._generator)

    def _paren(self, node: Node) -> Value:
        return self._value(node.this)

    def _null(self, node: Node) -> Value:
        return NULL


def _unwrapped(node: Node) -> Node:
    """The node without a conversion that sqlglot has added for other dialects."""
    return node.this if isinstance(node, exp.TsOrDsToDate | exp.TsOrDsToTimestamp) else node


def _check_arguments(node: Node, known: Collection[str]) -> None:
    extra = [key for key, value in node.args.items() if value and key not in known]
    if extra:
        raise ExpressionError(f"this form of {_name(node)} is not supported", node)


def _name(node: Node) -> str:
    if isinstance(node, exp.Anonymous):
        return f"the function {node.name.upper()}"
    return str(node.sql("mysql")) if isinstance(node, exp.Condition) else node.key.upper()


def _position(place: Node, text: str) -> int:
    """The place of a node in the text, counted from 1."""
    starts = [
        node.meta["start"] for node in place.walk() if isinstance(node.meta.get("start"), int)
    ]
    if starts:
        return max(1, int(min(starts)) - len("SELECT ") + 1)
    for node in place.walk():
        found = text.lower().find(node.name.lower()) if node.name else -1
        if found >= 0:
            return found + 1
    return 1


_Handler = Callable[[Compiler, Any], Value]
_PAIR = {"this", "expression", "negate"}
#: Arguments that sqlglot always sets for this dialect.
_IMPLIED = frozenset(("safe", "coalesce"))
_PAIRS = (
    *(exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.IntDiv, exp.And, exp.Or, exp.Xor),
    *(exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.Like),
)
_NODES: Mapping[type[Node], _Handler] = {
    exp.Literal: Compiler._literal,
    exp.Null: Compiler._null,
    exp.Boolean: Compiler._boolean,
    exp.Paren: Compiler._paren,
    exp.Neg: Compiler._negative,
    exp.Not: Compiler._not,
    exp.Is: Compiler._is,
    exp.In: Compiler._in,
    exp.Between: Compiler._between,
    exp.Case: Compiler._case,
    exp.If: Compiler._if,
    exp.Collate: Compiler._collate,
    exp.Cast: Compiler._cast,
    **dict.fromkeys(_PAIRS, Compiler._binary),
}
_ARGUMENTS: Mapping[type[Node], Collection[str]] = {
    exp.Literal: {"this", "is_string"},
    exp.Null: set(),
    exp.Boolean: {"this"},
    exp.Paren: {"this"},
    exp.Neg: {"this"},
    exp.Not: {"this"},
    **dict.fromkeys((exp.Is, exp.Collate), _PAIR),
    exp.In: {"this", "expressions", "negate"},
    exp.Between: {"this", "low", "high", "negate"},
    exp.Case: {"this", "ifs", "default"},
    exp.If: {"this", "true", "false"},
    exp.Cast: {"this", "to", "_type"},
    **dict.fromkeys(_PAIRS, _PAIR),
}
