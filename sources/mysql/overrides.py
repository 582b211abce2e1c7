"""
The policies of a source in table versions: ``charset`` and ``invalid_text`` of ``ReadPolicies``.

Both are a part of the column's source type (``MySQLType.holds``, ``invalid``), so a table version
shows how its rows were read. For the charset, decoders, cursors and ``tailrace verify`` need
nothing else. The policies are set where a table version comes from: the catalog, a statement, a
table map.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.change import SchemaChange
from engine.databases.mysql.charset import (
    BYTES_PER_CHARACTER,
    may_be_invalid,
    text_decoder,
    text_encoder,
)
from engine.databases.mysql.invalid_text import invalid_text
from engine.databases.mysql.types import MySQLType, neutral_type, parse_type, unquote
from engine.errors import ConfigError, UnloggedChange
from engine.schema import Column, Expression, Table, TableId
from engine.toolkit.policies import ReadPolicies
from sources.mysql.codec.table_match import without_charset
from sources.mysql.ddl.effects import Effect
from sources.mysql.ddl.expressions import inexact
from sources.mysql.ddl.tokens import quote

__all__ = ["Overrides"]


class Overrides:
    """The policies of a configuration. Raises ConfigError for an unknown charset."""

    def __init__(self, policies: ReadPolicies) -> None:
        named = [policies.charset]
        for overrides in (policies.tables, policies.columns):
            named += (chosen["charset"] for chosen in overrides.values() if "charset" in chosen)
        for charset in named:
            if charset and (charset not in BYTES_PER_CHARACTER or charset == "binary"):
                raise ConfigError(
                    f"the charset {charset!r} in [source.values] is unknown",
                    hint="write a charset of the server, such as utf8mb4 or cp932",
                )
        self._policies = policies
        self._names_charsets = any(named)

    def apply(self, table: Table) -> Table:
        """The table with its policies. A column keeps its charset, if none names it: it may have
        been renamed.
        """
        columns = _without_texts(
            tuple(
                self._column(table, ordinal, column) if column.type.kind == "text" else column
                for ordinal, column in enumerate(table.columns)
            )
        )
        if columns == table.columns:
            return table
        return msgspec.structs.replace(table, columns=columns)

    def complete(self, table: Table) -> Table:
        """The table with the overrides as the charsets of columns whose own is not known."""
        if not self._names_charsets or without_charset(table) is None:
            return table
        columns = []
        for column in table.columns:
            source_type = parse_type(column.source_type)
            charset = self._policies.of(table.id, column.name).charset
            if charset and column.type.kind == "text" and not source_type.charset:
                text = str(msgspec.structs.replace(source_type, charset=charset))
                column = msgspec.structs.replace(column, source_type=text)
            columns.append(column)
        return msgspec.structs.replace(table, columns=tuple(columns))

    def follow(self, effect: Effect) -> Effect:
        """The effect of a statement, with the policies of its new version.

        Raises UnloggedChange if a policy names a table or a column by its new name alone.
        """
        if not isinstance(effect, SchemaChange) or effect.after is None:
            return effect
        after = self.apply(effect.after)
        if effect.before is not None:
            renamed = dict(effect.renamed)
            self._check_names(effect.before, after, renamed)
            after = self._with_new_defaults(effect.before, after, renamed)
        return effect if after is effect.after else msgspec.structs.replace(effect, after=after)

    def outdated(self, tables: Iterable[Table]) -> dict[TableId, str]:
        """The tables whose rows were read by other policies than those of today, with the reason.
        ``error`` has changed no row.
        """
        found: dict[TableId, str] = {}
        for table in tables:
            for column, new in zip(table.columns, self.apply(table).columns, strict=True):
                reason = _difference(column, new) if new is not column else ""
                if reason:
                    found.setdefault(table.id, f"{reason} when the table was backfilled")
        return found

    def record(self, tables: dict[TableId, Table]) -> list[SchemaChange]:
        """Put the policies of today into stored versions, where they have changed no row, before
        the log is read. Returns the changes."""
        changes: list[SchemaChange] = []
        for id, table in tables.items():
            after = self.apply(table)
            if after is not table:
                after = msgspec.structs.replace(after, version=table.version + 1)
                tables[id] = after
                changes.append(SchemaChange("", table, after))
        return changes

    def check(self, tables: Iterable[Table]) -> None:
        """Raises ConfigError if a column had another charset than the declared one, and the
        configuration names none: it may have been renamed.
        """
        for table in tables:
            for column in table.columns:
                source_type = parse_type(column.source_type)
                if source_type.holds and not self._policies.of(table.id, column.name).charset:
                    where = f'[source.values.columns] "{table.id}.{column.name}"'
                    raise ConfigError(
                        f"the rows were read with {column.name} in {source_type.holds}, and"
                        " [source.values] does not name this column",
                        hint=f'write {where} = {{ charset = "{source_type.holds}" }}, or charset ='
                        f' "{source_type.charset}" to backfill the table with the declared one',
                        table=table.id,
                    )

    def _column(self, table: Table, ordinal: int, column: Column) -> Column:
        policies = self._policies.of(table.id, column.name)
        old = parse_type(column.source_type)
        holds = policies.charset or old.holds
        new = msgspec.structs.replace(old, holds="" if holds == old.charset else holds)
        invalid = _deciding(policies.invalid_text, new, in_key=ordinal in table.key)
        new = msgspec.structs.replace(new, invalid=invalid)
        if new == old:
            return column
        text = str(new)
        column = msgspec.structs.replace(column, type=neutral_type(text), source_type=text)
        return column if old.holds else self._with_default(table, column)

    def _with_default(self, table: Table, column: Column) -> Column:
        """The column with its default as its rows are read: the bytes that the server stores for
        it, in the other charset. One that cannot be read is not a constant."""
        type, default = parse_type(column.source_type), column.default or ""
        if not type.holds or default[:1] != "'":
            return column
        errors = invalid_text(self._policies, table, column)
        try:
            data = text_encoder(type.charset)(unquote(default))
            default = quote(text_decoder(type.holds, errors)(data))
        except UnicodeError:
            default = f"CONVERT({default} USING binary)"
        return msgspec.structs.replace(column, default=default)

    def _with_new_defaults(self, before: Table, after: Table, renamed: dict[str, str]) -> Table:
        """The table with the defaults that a statement sets of columns which it has already."""
        old = {renamed.get(column.name, column.name): column for column in before.columns}
        columns = tuple(
            self._with_default(after, column)
            if (was := old.get(column.name)) is not None
            and parse_type(was.source_type).holds
            and was.default != column.default
            else column
            for column in after.columns
        )
        return (
            after if columns == after.columns else msgspec.structs.replace(after, columns=columns)
        )

    def _check_names(self, before: Table, after: Table, renamed: dict[str, str]) -> None:
        new = {column.name: column for column in after.columns}
        for column in before.columns:
            now = new.get(renamed.get(column.name, column.name))
            if now is None or (after.id, now.name) == (before.id, column.name):
                continue
            old, kept = parse_type(column.source_type), parse_type(now.source_type)
            if old.encoding == kept.encoding and (reason := _difference(column, now)):
                raise UnloggedChange(f"{reason} before it was renamed", table=after.id)


def _deciding(policy: str, type: MySQLType, *, in_key: bool) -> str:
    """The policy for bytes that are no character, if it decides about values of the column."""
    if policy == "replace" or not type.encoding or not may_be_invalid(type.encoding):
        return ""
    return "" if policy == "escape" and in_key else policy


def _difference(before: Column, after: Column) -> str:
    """Which policy was another one, so that it may have read values of the column in another way;
    empty if none."""
    old, new = parse_type(before.source_type), parse_type(after.source_type)
    if old.holds != new.holds:
        was, now = old.encoding, new.encoding
        return f"the charset of column {after.name} in [source.values] is {now}, and was {was}"
    if old.invalid in ("error", new.invalid):
        return ""
    was, now = (it.invalid or "replace" for it in (old, new))
    return f"the policy invalid_text of column {after.name} is {now}, and was {was}"


def _inexact(columns: Iterable[str]) -> Expression:
    return inexact("it uses a text in the wrong charset", sorted(columns))


def _without_texts(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns; what the source computes from texts that it reads in the wrong charset is not
    what their right characters give.
    """
    wrong = {column.name for column in columns if parse_type(column.source_type).holds}
    if not wrong:
        return columns
    return tuple(
        msgspec.structs.replace(column, expression=_inexact(column.expression.columns))
        if column.expression is not None and not wrong.isdisjoint(column.expression.columns)
        else column
        for column in columns
    )
