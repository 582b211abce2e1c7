"""
The parser for the expressions of generated columns. Pure.

It reads a closed list of operators and functions, with the precedence of the MySQL manual
("Operator Precedence"). The result has the names of ``engine.schema.Expression``, without types:
``sources.mysql.ddl.computed`` adds these and decides what is exact. An expression that is not on
the list becomes ``inexact``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from engine.schema import Expression
from sources.mysql.ddl.dialect import HIGH_NOT_PRECEDENCE
from sources.mysql.ddl.tokens import Token, Tokens, Unreadable

__all__ = ["inexact", "read_expression", "shown_expression", "written_expression"]

_COMPARISONS: Final = frozenset("<>=!")
_FUNCTIONS: Final = {
    "IF": ("if", 3),
    "IFNULL": ("coalesce", 2),
    "NULLIF": ("null_if", 2),
    "ABS": ("abs", 1),
    "FLOOR": ("floor", 1),
    "CEIL": ("ceiling", 1),
    "CEILING": ("ceiling", 1),
    "YEAR": ("year", 1),
    "MONTH": ("month", 1),
    "DAY": ("day", 1),
    "DAYOFMONTH": ("day", 1),
    "DATE": ("date", 1),
    "MOD": ("modulo", 2),
}
_OF_MANY: Final = {"CONCAT": "concat", "COALESCE": "coalesce"}
_PRODUCTS: Final = {"*": "multiply", "DIV": "divide", "%": "modulo", "MOD": "modulo"}
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
#: The charsets before texts that mean what is written.
_UTF8: Final = frozenset(("_UTF8MB4", "_UTF8MB3", "_UTF8"))
#: The most levels of an expression. Deeper ones could exceed Python's stack.
_MOST_LEVELS: Final = 100
#: Words that begin or continue an expression, and so are no names of columns.
_RESERVED: Final = frozenset(
    ("AND", "BETWEEN", "BINARY", "CASE", "CAST", "COLLATE", "CONVERT", "DIV", "ELSE", "EXISTS")
) | frozenset(("IN", "INTERVAL", "IS", "LIKE", "MATCH", "MOD", "NOT", "OR", "REGEXP", "RLIKE"))


def inexact(reason: str, columns: Iterable[str] = ()) -> Expression:
    """An expression of these columns that cannot be said exactly."""
    names = tuple(Expression("column", text=name) for name in dict.fromkeys(columns))
    return Expression("inexact", names, reason)


def read_expression(tokens: Tokens, sql_mode: int = 0) -> Expression:
    """The expression that all of these tokens make."""
    reason = "it cannot be read"
    try:
        found = _Parser(tokens).disjunction()
        if sql_mode & HIGH_NOT_PRECEDENCE:
            return inexact("the SQL mode HIGH_NOT_PRECEDENCE was set", sorted(found.columns))
        if tokens.ended and _depth(found) <= _MOST_LEVELS:
            return found
        reason = "it is too long" if tokens.ended else _unknown(tokens.peek())
    except _Unknown as error:
        reason = str(error)
    except (Unreadable, RecursionError):
        pass
    return inexact(reason, _names(tokens.of(tokens.sql)))


def _names(tokens: Tokens) -> Iterator[str]:
    """The names in a text, and all words that could be names."""
    while not tokens.ended:
        token = tokens.next()
        if token.kind in ("name", "word", "quoted"):
            yield token.text


def _depth(node: Expression) -> int:
    """The number of levels of an expression, up to one more than are accepted."""
    level, depth = [node], 0
    while level and depth <= _MOST_LEVELS:
        level, depth = [it for each in level for it in each.arguments], depth + 1
    return depth


def shown_expression(text: str, *, mariadb: bool) -> Expression:
    """The expression of ``information_schema.COLUMNS.GENERATION_EXPRESSION``.

    MySQL escapes it once more, as a string.
    """
    if not mariadb:
        text = _ESCAPED.sub(r"\1", text)
    return read_expression(Tokens(text, mariadb=mariadb))


def written_expression(text: str, *, mariadb: bool) -> str:
    """An expression of ``information_schema`` as people write it.

    MySQL shows the bytes of its UTF-8 as characters of latin1, escapes them once more, as a string,
    and puts its charset before each text.
    """
    if mariadb:
        return text
    text = _ESCAPED.sub(r"\1", text)
    with suppress(UnicodeError):  # a text of another charset
        text = text.encode("latin-1").decode()
    tokens, kept, place = Tokens(text), "", 0
    while not tokens.ended:
        token = tokens.next()
        if token.word in _UTF8 and tokens.peek().kind == "string":
            kept, place = kept + text[place : token.start], token.end
    return kept + text[place:]


class _Unknown(Exception):
    """A construct that is not on the list. The message says which, and has no literal."""


def _unknown(token: Token) -> str:
    return f"it uses {token.word}" if token.word else "it cannot be read"


class _Parser:
    """One method for each level of precedence, the lowest first."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def disjunction(self) -> Expression:
        found = self._conjunction()
        while self._tokens.take("OR"):
            found = Expression("or", (found, self._conjunction()))
        return found

    def _conjunction(self) -> Expression:
        found = self._negation()
        while self._tokens.take("AND"):
            found = Expression("and", (found, self._negation()))
        return found

    def _negation(self) -> Expression:
        if self._tokens.take("NOT"):
            return _not(self._negation())
        return self._comparison()

    def _comparison(self) -> Expression:
        found = self._sum()
        tokens = self._tokens
        while True:
            if tokens.at_any(_COMPARISONS):
                found = self._compared(found)
            elif tokens.take("IS", "NULL"):
                found = Expression("is_null", (found,))
            elif tokens.take("IS", "NOT", "NULL"):
                found = _not(Expression("is_null", (found,)))
            elif tokens.take("IN"):
                found = self._one_of(found)
            elif tokens.take("NOT", "IN"):
                found = _not(self._one_of(found))
            elif tokens.take("BETWEEN"):
                found = self._between(found)
            elif tokens.take("NOT", "BETWEEN"):
                found = _not(self._between(found))
            else:
                return found

    def _compared(self, left: Expression) -> Expression:
        symbol = ""
        while self._tokens.at_any(_COMPARISONS):
            symbol += self._tokens.next().word
        right = self._sum()
        match symbol:
            case "=":
                return Expression("equal", (left, right))
            case "<>" | "!=":
                return _not(Expression("equal", (left, right)))
            case "<=>":
                return Expression("same", (left, right))
            case "<":
                return Expression("less", (left, right))
            case "<=":
                return Expression("less_equal", (left, right))
            case ">":
                return Expression("less", (right, left))
            case ">=":
                return Expression("less_equal", (right, left))
        raise _Unknown("it cannot be read")

    def _one_of(self, left: Expression) -> Expression:
        return Expression("or", tuple(Expression("equal", (left, it)) for it in self._list()))

    def _between(self, value: Expression) -> Expression:
        low = self._sum()
        self._tokens.expect("AND")
        above = Expression("less_equal", (low, value))
        return Expression("and", (above, Expression("less_equal", (value, self._sum()))))

    def _sum(self) -> Expression:
        found = self._product()
        while symbol := self._tokens.take_any(frozenset("+-")):
            name = "add" if symbol == "+" else "subtract"
            found = Expression(name, (found, self._product()))
        return found

    def _product(self) -> Expression:
        found = self._signed()
        while word := self._tokens.take_any(frozenset(_PRODUCTS)):
            found = Expression(_PRODUCTS[word], (found, self._signed()))
        return found

    def _signed(self) -> Expression:
        if self._tokens.take("-"):
            return Expression("minus", (self._signed(),))
        return self._primary()

    def _primary(self) -> Expression:
        tokens = self._tokens
        if tokens.take("("):
            found = self.disjunction()
            tokens.expect(")")
            return found
        token = tokens.peek()
        if token.word.startswith("_") and tokens.peek(1).kind == "string":
            tokens.next()  # a charset introducer
            return self._text()
        if token.kind == "string":
            return self._text()
        if token.kind == "number":
            tokens.next()
            exact = _NUMBER.fullmatch(token.text)
            return Expression("number" if exact else "float", text=token.text)
        if token.word == "CASE":
            return self._case()
        if token.kind == "word" and tokens.peek(1).word == "(":
            return self._call()
        if tokens.take("NULL"):
            return Expression("null")
        if word := tokens.take_any(frozenset(("TRUE", "FALSE"))):
            return Expression("number", text="1" if word == "TRUE" else "0")
        return self._column()

    def _column(self) -> Expression:
        token = self._tokens.next()
        named = token.kind == "name" or (token.kind == "word" and token.word not in _RESERVED)
        if not named or not token.text:
            raise _Unknown(_unknown(token))
        return Expression("column", text=token.text)

    def _text(self) -> Expression:
        text = self._tokens.string()
        if not text.isascii() or not text.isprintable() or "\\" in text:
            raise _Unknown("it uses a text with other than printable ASCII characters")
        return Expression("text", text=text)

    def _list(self) -> list[Expression]:
        self._tokens.expect("(")
        found = [self.disjunction()]
        while self._tokens.take(","):
            found.append(self.disjunction())
        self._tokens.expect(")")
        return found

    def _call(self) -> Expression:
        word = self._tokens.next().word
        if word == "CAST":
            return self._cast()
        name = _FUNCTIONS.get(word, ("", 0))[0] or _OF_MANY.get(word)
        if name is None and word != "ROUND":
            raise _Unknown(f"it uses {word}")
        arguments = self._list()
        if name is None:
            digits = arguments[1] if len(arguments) == 2 else Expression("number", text="0")
            if len(arguments) > 2 or digits.name != "number" or not digits.text.isdigit():
                raise _Unknown("it uses ROUND")
            return Expression("round", (arguments[0],), digits.text)
        if word in _FUNCTIONS and len(arguments) != _FUNCTIONS[word][1]:
            raise _Unknown(f"it uses {word}")
        return Expression(name, tuple(arguments))

    def _cast(self) -> Expression:
        """``CAST(x AS DATE)``, as MySQL shows ``DATE(x)``."""
        self._tokens.expect("(")
        found = self.disjunction()
        if not self._tokens.take("AS", "DATE", ")"):
            raise _Unknown("it uses CAST")
        return Expression("date", (found,))

    def _case(self) -> Expression:
        tokens = self._tokens
        tokens.expect("CASE")
        subject = None if tokens.at("WHEN") else self.disjunction()
        branches: list[tuple[Expression, Expression]] = []
        while tokens.take("WHEN"):
            condition = self.disjunction()
            if subject is not None:
                condition = Expression("equal", (subject, condition))
            tokens.expect("THEN")
            branches.append((condition, self.disjunction()))
        found = self.disjunction() if tokens.take("ELSE") else Expression("null")
        tokens.expect("END")
        for condition, value in reversed(branches):
            found = Expression("if", (condition, value, found))
        return found


def _not(condition: Expression) -> Expression:
    return Expression("not", (condition,))
