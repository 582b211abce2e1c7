"""
The followed tables at the place of the log that is being read.

Idea: a table map is looked at once, and its decoder kept by the stream for all maps with the same
bytes. So nothing here is hot, and each map can be prepared against the version that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from engine.change import SchemaChange, Truncate
from engine.errors import SchemaError, TailraceError
from engine.schema import Table, TableId
from sources.mysql.binlog.events import Query, read_table_name, session_of, statement_text
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import TableMap, mismatch, parse_table_map, table_from_map
from sources.mysql.ddl import Dialect, apply_statement

__all__ = ["Tracking"]

_FULL_METADATA = (
    "SET GLOBAL binlog_row_metadata = FULL on the source, let its sessions reconnect, and copy the"
    " table again"
)


class Tracking:
    """Versions of tables, moved along by table maps and statements.

    ``wanted`` tells which tables are followed. ``adopt``: a wanted table that is not among
    ``tables`` is taken from its table map; else its rows are passed over, since no copy of it has
    begun. ``waiting``: see ``Source.stream``. ``live`` reads a table as it is now,
    ``default_charset`` is that of a schema; without them the log alone counts. ``fold_names``: the
    server stores names in lower case.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        wanted: Callable[[TableId], bool],
        *,
        adopt: bool = False,
        waiting: Iterable[Table] = (),
        live: Callable[[TableId], Table | None] | None = None,
        default_charset: Callable[[str], str] | None = None,
        fold_names: bool = False,
    ) -> None:
        self.tables = {table.id: table for table in tables}
        self.mariadb = False
        self._wanted = wanted
        self._adopt = adopt
        self._waiting = {table.id: table for table in waiting}
        self._live = live
        self._default_charset = default_charset
        self._fold_names = fold_names

    def meet(self, event: bytes, end: int) -> tuple[RowDecoder | None, SchemaChange | None]:
        """What decodes the rows after this table map (None: they are not followed), and how it has
        changed the table. Raises SchemaError, DecodeError.
        """
        id = TableId(*read_table_name(event, end))
        table = self.tables.get(id)
        if table is None and not (self._adopt and self._wanted(id)):
            return None, None
        try:
            map = parse_table_map(event, 19, end, mariadb=self.mariadb)
            change: SchemaChange | None
            if table is None:
                table, change = self._first_seen(map)
            else:
                table, change = self._checked(table, map)
            decoder = RowDecoder(table, map)
        except TailraceError as error:
            error.table = error.table or str(id)
            raise
        self.tables[id] = table
        return decoder, change

    def follow(self, query: Query) -> list[SchemaChange | Truncate]:
        """What a statement does to followed tables. Raises SchemaError if that cannot be known."""
        mode, charset = session_of(query.status)
        effects = apply_statement(
            statement_text(query.statement, charset),
            query.schema,
            self.tables,
            self._wanted,
            waiting=self._waiting,
            default_charset=self._default_charset,
            dialect=Dialect(self.mariadb, mode, self._fold_names),
        )
        for effect in effects:
            if isinstance(effect, SchemaChange):
                if effect.before is not None:
                    del self.tables[effect.before.id]
                if effect.after is not None:
                    self.tables[effect.after.id] = effect.after
        return effects

    def _first_seen(self, map: TableMap) -> tuple[Table, SchemaChange]:
        if map.names is None:
            raise SchemaError(
                "the log does not hold the names of the table's columns", hint=_FULL_METADATA
            )
        table = table_from_map(map, None)
        return table, SchemaChange("", None, table)

    def _checked(self, table: Table, map: TableMap) -> tuple[Table, SchemaChange | None]:
        """The version that the map describes, and the step to it from ``table``, if it is one."""
        reason = mismatch(table, map)
        if reason is None:
            return table, None
        if map.names is not None:
            after = table_from_map(map, table)
        else:
            after = self._from_catalog(table, map, reason)
        if _shape(after) == _shape(table):
            return msgspec.structs.replace(after, version=table.version), None
        return after, SchemaChange("", table, after)

    def _from_catalog(self, table: Table, map: TableMap, reason: str) -> Table:
        """The table as it is now, if the map does not contradict that either."""
        now = self._live(table.id) if self._live is not None else None
        if now is None or mismatch(now, map) is not None:
            raise SchemaError(
                f"the log's shape of the table is not the known one: {reason}", hint=_FULL_METADATA
            )
        return msgspec.structs.replace(now, version=table.version + 1)


def _shape(table: Table) -> object:
    """What a target sees of a table: all but the source's own type texts and defaults."""
    columns = [(column.name, column.type, column.nullable) for column in table.columns]
    return table.id, columns, table.key, table.indexes
