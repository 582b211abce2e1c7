"""
The partitions of a table by ranges or lists of one column, and the statements that change them.
Pure.

The log has no rows for a partition that is dropped or emptied. If the table is partitioned by one
integer or temporal column, its rows follow from their values in it. Subpartitions do not matter:
they divide a partition. Everything that is not read with certainty makes the partitions unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from engine.databases.mysql.types import parse_type
from engine.schema import Bound, Column, Part, Partitions, Range, Table, joined_ranges
from sources.mysql.ddl.session_time import SessionTime
from sources.mysql.ddl.tokens import Tokens, Unreadable

__all__ = [
    "PartitionChange",
    "changed",
    "dropped",
    "exchanged",
    "partitions_of",
    "read_partition_change",
]

_Item = TypeVar("_Item")
_INTEGERS: Final = frozenset(("tinyint", "smallint", "mediumint", "int", "bigint"))
_FUNCTIONS: Final = frozenset(("TO_DAYS", "YEAR", "UNIX_TIMESTAMP"))
_UNKNOWN_LISTS: Final = frozenset(("NULL", "DEFAULT"))
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
    """A partition with its upper bound, or with its list; that is None if it is not known."""

    name: str
    bound: _Raw | None = None
    list: tuple[_Raw, ...] | None = None


class PartitionChange(msgspec.Struct, frozen=True):
    """The part of a statement that concerns partitions. ``unknown`` covers all that is not read.

    ``names`` are those of existing partitions, empty for ALL. ``column``, ``function`` and
    ``lists`` (by lists, not by ranges) belong to PARTITION BY.
    """

    verb: Literal["by", "add", "reorganize", "drop", "truncate", "exchange", "unknown"] = "unknown"
    names: tuple[str, ...] = ()
    definitions: tuple[_Definition, ...] = ()
    column: str = ""
    function: str = ""
    lists: bool = False

    @property
    def empties(self) -> bool:
        """Whether all partitions are emptied."""
        return self.verb == "truncate" and not self.names


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
        case "EXCHANGE":
            found = PartitionChange("exchange", (tokens.name(),))
            tokens.expect("WITH", "TABLE")
            tokens.name()
            if tokens.take("."):
                tokens.name()
            tokens.take("WITH", "VALIDATION")  # without it, rows may be in a wrong partition
        case "ANALYZE" | "CHECK" | "OPTIMIZE" | "REBUILD" | "REPAIR":
            return PartitionChange("reorganize")
        case _:
            return PartitionChange()
    return found if tokens.ended else PartitionChange()


def _read_by(tokens: Tokens) -> PartitionChange:
    tokens.expect("BY")
    lists = tokens.take("LIST")
    if not lists:
        tokens.expect("RANGE")
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
    if tokens.take("SUBPARTITION", "BY"):
        while not tokens.at("(", "PARTITION"):
            tokens.skip()
    definitions = _read_definitions(tokens)
    if not tokens.ended:
        raise tokens.unreadable()
    function = "columns" if columns else function.lower()
    return PartitionChange("by", (), definitions, column, function, lists)


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
        if tokens.take("DEFAULT"):  # MariaDB
            found.append(_Definition(name))
        elif tokens.take("VALUES", "IN"):
            found.append(_Definition(name, None, _read_list(tokens)))
        else:
            tokens.expect("VALUES", "LESS", "THAN")
            found.append(_Definition(name, _read_bound(tokens)))
        while not (tokens.at(",") or tokens.at(")")):
            tokens.skip()  # options, and subpartitions in parentheses
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


def _read_list(tokens: Tokens) -> tuple[_Raw, ...] | None:
    if tokens.at_any(_UNKNOWN_LISTS):
        tokens.skip()
        return None
    listed = tokens.of(tokens.group()[1:-1])
    return _read_constants(listed)


def _read_constants(tokens: Tokens) -> tuple[_Raw, ...] | None:
    """The constants up to the end; None with NULL or DEFAULT among them."""
    found = []
    while not tokens.at_any(_UNKNOWN_LISTS):
        found.append(_read_constant(tokens))
        if not tokens.take(","):
            if not tokens.ended:
                raise tokens.unreadable()
            return tuple(found)
    return None


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
    kind, _, of_columns = method.partition(" ")
    if found is None or kind not in ("RANGE", "LIST"):
        return None
    function = "columns" if of_columns else (found[1] or "").lower()
    try:
        definitions = [_described(kind, *each) for each in described]
    except Unreadable:
        return None
    change = PartitionChange("by", (), tuple(definitions), found[2], function, kind == "LIST")
    return _made(columns, change, SessionTime())


def _described(kind: str, name: str, description: str) -> _Definition:
    constants = _read_constants(Tokens(description))
    if kind == "LIST":
        return _Definition(name, None, constants)
    if constants is None or len(constants) != 1:
        raise Unreadable("has a bound that is not known")
    return _Definition(name, constants[0])


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
    if change.verb in ("truncate", "exchange"):
        return before
    if before is None or change.verb == "unknown":
        return None
    by = PartitionChange(
        "by", (), change.definitions, before.column, before.function, bool(before.lists)
    )
    new = _made(columns, by, time)
    places = _places(before, change.names)
    if new is None or places is None:
        return None
    start = places[0] if places else len(before.names)
    removed = frozenset(places)

    def spliced(old: Sequence[_Item], new: Sequence[_Item]) -> tuple[_Item, ...]:
        kept = [(n, each) for n, each in enumerate(old) if n not in removed]
        return (*(e for n, e in kept if n < start), *new, *(e for n, e in kept if n > start))

    return msgspec.structs.replace(
        before,
        names=spliced(before.names, new.names),
        bounds=spliced(before.bounds, new.bounds),
        lists=spliced(before.lists, new.lists),
    )


def dropped(table: Table, change: PartitionChange) -> Part | None:
    """The rows that a statement removes; None if they are not known."""
    before = table.partitions
    if before is None or change.verb not in ("drop", "truncate"):
        return None
    return _part(before, change.names)


def exchanged(table: Table, change: PartitionChange) -> Part | None:
    """The rows that a statement replaces by those of another table; None if they are not known."""
    before = table.partitions
    if before is None or change.verb != "exchange":
        return None
    return _part(before, change.names)


def _part(partitions: Partitions, names: Sequence[str]) -> Part | None:
    """The rows of these partitions; None if they are not known."""
    found = [partitions.part(n) for n in _places(partitions, names) or ()]
    if not all(found) or not found:
        return None
    ranges = joined_ranges(range for each in found for range in each)
    return Part(partitions.column, ranges, partitions.function)


def _places(partitions: Partitions, names: Sequence[str]) -> list[int] | None:
    """The places of these partitions, in order; None if one is unknown."""
    known = [name.lower() for name in partitions.names]
    if not {name.lower() for name in names} <= set(known):
        return None
    return sorted({known.index(name.lower()) for name in names})


def _made(
    columns: Sequence[Column], change: PartitionChange, time: SessionTime
) -> Partitions | None:
    name, function = change.column.lower(), change.function
    column = next((it for it in columns if it.name.lower() == name), None)
    if column is None:
        return None
    names = tuple(it.name for it in change.definitions)
    found = Partitions(column.name, column.source_type, function, names)
    try:
        if change.lists:
            lists = [_ranges(column, function, it.list, time) for it in change.definitions]
            return msgspec.structs.replace(found, lists=tuple(lists))
        bounds = [_bound(column, function, it.bound, time) for it in change.definitions]
        return msgspec.structs.replace(found, bounds=tuple(bounds))
    except (Unreadable, ValueError, OverflowError):
        return None


def _ranges(
    column: Column, function: str, values: Sequence[_Raw] | None, time: SessionTime
) -> tuple[Range, ...]:
    """The values of a partition by lists: each up to the next one that the column can hold, or of
    which the function has another value. Empty if they are not known."""
    ranges: list[Range] = []
    for value in values or ():
        lower = _bound(column, function, value, time)
        if isinstance(lower, int):
            ranges.append((lower, lower + 1))
        elif function in ("columns", "to_days") and lower is not None:
            if function == "columns" and len(lower) > len("YYYY-MM-DD"):
                return ()
            ranges.append((lower, _next_day(lower)))
        elif function == "year" and isinstance(value.value, int):
            upper = _bound(column, function, _Raw(value.value + 1), time)
            ranges.append((lower, upper))
        else:
            return ()
    return joined_ranges(ranges)


def _next_day(text: str) -> str:
    day = date.fromisoformat(text[:10]) + timedelta(days=1)
    return f"{day:%Y-%m-%d}".zfill(10) + text[10:]


def _bound(column: Column, function: str, raw: _Raw | None, time: SessionTime) -> Bound:
    if raw is None:
        raise Unreadable("has no bound")
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
