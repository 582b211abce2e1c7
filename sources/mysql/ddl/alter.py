"""
The table after an ALTER TABLE. Pure.

As in the server, all clauses refer to the table before the statement. First columns are dropped,
renamed and changed by their old names, then new and moved columns are placed by the new names, then
indexes are changed. A statement that changes rows is refused, because the log does not show how.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from engine.databases.mysql.types import parse_type, unquote
from engine.schema import Column, Part, Partitions, Table
from sources.mysql.codec.defaults import zero_address
from sources.mysql.codec.versioned import row_end
from sources.mysql.ddl.clauses import FIRST, Alteration, ColumnChange
from sources.mysql.ddl.columns import (
    NUMBERS,
    Charset,
    ColumnDefinition,
    charset_of,
    converted,
    resolve,
)
from sources.mysql.ddl.computed import computed
from sources.mysql.ddl.defaults import is_converted, stored_default
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.draft import Draft, DraftColumn
from sources.mysql.ddl.foreign_keys import has_foreign_keys
from sources.mysql.ddl.keys import KeyDefinition
from sources.mysql.ddl.loss import FORMATS, loss
from sources.mysql.ddl.partitions import PartitionChange, changed, dropped, exchanged
from sources.mysql.ddl.session_time import SessionTime

__all__ = ["Altered", "Unfollowable", "alter"]

#: The columns of the table before the statement.
Columns = dict[DraftColumn, Column]

#: ``CURRENT_TIMESTAMP`` by all of its names, with its number of digits.
_NOW: Final = re.compile(
    r"(?:CURRENT_TIMESTAMP|NOW|LOCALTIME|LOCALTIMESTAMP)\s*(?:\(\s*(\d?)\s*\))?", re.IGNORECASE
)

#: The kinds whose NULL becomes 0 or an empty value, without strict SQL mode.
_KNOWN_ZEROS: Final = frozenset(
    ("int8", "int16", "int24", "int32", "int64", "uint8", "uint16", "uint24", "uint32", "uint64")
) | frozenset(("decimal", "float32", "float64", "text", "binary"))


class Unfollowable(Exception):
    """The statement changes rows or the definition in a way that its text does not show."""


class Altered(NamedTuple):
    """The table after a statement, the old and new names of renamed columns, and new columns with
    the value that existing rows have got (``SchemaChange.filled``). ``removed`` are the rows that
    went with their partitions, and ``emptied`` says that all rows did. The rows of ``exchanged``
    are those that another table had. ``computed`` names the new and changed generated columns, and
    existing ones that the statement defines with AUTO_INCREMENT (``SchemaChange.computed``).
    ``unlogged`` has the new columns whose values in existing rows are not known, each with the
    reason.
    """

    table: Table
    renamed: tuple[tuple[str, str], ...]
    filled: tuple[tuple[str, str], ...]
    removed: Part | None = None
    emptied: bool = False
    exchanged: Part | None = None
    computed: tuple[str, ...] = ()
    unlogged: Mapping[str, str] = {}


def alter(
    table: Table,
    change: Alteration,
    database: Charset,
    dialect: Dialect,
    *,
    ignore: bool = False,
    empty: bool = False,
) -> Altered:
    """The table after ``change``.

    ``database`` is the default charset of the table's database. ``empty``: no rows of the table are
    followed yet, so only its definition matters. Raises Unfollowable, Unreadable and SchemaError.
    """
    partitions = change.partitions or PartitionChange()
    removed, replaced = dropped(table, partitions), exchanged(table, partitions)
    known = partitions.empties or removed is not None or replaced is not None
    if change.refused and (change.reshapes or not empty) and not known:
        raise Unfollowable(change.refused)
    if not empty and ignore and _adds_unique(change):
        raise Unfollowable("may drop rows as duplicates, which the log does not show")
    if row_end(table) == len(table.columns) - 1 and _appends(change):
        raise Unfollowable("adds a column to a table with a history, whose place is not known")
    draft = Draft.of(table)
    before = {column: column.column for column in draft.columns}
    charset = change.charset.resolved(database).over(charset_of(table.default_charset))
    draft.default_charset = charset.text
    for column in draft.columns:
        column.column = dialect.altered(column.column)
        if change.converted:
            column.column = converted(column.column, charset)
    renamed = _change_columns(draft, change, charset, empty=empty)
    generated = _settle(draft, change, renamed)
    filled: tuple[tuple[str, str], ...] = ()
    unlogged: dict[str, str] = {}
    if not empty:
        strict, explicit = dialect.strict and not ignore, dialect.explicit_defaults_for_timestamp
        _check_values(draft, before, dialect)
        _check_nulls(draft, before, strict=strict, explicit_timestamps=bool(explicit))
        unlogged = _check_generated(draft, before, generated)
        filled = _filled(draft, change, before, dialect.time, unlogged)
    _change_keys(draft, change)
    after = draft.table(change.name or table.id, table.version + 1)
    now = _partitions(table, after, change, renamed, dialect.time)
    after = msgspec.structs.replace(after, partitions=now)
    names = tuple(column.name for column in [*generated, *_numbered(draft, before, change)])
    return Altered(after, renamed, filled, removed, partitions.empties, replaced, names, unlogged)


def _change_keys(draft: Draft, change: Alteration) -> None:
    """Drop, rename and add indexes and foreign keys."""
    if change.primary_dropped:
        draft.drop_primary()
    for name, optional in change.dropped_foreign_keys:
        draft.drop_foreign_key(name, optional=optional)
    for name in change.dropped_constraints:
        if not draft.drop_foreign_key(name, optional=True):
            draft.drop_key(name)
    for name in change.dropped_keys:
        draft.drop_key(name)
    for old, new in change.renamed_keys:
        draft.rename_key(old, new)
    for key in [*_inline_keys(change), *change.keys]:
        draft.add_key(key)
    if not has_foreign_keys(change.engine):
        draft.ignore_foreign_keys()


def _settle(
    draft: Draft, change: Alteration, renamed: tuple[tuple[str, str], ...]
) -> list[DraftColumn]:
    """Make the expressions of generated columns exact, as far as they are. Return the columns that
    the statement defines.
    """
    found = {
        draft.find(it.definition.name): it.definition.expression
        for it in change.columns
        if it.definition.expression is not None and draft.has(it.definition.name)
    }
    for column in draft.columns:
        expression = column.column.expression
        if expression is not None and column not in found:
            column.replace(expression=expression.renamed(dict(renamed)))
    if found:
        columns = [column.column for column in draft.columns]
        settled = computed(columns, {column.name: it for column, it in found.items()})
        for column, new in zip(draft.columns, settled, strict=True):
            column.column = new
    return list(found)


def _numbered(draft: Draft, before: Columns, change: Alteration) -> list[DraftColumn]:
    """The existing columns whose new definition has AUTO_INCREMENT."""
    names = [it.definition.name for it in change.columns if it.definition.filled == NUMBERS]
    return [column for name in names if (column := draft.find(name)) in before]


def _appends(change: Alteration) -> bool:
    """Whether columns are added whose place is not written. If the last column is one of a row's
    times, it may be a hidden one, which stays the last.
    """
    return any(not column.old and column.after is None for column in change.columns)


def _partitions(
    before: Table,
    after: Table,
    change: Alteration,
    renamed: tuple[tuple[str, str], ...],
    time: SessionTime,
) -> Partitions | None:
    """The partitions after the statement, if their column is still the same."""
    found = changed(before.partitions, after.columns, change.partitions, time)
    if found is None or any(found.column in pair for pair in renamed):
        return None
    columns = {(it.name, it.source_type) for it in after.columns}
    return found if (found.column, found.source_type) in columns else None


def _check_values(draft: Draft, before: Columns, dialect: Dialect) -> None:
    """Check that the new types of columns keep the existing values."""
    for column in draft.columns:
        source_type = before.get(column, column.column).source_type
        if source_type != column.column.source_type:
            old, new = parse_type(source_type), parse_type(column.column.source_type)
            reason = loss(old, new, strict=dialect.strict, pads=dialect.pads)
            if old.holds and old.charset != new.charset:
                reason = "changes the bytes"  # as if they were in the declared charset
            if reason:
                raise Unfollowable(
                    f"{reason} of the column {column.name}, which the log does not show"
                )


def _check_nulls(draft: Draft, before: Columns, *, strict: bool, explicit_timestamps: bool) -> None:
    """Check that columns that become NOT NULL hold no NULL, or that its replacement is known."""
    for column in draft.columns:
        if column.column.nullable or not before.get(column, column.column).nullable:
            continue
        kind = column.column.type.kind
        known = kind in _KNOWN_ZEROS and parse_type(column.column.source_type).base not in FORMATS
        replaced = not strict and not known
        if replaced or (kind == "timestamp" and not explicit_timestamps):
            raise Unfollowable(
                f"may replace NULL in the column {column.name}, which the log does not show"
            )


def _check_generated(draft: Draft, before: Columns, defined: list[DraftColumn]) -> dict[str, str]:
    """Check that no generated column may be computed anew from a changed one, except those that the
    statement defines exactly. Returns the new columns that it does not, with the reason.
    """
    reason = "fills a column with an expression, which the log does not show"
    unlogged: dict[str, str] = {}
    for column in defined:
        expression = column.column.expression
        if expression is not None and expression.name == "inexact":
            if column in before:
                raise Unfollowable(reason)
            unlogged[column.name] = reason
    kept = [column for column in draft.columns if column in before and column not in defined]
    generated = [column.column for column in kept if before[column].generated]
    if not generated:
        return unlogged
    for column in kept:
        old, new = before[column], column.column
        if (old.source_type, old.nullable) != (new.source_type, new.nullable) and any(
            it is new or _may_use(it, column.name) for it in generated
        ):
            raise Unfollowable(
                f"changes the column {column.name}, and generated columns may be computed from it"
            )
    return unlogged


def _may_use(column: Column, name: str) -> bool:
    """Whether a generated column may be computed from the column with this name."""
    expression = column.expression
    return expression is None or name in expression.columns


def _filled(
    draft: Draft,
    change: Alteration,
    before: Columns,
    time: SessionTime,
    unlogged: dict[str, str],
) -> tuple[tuple[str, str], ...]:
    """The new columns whose value in existing rows follows from the time of the statement. Those
    whose value is not certain are put into ``unlogged``, with the reason.
    """
    definitions = {item.definition.name.lower(): item.definition for item in change.columns}
    stamps = [
        each for each in draft.columns if parse_type(each.column.source_type).base == "timestamp"
    ]
    found: list[tuple[str, str]] = []
    for column in draft.columns:
        if column in before:
            continue
        definition = definitions[column.name.lower()]
        value = _value(definition, column.column, time, first=column in stamps[:1])
        if value is not None:
            found.append((column.name, value))
        elif column.column.generated:
            continue
        elif definition.filled and not (definition.implied and column in stamps[1:]):
            reason = f"fills a column with {definition.filled}, which the log does not show"
            unlogged[column.name] = reason
        elif column.column.source_type.startswith("vector") and not column.column.nullable:
            unlogged[column.name] = "fills a column with vectors, which the log does not show"
        elif is_converted(column.column.default, parse_type(column.column.source_type)):
            reason = "converts the default of a column, which the log does not show"
            unlogged[column.name] = reason
    return tuple(found)


def _value(
    definition: ColumnDefinition, column: Column, time: SessionTime, *, first: bool
) -> str | None:
    """The value of a new column in existing rows, if it follows from the time of the statement.

    A default with another precision than the column is rounded or cut, depending on the server.
    """
    kind, scale, default = column.type.kind, column.type.scale, definition.default
    if default is None and not column.nullable and (zero := zero_address(column.source_type)):
        return zero
    if kind not in ("timestamp", "datetime"):
        return None
    if definition.implied:
        return time.current(kind, scale) if first else None
    if default is None:
        return None
    if kind == "timestamp" and not definition.filled:
        return time.utc(unquote(default), scale) if default[:1] == "'" else None
    expression = default.startswith("(")
    now = _NOW.fullmatch(default[1:-1].strip() if expression else default)
    if now is None or int(now[1] or 0) != scale or (expression and kind == "timestamp"):
        return None
    return time.current(kind, scale)


def _adds_unique(change: Alteration) -> bool:
    keys = [*_inline_keys(change), *change.keys]
    return any(key.kind in ("primary", "unique") for key in keys)


def _inline_keys(change: Alteration) -> list[KeyDefinition]:
    """The indexes that are part of column definitions."""
    return [key for column in change.columns for key in column.definition.keys]


def _change_columns(
    draft: Draft, change: Alteration, charset: Charset, *, empty: bool
) -> tuple[tuple[str, str], ...]:
    """Change the columns as the statement says. Return the old and new names of renamed columns."""
    before = {column: column.name for column in draft.columns}
    # All columns are looked up by their old names before any of them is renamed.
    dropped = [
        draft.find(name) for name, optional in change.dropped if draft.has(name) or not optional
    ]
    renames = [(draft.find(old), new) for old, new in change.renamed]
    columns = [
        (item, draft.find(item.old) if item.old else None)
        for item in change.columns
        if not item.conditional or draft.has(item.old or item.definition.name) == bool(item.old)
    ]
    for name, text in change.defaults:
        column = draft.find(name)
        source_type = parse_type(column.column.source_type)
        column.replace(default=stored_default(text, column.column.type, source_type))
    made = {item.definition.name.lower() for item, old in columns if old is None}
    if not empty and any(column.name.lower() in made for column in dropped):
        raise Unfollowable("drops a column and adds another one of the same name")
    for column in dropped:
        draft.drop_column(column)
    for column, new in renames:
        column.replace(name=new)
    converts = change.converted
    placed = [
        (_changed(item, old, charset, converts=converts), item.after) for item, old in columns
    ]
    _place(draft, placed)
    return tuple(
        (before[column], column.name)
        for column in draft.columns
        if before.get(column, column.name) != column.name
    )


def _changed(
    item: ColumnChange, old: DraftColumn | None, charset: Charset, *, converts: bool
) -> DraftColumn:
    """The column that a clause adds or changes."""
    definition = item.definition
    if converts and definition.charset.name != "binary":
        # CONVERT TO also counts for the columns of the same statement.
        definition = msgspec.structs.replace(definition, charset=charset)
    column = resolve(definition, charset)
    if old is None:
        return DraftColumn(column)
    old.column = _with_override(column, old.column)
    return old


def _with_override(column: Column, before: Column) -> Column:
    """The column with the policies of the configuration."""
    old, new = parse_type(before.source_type), parse_type(column.source_type)
    if not (old.holds or old.invalid) or not new.charset:
        return column
    source_type = str(msgspec.structs.replace(new, holds=old.holds, invalid=old.invalid))
    return msgspec.structs.replace(column, source_type=source_type)


def _place(draft: Draft, placed: list[tuple[DraftColumn, str | None]]) -> None:
    """Place new and moved columns, one clause after the other."""
    columns = draft.columns
    for column, after in placed:
        if after is None:
            columns.extend([column] if column not in columns else [])
            continue
        if column in columns:
            columns.remove(column)
        columns.insert(0 if after == FIRST else columns.index(draft.find(after)) + 1, column)
