"""
The columns of a mapped table: which they are, and the code of their values. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple

import msgspec

from engine.errors import ConfigError, SchemaError
from engine.mapping.conversions import conversion, parsed_type
from engine.mapping.expressions import Compiler, SelectItem, parse_condition, parse_select
from engine.mapping.generation import Generator
from engine.mapping.mapped_column import MappedColumn
from engine.mapping.masks import REDACTED, digits_mask, hash_mask
from engine.mapping.values import ExpressionError, Shape, Value, result_type
from engine.schema import Column, Expression, Table, Type
from engine.settings.mapping import TableRules

__all__ = [
    "Condition",
    "compile_assertions",
    "compile_columns",
    "compile_condition",
]

_MASKED: Final = "varchar({}) character set utf8mb4 collate utf8mb4_bin"
_LONG: Final = "longtext character set utf8mb4 collate utf8mb4_bin"
_TRUNCATE: Final = re.compile(r"truncate\((\d+)\)")
#: Kinds whose values in a row tuple are ``str``, so that they can be masked as they are.
_TEXTS: Final = frozenset(
    ("text", "enum", "set", "json", "uuid", "decimal", "date", "time", "datetime", "timestamp")
)
_TEXT: Final = Shape("text")
_SHORTENED: Final = frozenset(("text", "enum", "set"))


class Condition(NamedTuple):
    """A condition on the rows of the source: it holds if ``code`` is true."""

    code: str
    inputs: frozenset[int]


def compile_columns(
    table: Table, rules: TableRules, generator: Generator, mask_key: str
) -> list[MappedColumn]:
    """The columns of the target. Raises ConfigError."""
    columns = _selected(table, rules, generator)
    names = [column.column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise _wrong(
            table, "select", f"two columns are named {', '.join(twice)}" if twice else "it is empty"
        )
    by_name = {name.lower(): place for place, name in enumerate(names)}
    for name, text in rules.types.items():
        place = by_name.get(name.lower())
        if place is None:
            raise _unknown(table, "types", name, names)
        columns[place] = _retyped(table, columns[place], text, generator)
    for name, mask in rules.mask.items():
        place = by_name.get(name.lower())
        if place is None:
            raise _unknown(table, "mask", name, names)
        columns[place] = _masked(table, columns[place], mask, generator, mask_key)
    return _with_expressions(table, columns)


def _with_expressions(table: Table, columns: list[MappedColumn]) -> list[MappedColumn]:
    """The columns, with the expressions of generated ones over the names on the target. A target
    cannot compute from a column that it has not, or masked.
    """
    names = {
        table.columns[it.source].name: it.column.name
        for it in columns
        if it.plain and it.source is not None
    }
    found = []
    for it in columns:
        expression = it.column.expression
        if expression is not None:
            if not expression.columns <= names.keys():
                kept = sorted(expression.columns & names.keys())
                arguments = tuple(Expression("column", text=name) for name in kept)
                reason = "a mapping changes or drops its columns"
                expression = Expression("inexact", arguments, reason)
            expression = expression.renamed(names)
            it = it._replace(column=msgspec.structs.replace(it.column, expression=expression))
        found.append(it)
    return found


def compile_condition(table: Table, rules: TableRules, generator: Generator) -> Condition | None:
    """The condition of ``where``; None if there is none. Raises ConfigError."""
    if not rules.where:
        return None
    value, inputs = _condition(table, rules.where, "where", generator)
    return Condition(f"{value.code} is True" if value.nullable else value.code, inputs)


def compile_assertions(
    table: Table, rules: TableRules, generator: Generator
) -> list[tuple[str, Condition]]:
    """The conditions of ``assert`` with their texts. As for CHECK, NULL is not false."""
    found = []
    for text in rules.assert_:
        value, inputs = _condition(table, text, "assert", generator)
        found.append((text, Condition(f"{value.code} is not False", inputs)))
    return found


def _condition(
    table: Table, text: str, key: str, generator: Generator
) -> tuple[Value, frozenset[int]]:
    compiler = Compiler(table, generator)
    node = parse_condition(text, _key(table, key))
    return compiler.condition(node, text, _key(table, key)), frozenset(compiler.inputs)


def _selected(table: Table, rules: TableRules, generator: Generator) -> list[MappedColumn]:
    where = _key(table, "select")
    items = parse_select(rules.select, where) if rules.select else [SelectItem("*", None, "*")]
    stars = sum(item.expression is None for item in items)
    if stars > 1:
        raise _wrong(table, "select", "it has * more than once")
    if not stars and (rules.rename or rules.drop):
        key = "rename" if rules.rename else "drop"
        raise _wrong(table, key, "it is about the columns of *, and select has no *")
    named = {
        item.name.lower(): _computed(table, item, where, generator)
        for item in items
        if item.expression is not None
    }
    found: list[MappedColumn] = []
    kept = _kept(table, rules) if stars else []
    taken = {column.column.name.lower() for column in kept}
    for item in items:
        if item.expression is None:
            found += [named.get(column.column.name.lower(), column) for column in kept]
        elif item.name.lower() not in taken:
            found.append(named[item.name.lower()])
    if len(named) != sum(item.expression is not None for item in items):
        raise _wrong(table, "select", "two columns have the same name")
    return found


def _kept(table: Table, rules: TableRules) -> list[MappedColumn]:
    """The columns of ``*``: those of the source, under their new names, without dropped ones."""
    known = {name.lower() for name in table.names}
    for key, names in (("rename", list(rules.rename)), ("drop", list(rules.drop))):
        for name in names:
            if name.lower() not in known:
                raise _unknown(table, key, name, table.names)
    renamed = {old.lower(): new for old, new in rules.rename.items()}
    dropped = {name.lower() for name in rules.drop}
    return [
        _plain(table, ordinal, renamed.get(column.name.lower(), column.name))
        for ordinal, column in enumerate(table.columns)
        if column.name.lower() not in dropped
    ]


def _plain(table: Table, ordinal: int, name: str) -> MappedColumn:
    column = msgspec.structs.replace(table.columns[ordinal], name=name)
    return MappedColumn(column, f"c{ordinal}", frozenset((ordinal,)), ordinal, plain=True)


def _computed(table: Table, item: SelectItem, where: str, generator: Generator) -> MappedColumn:
    compiler = Compiler(table, generator)
    assert item.expression is not None
    ordinal = compiler.column_of(item.expression)
    if ordinal is not None:
        return _plain(table, ordinal, item.name)
    value = compiler.compile(item.expression, item.text, where)
    try:
        type, source_type = result_type(value.shape)
    except ExpressionError as error:
        raise _wrong(table, "select", f"{item.name}: {error.problem}") from error
    column = Column(item.name, type, source_type, nullable=value.nullable)
    return MappedColumn(column, _in_row_form(value, generator).code, frozenset(compiler.inputs))


def _in_row_form(value: Value, generator: Generator) -> Value:
    """The value in the form of a row tuple."""
    shape = value.shape
    if shape.kind == "number" and shape.decimal:
        return generator.strict([value], shape, lambda code: f"fixed_text({code}, {shape.scale})")
    if shape.kind == "bool":
        return generator.strict([value], shape, lambda code: f"(1 if {code} else 0)")
    return value


def _retyped(table: Table, column: MappedColumn, text: str, generator: Generator) -> MappedColumn:
    """The column with another type, which holds every value of its own."""
    old = column.column
    try:
        type, source_type = parsed_type(text)
        body = conversion(old.type, type)
    except (SchemaError, ExpressionError) as error:
        problem = error.problem if isinstance(error, ExpressionError) else error.message
        raise _wrong(table, "types", f"{old.name}: {problem}") from error
    new = Column(old.name, type, source_type, nullable=old.nullable)
    value = Value(column.code, _TEXT, old.nullable)
    if body is not None:
        value = generator.strict([value], _TEXT, body)
    return MappedColumn(new, value.code, column.inputs, column.source)


def _masked(
    table: Table, column: MappedColumn, mask: str, generator: Generator, key: str
) -> MappedColumn:
    old = column.column
    if mask == "null":
        new = msgspec.structs.replace(
            old, nullable=True, default=None, generated=False, expression=None
        )
        return MappedColumn(new, "None", frozenset())
    if mask in ("hash", "digits") and not key:
        raise ConfigError(
            f"{_key(table, 'mask')}: {mask} needs a secret",
            hint='write [mask] and key = "${MASK_KEY}"; keep the key, joins depend on it',
            table=table.id,
        )
    if mask == "hash":
        text = _text_of(table, column, generator)
        return _with_mask(column, text, hash_mask(key), 64, generator, column.source)
    if old.type.kind not in _SHORTENED:
        raise _wrong(
            table,
            "mask",
            f"{mask} of {old.name}, which is no text; masks of other types are hash and null",
        )
    text = Value(column.code, _TEXT, old.nullable)
    if mask == "digits":
        return _with_mask(column, text, digits_mask(key), old.type.length, generator, column.source)
    found = _TRUNCATE.fullmatch(mask)
    length = int(found[1]) if found else len(REDACTED)
    shorten: Callable[[str], str] = (
        (lambda value: value[:length]) if found else (lambda value: REDACTED)
    )
    return _with_mask(column, text, shorten, length, generator, None)


def _with_mask(
    column: MappedColumn,
    text: Value,
    mask: Callable[[str], str],
    length: int,
    generator: Generator,
    source: int | None,
) -> MappedColumn:
    name = generator.constant(mask)
    value = generator.strict([text], _TEXT, lambda code: f"{name}({code})")
    old = column.column
    source_type = _MASKED.format(length) if length else _LONG
    new = Column(old.name, Type("text", length=length), source_type, nullable=old.nullable)
    return MappedColumn(new, value.code, column.inputs, source)


def _text_of(table: Table, column: MappedColumn, generator: Generator) -> Value:
    """The value of a column as text, the same for equal values of all types."""
    kind, code = column.column.type.kind, column.code
    value = Value(code, _TEXT, column.column.nullable)
    if kind in _TEXTS:
        return value
    if kind in ("binary", "geometry"):
        return generator.strict([value], _TEXT, lambda code: f"{code}.hex()")
    if "int" in kind or kind == "bit":
        return generator.strict([value], _TEXT, lambda code: f"str({code})")
    raise _wrong(table, "mask", f"hash of {column.column.name}, which is a {kind}")


def _key(table: Table, key: str) -> str:
    return f'mapping."{table.id}".{key}'


def _wrong(table: Table, key: str, problem: str) -> ConfigError:
    return ConfigError(
        f"{_key(table, key)}: {problem}", hint="correct the mapping of the table", table=table.id
    )


def _unknown(table: Table, key: str, name: str, names: Sequence[str]) -> ConfigError:
    near = get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return ConfigError(
        f"{_key(table, key)}: there is no column {name}",
        hint=f"{guess}the columns are {', '.join(names)}",
        table=table.id,
    )
