"""
The partitions of a table by ranges of one column, and the statements that change them. Pure.

The log has no rows for a partition that is dropped or emptied. If the table is partitioned by
ranges of one integer or temporal column, its rows are those between two bounds. Everything that is
not read with certainty makes the partitions unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Final, Literal, NamedTuple

import msgspec

from engine.databases.mysql.types import parse_type
from engine.schema import Bound, Column, Partitions, Table
from sources.mysql.ddl.session_time import SessionTime
from sources.mysql.ddl.tokens import Tokens, Unreadable

__all__ = ["PartitionChange", "changed", "dropped", "partitions_of", "read_partition_change"]

_INTEGERS: Final = frozenset(("tinyint", "smallint", "mediumint", "int", "bigint"))
_FUNCTIONS: Final = frozenset(("TO_DAYS", "YEAR", "UNIX_TIMESTAMP"))
_EXPRESSION: Final = re.compile(r"(?:(to_days|year|unix_timestamp)\()?`?([^`()]+)`?\)?", re.I)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_DATETIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?: (\d\d:\d\d:\d\d))?")
#: TO_DAYS counts from the year 0, Python's ordinals from the year 1.
_DAYS_BEFORE: Final = 365


class _Raw(NamedTuple):
    """A bound as a statement or the catalog has it: a constant, of which a function may be taken.
    MAXVALUE is None."""

    value: int | str | None
    function: str = ""


class _Definition(NamedTuple):
    name: str
    bound: _Raw


class PartitionChange(msgspec.Struct, frozen=True):
    """The part of a statement that concerns partitions. ``unknown`` covers all that is not read.

    ``names`` are those of existing partitions, empty for ALL. ``column`` and ``function`` belong to
    PARTITION BY.
    """

    verb: Literal["by", "add", "reorganize", "drop", "truncate", "unknown"] = "unknown"
    names: tuple[str, ...] = ()
    definitions: tuple[_Definition, ...] = ()
    column: str = ""
    function: str = ""


def read_partition_change(tokens: Tokens) -> PartitionChange | None:
    """What follows on partitions, up to the end of the statement. ``tokens`` are not advanced."""
    if not (tokens.peek().word == "PARTITION" or tokens.peek(1).word == "PARTITION"):
        return PartitionChange() if tokens.peek(1).word == "PARTITIONING" else None
    try:
        return _read(tokens.of(tokens.sql[tokens.peek().start :]))
    except Unreadable:
        return PartitionChange()


def _read(tokens: Tokens) -> PartitionChange:
    verb = tokens.next().word
    if verb == "PARTITION":
        return _read_by(tokens)
    tokens.expect("PARTITION")
    tokens.take_any(frozenset(("LOCAL", "NO_WRITE_TO_BINLOG")))
    match verb:
        case "ADD":
            found = PartitionChange("add", (), _read_definitions(tokens))
        case "REORGANIZE":
            names = _read_names(tokens)
            tokens.expect("INTO")
            found = PartitionChange("reorganize", names, _read_definitions(tokens))
        case "DROP":
            tokens.take("IF", "EXISTS")
            found = PartitionChange("drop", _read_names(tokens))
        case "TRUNCATE":
            found = PartitionChange("truncate", () if tokens.take("ALL") else _read_names(tokens))
        case "ANALYZE" | "CHECK" | "OPTIMIZE" | "REBUILD" | "REPAIR":
            return PartitionChange("reorganize")
        case _:
            return PartitionChange()
    return found if tokens.ended else PartitionChange()


def _read_by(tokens: Tokens) -> PartitionChange:
    tokens.expect("BY", "RANGE")
    columns = tokens.take("COLUMNS")
    tokens.expect("(")
    function = (
        tokens.next().word if tokens.at_any(_FUNCTIONS) and tokens.peek(1).word == "(" else ""
    )
    if function:
        tokens.expect("(")
    column = tokens.name()
    if function:
        tokens.expect(")")
    tokens.expect(")")
    if tokens.take("PARTITIONS"):
        tokens.integer()
    definitions = _read_definitions(tokens)
    if not tokens.ended:
        raise tokens.unreadable()
    function = "columns" if columns else function.lower()
    return PartitionChange("by", (), definitions, column, function)


def _read_names(tokens: Tokens) -> tuple[str, ...]:
    names = [tokens.name()]
    while tokens.take(","):
        names.append(tokens.name())
    return tuple(names)


def _read_definitions(tokens: Tokens) -> tuple[_Definition, ...]:
    tokens.expect("(")
    found: list[_Definition] = []
    while True:
        tokens.expect("PARTITION")
        name = tokens.name()
        tokens.expect("VALUES", "LESS", "THAN")
        found.append(_Definition(name, _read_bound(tokens)))
        while not (tokens.at(",") or tokens.at(")")):
            if tokens.at("(") or tokens.at("SUBPARTITION"):
                raise tokens.unreadable()
            tokens.skip()
        if tokens.take(")"):
            return tuple(found)
        tokens.expect(",")


def _read_bound(tokens: Tokens) -> _Raw:
    if tokens.take("MAXVALUE"):
        return _Raw(None)
    tokens.expect("(")
    raw = _read_constant(tokens)
    tokens.expect(")")
    return raw


def _read_constant(tokens: Tokens) -> _Raw:
    if tokens.take("MAXVALUE"):
        return _Raw(None)
    if tokens.at_any(_FUNCTIONS):
        function = tokens.next().word.lower()
        tokens.expect("(")
        value = tokens.string()
        tokens.expect(")")
        return _Raw(value, function)
    if tokens.take("-"):
        return _Raw(-tokens.integer())
    if tokens.peek().kind == "number":
        return _Raw(tokens.integer())
    return _Raw(tokens.string())


def partitions_of(
    columns: Sequence[Column], method: str, expression: str, described: Iterable[tuple[str, str]]
) -> Partitions | None:
    """The partitions as the catalog describes them; None if they are of another kind."""
    found = _EXPRESSION.fullmatch(expression)
    if found is None or method not in ("RANGE", "RANGE COLUMNS"):
        return None
    function = "columns" if method == "RANGE COLUMNS" else (found[1] or "").lower()
    try:
        definitions = []
        for name, description in described:
            tokens = Tokens(description)
            definitions.append(_Definition(name, _read_constant(tokens)))
            if not tokens.ended:
                return None
    except Unreadable:
        return None
    change = PartitionChange("by", (), tuple(definitions), found[2], function)
    return _made(columns, change, SessionTime())


def changed(
    before: Partitions | None,
    columns: Sequence[Column],
    change: PartitionChange | None,
    time: SessionTime,
) -> Partitions | None:
    """The partitions after a statement. ``columns`` are the table's after the statement."""
    if change is None:
        return before
    if change.verb == "by":
        return _made(columns, change, time)
    if before is None or change.verb == "unknown" or change.verb == "truncate":
        return before if change.verb == "truncate" else None
    new = _bounds(_column(columns, before.column), before.function, change.definitions, time)
    if new is None:
        return None
    places = _places(before, change.names)
    if places is None:
        return None
    names, bounds = list(before.names), list(before.bounds)
    start = places[0] if places else len(names)
    for place in reversed(places):
        del names[place], bounds[place]
    names[start:start] = [it.name for it in change.definitions]
    bounds[start:start] = new
    return msgspec.structs.replace(before, names=tuple(names), bounds=tuple(bounds))


