"""
Columns whose bytes have another charset than the declared one: the policy ``charset``.

The override is a part of the column's source type (``MySQLType.holds``), so decoders, cursors and
``tailrace verify`` need nothing else, and a table version shows which charset its rows were read
with. It is set where a table version comes from: the catalog, a statement, a table map.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.change import SchemaChange
from engine.databases.mysql.charset import BYTES_PER_CHARACTER
from engine.databases.mysql.types import parse_type
from engine.errors import ConfigError, UnloggedChange
from engine.schema import Column, Table, TableId
from engine.toolkit.policies import ReadPolicies
from sources.mysql.codec.table_match import without_charset
from sources.mysql.ddl.effects import Effect

__all__ = ["Overrides"]


class Overrides:
    """The overrides of a configuration. Raises ConfigError for an unknown charset."""

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
        self._active = any(named)

    def apply(self, table: Table) -> Table:
        """The table with its overrides. A column keeps the one it has, if none names it: it may
        have been renamed.
        """
        if not self._active:
            return table
        columns = tuple(self._column(table.id, column) for column in table.columns)
        if columns == table.columns:
            return table
        return msgspec.structs.replace(table, columns=columns)

    def complete(self, table: Table) -> Table:
        """The table with the overrides as the charsets of columns whose own is not known."""
        if not self._active or without_charset(table) is None:
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
        """The effect of a statement, with the overrides of its new version."""
        if not isinstance(effect, SchemaChange) or effect.after is None:
            return effect
        after = self.apply(effect.after)
        return effect if after is effect.after else msgspec.structs.replace(effect, after=after)

    def check(self, tables: Iterable[Table]) -> None:
        """Raises UnloggedChange for a table whose rows were read with other overrides, ConfigError
        if a column had one and the configuration has none: it may have been renamed.
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
            if self.apply(table) != table:
                raise UnloggedChange(
                    "the charset of a column in [source.values] is another one than that which its"
                    " rows were read with",
                    table=table.id,
                )

    def _column(self, table: TableId, column: Column) -> Column:
        holds = self._policies.of(table, column.name).charset
        source_type = parse_type(column.source_type)
        if column.type.kind != "text" or not holds:
            return column
        holds = "" if holds == source_type.charset else holds
        if holds == source_type.holds:
            return column
        text = str(msgspec.structs.replace(source_type, holds=holds))
        return msgspec.structs.replace(column, source_type=text)