def dropped(table: Table, change: PartitionChange) -> list[tuple[Bound, Bound]] | None:
    """The ranges of the rows that a statement removes, each with its lower and upper bound.

    None if they are not known.
    """
    before = table.partitions
    if before is None or change.verb not in ("drop", "truncate") or not change.names:
        return None
    places = _places(before, change.names)
    if places is None:
        return None
    return [(before.bounds[n - 1] if n else None, before.bounds[n]) for n in places]


def _places(partitions: Partitions, names: Sequence[str]) -> list[int] | None:
    """The places of these partitions, in order; None if one is unknown."""
    known = [name.lower() for name in partitions.names]
    if not {name.lower() for name in names} <= set(known):
        return None
    return sorted({known.index(name.lower()) for name in names})


def _made(
    columns: Sequence[Column], change: PartitionChange, time: SessionTime
) -> Partitions | None:
    column = _column(columns, change.column)
    bounds = _bounds(column, change.function, change.definitions, time)
    if column is None or bounds is None:
        return None
    names = tuple(it.name for it in change.definitions)
    return Partitions(column.name, column.source_type, change.function, names, tuple(bounds))


def _column(columns: Sequence[Column], name: str) -> Column | None:
    return next((it for it in columns if it.name.lower() == name.lower()), None)


def _bounds(
    column: Column | None, function: str, definitions: Iterable[_Definition], time: SessionTime
) -> list[Bound] | None:
    """The upper bounds as values of the column; None if one is not certain."""
    if column is None:
        return None
    try:
        return [_bound(column, function, it.bound, time) for it in definitions]
    except (Unreadable, ValueError, OverflowError):
        return None


def _bound(column: Column, function: str, raw: _Raw, time: SessionTime) -> Bound:
    value, base, scale = raw.value, parse_type(column.source_type).base, column.type.scale
    if value is None:
        return None
    clock = " 00:00:00" + (f".{'0' * scale}" if scale else "") if base == "datetime" else ""
    match function:
        case "" | "columns" if base in _INTEGERS and isinstance(value, int) and not raw.function:
            return value
        case "columns" if isinstance(value, str) and not raw.function:
            return _literal(base, value, scale)
        case "to_days" if base in ("date", "datetime") and raw.function in ("", function):
            if isinstance(value, str):
                value = _day(value).toordinal() + _DAYS_BEFORE
            return f"{date.fromordinal(value - _DAYS_BEFORE):%Y-%m-%d}".zfill(10) + clock
        case "year" if base in ("date", "datetime") and not raw.function:
            if isinstance(value, int) and 1 <= value <= 9999:
                return f"{value:04}-01-01{clock}"
        case "unix_timestamp" if base == "timestamp" and not scale:
            if isinstance(value, int) and not raw.function and value > 0:
                return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S}"
            if raw.function == function and (text := time.utc(str(value), 0)) is not None:
                return text
    raise Unreadable("has a bound that is not known")


def _literal(base: str, value: str, scale: int) -> str:
    if base == "date":
        return f"{_day(value):%Y-%m-%d}".zfill(10)
    found = _DATETIME.fullmatch(value)
    if base != "datetime" or found is None:
        raise Unreadable("has a bound that is not known")
    text = f"{found[1]} {found[2] or '00:00:00'}"
    datetime.fromisoformat(text)
    return text + (f".{'0' * scale}" if scale else "")


def _day(text: str) -> date:
    if _DATE.fullmatch(text) is None:
        raise Unreadable("has a bound that is not known")
    return date.fromisoformat(text)
