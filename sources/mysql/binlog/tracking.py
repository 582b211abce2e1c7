"""
The version of each followed table at the current place in the log.

The stream keeps the decoder of a table map for all later maps with the same bytes, so this module
sees each distinct map once. It is not hot, and can check each map against the tracked version.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from engine.change import SchemaChange
from engine.errors import SchemaError, TailraceError, UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import Partitions, Table, TableId
from sources.mysql.binlog.cascades import Decoder
from sources.mysql.binlog.events import Format, read_table_name
from sources.mysql.binlog.foreign_keys import ForeignKeys, Keys
from sources.mysql.binlog.passed_over import PassedOver
from sources.mysql.binlog.query_event import Query, Session, session_of, statement_text
from sources.mysql.binlog.temporary_tables import SessionId, TemporaryTables, without_temporary
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import (
    TableMap,
    mismatch,
    parse_table_map,
    same_charsets,
    table_from_map,
    with_charsets,
    without_charset,
)
from sources.mysql.ddl.columns import Charset
from sources.mysql.ddl.databases import DatabaseCharsets
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import Effect, ReadsAlone, apply_statement
from sources.mysql.ddl.masked import masked
from sources.mysql.ddl.objects import CreateDatabase, read_object
from sources.mysql.ddl.outcome import outcome
from sources.mysql.ddl.session_time import SessionTime
from sources.mysql.ddl.statements import (
    CreateTable,
    DropDatabase,
    RenameTables,
    Statement,
    read_statement,
)
from sources.mysql.ddl.stored_programs import Programs, may_change_programs, may_use_programs
from sources.mysql.merge_tables import MergeTables
from sources.mysql.overrides import Overrides

__all__ = ["Tracking"]

_ALTERED = f"leave sql_log_bin on in sessions that alter tables of the source; {BACKFILL}"
#: For a table of a log without a server.
_LEFT_OUT = (
    'the log does not hold the changed rows: add "TABLE" to exclude in [source], or copy it from a'
    " server that has it"
)
_UNNAMED = "the log does not contain the names of the table's columns, and no statement defines it"
_SCHEMA = "name a dump of its definition in [source] schema (mysqldump --no-data), or leave it out"
_CHANGED = (
    "the log lacks a change of the table, or a log file is missing: leave the table out, or copy it"
    " from a server that has it"
)
_OTHER_TIME = (
    "the schema dump describes the tables at the beginning of the first log file: correct the"
    " table's CREATE TABLE there to what it was then, or leave the table out"
)
_FUNCTION = (
    "name a dump with the function in [source] schema (mysqldump --no-data --routines), or a file"
    " with its CREATE FUNCTION"
)
_NOT_PLAIN = (
    "name a dump of its database in [source] schema, as it was at the beginning of the log"
    " (mysqldump --no-data), or a file with its CREATE TABLE if it has no triggers"
)


class _Parsed(NamedTuple):
    sql: str
    session: Session
    dialect: Dialect
    statement: Statement | None


class _Selected:
    """The tables for which a function is true, as a container."""

    def __init__(self, select: Callable[[TableId], bool]) -> None:
        self._select = select

    def __contains__(self, id: object) -> bool:
        return isinstance(id, TableId) and self._select(id)


class Tracking:
    """The tracked versions of tables. Table maps and statements change them.

    ``wanted`` says whether the configuration selects a table. ``definitions`` are for a log without
    a server: a selected table that is not among ``tables`` is followed from its first table map on,
    and what the log does not show of it comes from there; ``passed_over`` counts the rows of those
    that are ignored. With a server its rows are skipped,
    because its backfill has not begun. ``discovered``, ``ignored``: see ``Source.stream``. ``live``
    reads a table's definition as it is now, and ``databases`` has their default charsets.
    ``fold_names``: the server stores names in lower case. ``newest``: see ``TemporaryTables``.
    ``programs`` reads the stored programs of a server; the schemas are those of ``tables``.
    ``created`` is the time at which a table was created on it, None if it does not exist.
    ``invalid_text`` is for the decoders. ``foreign_keys`` reads those of all tables as they are
    now, and ``native_foreign_keys`` says whether the server has them executed by InnoDB; ``engine``
    is the storage engine that a table has now. ``merged`` are the server's MERGE tables.
    ``partitions``: see ``ForeignKeys``; ``reads_alone``: see ``apply_statement``.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        wanted: Callable[[TableId], bool],
        *,
        definitions: Definitions | None = None,
        passed_over: PassedOver | None = None,
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
        live: Callable[[TableId], Table | None] | None = None,
        databases: DatabaseCharsets | None = None,
        fold_names: bool = False,
        newest: SessionId | None = None,
        programs: Callable[[Iterable[str]], Programs] | None = None,
        created: Callable[[TableId], int | None] | None = None,
        convert_time: Callable[[int, str, str, str], str | None] | None = None,
        invalid_text: InvalidText | None = None,
        overrides: Overrides | None = None,
        foreign_keys: Callable[[], Keys] | None = None,
        native_foreign_keys: bool = False,
        engine: Callable[[TableId], str | None] | None = None,
        merged: MergeTables | None = None,
        partitions: Mapping[TableId, Partitions] | None = None,
        reads_alone: ReadsAlone | None = None,
    ) -> None:
        self._merged = merged or MergeTables()
        self._invalid_text = invalid_text
        self.tables = {table.id: table for table in tables}
        self._overrides = overrides
        self.mariadb = False
        self._mysql: tuple[int, ...] = ()
        self._format: Format | None = None
        self._temporary = TemporaryTables(newest)
        self._read_programs = programs
        self._created = created
        self._convert_time = convert_time
        self._reads_alone = reads_alone
        self._programs: Programs | None = None
        self._ignored = frozenset(ignored)
        self._selected = wanted
        self._definitions = definitions
        self.passed_over = PassedOver() if passed_over is None else passed_over
        self._discovered = {table.id: table for table in discovered}
        self._live = live
        self._databases = databases or DatabaseCharsets()
        if definitions is not None:
            self._databases = definitions.databases
            self._read_programs = lambda schemas: definitions.programs()
            foreign_keys = definitions.foreign_keys
        self._fold_names = fold_names
        self._native_foreign_keys = native_foreign_keys
        #: By the bytes of a table map, as long as nothing has changed what they depend on.
        self.decoders: dict[bytes, Decoder | None] = {}
        keys = ForeignKeys(self.tables, foreign_keys, self.decoders, engine, partitions)
        self.foreign_keys = keys

    def use(self, format: Format) -> None:
        """Take the format of the log that follows."""
        # A server may start a dump in the middle of a file with the format of its first event.
        if format.created and (self._format is not None or self._definitions is not None):
            self._temporary.restart(format.server)
        self.mariadb = format.mariadb
        self._mysql = () if self.mariadb else format.version
        self._format = format
        logged = not format.mariadb and format.version >= (9, 6) and not self._native_foreign_keys
        self.foreign_keys.unlogged = not logged

    def follows(self, id: TableId) -> bool:
        """Whether the rows of a table are read."""
        return id in self.tables or (self._definitions is not None and self._is_wanted(id))

    def reads(self, id: TableId) -> bool:
        """Whether the rows of a table are read, be it for other tables."""
        return self.follows(id) or id in self.foreign_keys.ancestors()

    def meet(self, event: bytes, end: int) -> tuple[Decoder | None, SchemaChange | None]:
        """The decoder for the rows after this table map, and the change that creates its table, if
        the map is the first that is known of it.

        The decoder is None if the table is not followed and no parent of followed tables. Raises
        UnloggedChange if the table cannot be decoded as it is known, and DecodeError.
        """
        id = TableId(*read_table_name(event, end))
        table = self.tables.get(id)
        self._merged.check(id, self.tables, "is changed")
        if table is None and not (self._definitions and self._is_wanted(id)):
            if id in self._ignored and self._definitions is not None:
                self.passed_over.meet(event, end)
            return self.foreign_keys.decoder(id, event, end, self.mariadb, self._live), None
        try:
            map = parse_table_map(event, 19, end, mariadb=self.mariadb)
            map = msgspec.structs.replace(map, mysql=self._mysql)
            change: SchemaChange | None
            if table is None:
                table, change = self._first_seen(map)
            else:
                table, change = self._checked(table, map), None
            if self._overrides is not None:
                table = self._overrides.apply(table)
                change = change and msgspec.structs.replace(change, after=table)
            decoder = RowDecoder(table, map, self._invalid_text)
        except SchemaError as error:
            raise UnloggedChange(error.message, hint=error.hint, table=id) from error
        except TailraceError as error:
            error.table = error.table or str(id)
            raise
        self.tables[id] = table
        if change is not None:
            self.foreign_keys.changed(others=True)
        if (parent := self.foreign_keys.parent(table, followed=True)) is not None:
            decoder.derive = parent.derive
        return decoder, change

    def follow(self, query: Query) -> list[Effect]:
        """The effects of a statement on followed tables.

        Raises UnloggedChange if they cannot be derived from its text. Errors have the statement.
        """
        parsed = self._parse(query)
        try:
            return self._follow(parsed, query)
        except TailraceError as error:
            error.statement = error.statement or masked(parsed.sql)
            raise

    def _follow(self, parsed: _Parsed, query: Query) -> list[Effect]:
        statement = parsed.statement
        if self._read_programs is not None:
            self._check_programs(parsed, query.schema, statement)
        if statement is not None and (statement := self._real(statement, query)) is None:
            return []
        if self._merged.follow(
            *(statement, parsed.sql, query.schema, parsed.dialect, self.tables), self._is_wanted
        ):
            self.decoders.clear()
        if isinstance(statement, RenameTables) and self._created is not None and self.mariadb:
            statement = without_temporary(
                *(statement, query.timestamp, self._created, self._selected, self.tables)
            )
        if statement is not None and self._is_deferred(statement):
            return self._define(parsed, query, statement)
        effects = apply_statement(
            parsed.sql,
            query.schema,
            self.tables,
            self._is_wanted,
            discovered=self._definitions.tables if self._definitions else self._discovered,
            ignored=self._ignored,
            default_charset=self._databases.find,
            dialect=parsed.dialect,
            check_write=self._check_write,
            statement=statement,
            reads_alone=self._reads_alone,
        )
        self._define(parsed, query, statement)
        if self._overrides is not None:
            effects = list(map(self._overrides.follow, effects))
        effects = self.foreign_keys.follow(statement, effects, parsed.dialect)
        for effect in effects:
            if isinstance(effect, SchemaChange):
                if effect.before is not None:
                    self.tables.pop(effect.before.id, None)
                if effect.after is not None:
                    self.tables[effect.after.id] = effect.after
        return effects

    def _is_deferred(self, statement: Statement) -> bool:
        """Whether a table is created whose columns only its first table map can tell."""
        return (
            self._definitions is not None
            and isinstance(statement, CreateTable)
            and statement.like is not None
            and statement.like not in self.tables
            and statement.like not in self._definitions.tables
        )

    def _define(self, parsed: _Parsed, query: Query, statement: Statement | None) -> list[Effect]:
        """Change the definitions, which has no effect on followed tables."""
        if self._definitions is not None:
            server = Charset(parsed.session.server_charset)
            self._definitions.follow(parsed.sql, query.schema, parsed.dialect, server, statement)
        else:
            self._follow_database(parsed, query)
        return []

    def _is_wanted(self, id: TableId) -> bool:
        return id not in self._ignored and self._selected(id)

    def reach_catalog(self) -> None:
        """Take note that the log is read up to the place where ``databases`` was read."""
        self._databases.reach_catalog()

    def _follow_database(self, parsed: _Parsed, query: Query) -> None:
        if parsed.statement is not None:
            if not isinstance(parsed.statement, DropDatabase):
                return
            self._databases.drop(parsed.statement.schema)
        statement = None if query.error else read_object(parsed.sql, query.schema, parsed.dialect)
        if isinstance(statement, CreateDatabase):
            server = Charset(parsed.session.server_charset)
            self._databases.follow(statement, query.schema, server)

    def pass_over(self, query: Query) -> None:
        """Take note of a statement whose effects the start position includes."""
        if query.thread_specific or self._temporary or self._definitions is not None:
            parsed = self._parse(query)
            statement = parsed.statement
            if statement is None or (statement := self._real(statement, query)) is not None:
                self._define(parsed, query, statement)

    def _parse(self, query: Query) -> _Parsed:
        session = session_of(query, self._format or Format("", False))
        sql = statement_text(query.statement, session.charset)
        dialect = Dialect(
            self.mariadb,
            session.sql_mode,
            self._fold_names,
            session.explicit_defaults_for_timestamp,
            SessionTime(query.timestamp, session.microseconds, session.time_zone, self._convert),
            self._has_inline_references(),
            not self.mariadb and (5, 6, 6) <= self._version < (8,),
        )
        return _Parsed(sql, session, dialect, read_statement(sql, query.schema, dialect))

    def _convert(self, text: str, of: str, to: str) -> str | None:
        """As ``ConvertTime``: the server runs since the current log file was begun, or longer."""
        if self._convert_time is None or self._format is None:
            return None
        return self._convert_time(self._format.begun, text, of, to)

    def _has_inline_references(self) -> bool:
        return not self._version or self._version >= ((10, 5) if self.mariadb else (9,))

    @property
    def _version(self) -> tuple[int, ...]:
        return () if self._format is None else self._format.version

    def _real(self, statement: Statement, query: Query) -> Statement | None:
        """What the statement has done to real tables; None if nothing."""
        return self._temporary.real(
            outcome(statement, query.error),
            SessionId(query.server, query.thread),
            flagged=query.thread_specific,
            mariadb=self.mariadb,
        )

    def _check_programs(self, parsed: _Parsed, schema: str, statement: Statement | None) -> None:
        """Refuse a statement that may change a followed table through a view, trigger or function.

        Raises UnloggedChange, and SourceError if the user may not see what the statement does.
        """
        verb = parsed.dialect.tokens(parsed.sql).peek().word
        if may_change_programs(verb, statement):
            self._programs = None
        if not may_use_programs(verb, statement):
            return
        if self._programs is None and self._read_programs is not None:
            self._programs = self._read_programs({id.schema for id in self.tables})
        if self._programs is None:
            return
        followed = self.tables if self._definitions is None else _Selected(self._is_wanted)
        self._programs.check(parsed.sql, schema, statement, followed, dialect=parsed.dialect)
        if self._definitions is not None:
            tables = statement.tables if statement is not None else ()
            calls = self._programs.unknown_calls(parsed.sql, schema, tables, parsed.dialect)
            if calls:
                raise SchemaError(
                    f"{verb} was logged as a statement that calls the stored function {calls[0]},"
                    " which may change selected tables",
                    hint=_FUNCTION,
                )

    def _check_write(self, kind: str, tables: tuple[TableId, ...]) -> None:
        """Refuse DML in statement format that may change a selected table (``CheckWrite``).

        Without a server, the log or the schema dump must tell what each name means.
        """
        definitions = self._definitions
        if definitions is None:
            return
        if not tables:
            reason = "was logged as a statement that cannot be read"
            raise SchemaError(f"{kind} {reason}", hint=_LEFT_OUT)
        for id in tables:
            if self._is_wanted(id):
                reason = f"{kind} was logged as a statement, not as rows"
                if not definitions.is_known(id):
                    reason += "; other tables differ too if it has triggers that change them"
                raise UnloggedChange(reason, hint=_LEFT_OUT, table=id)
        for id in tables:
            if id not in self._ignored and not definitions.is_known(id):
                reason = "was logged as a statement, and its table may be a view or have triggers"
                raise SchemaError(f"{kind} {reason}", hint=_NOT_PLAIN, table=id)

    def _first_seen(self, map: TableMap) -> tuple[Table, SchemaChange]:
        """The version that the map and the definitions describe, for a log without a server."""
        assert self._definitions is not None
        id = TableId(map.schema, map.name)
        if (other := self._definitions.in_other_case(id)) is not None:
            raise SchemaError(
                f"the log has the table's name in lower case, and a statement has it as {other}",
                hint="set lower_case_table_names = 1 in [source] if the server had it, else 0",
            )
        if map.names is not None:
            table = table_from_map(map, self._definitions.known(id))
        else:
            defined = self._definitions.find(id)
            if defined is None:
                raise SchemaError(_UNNAMED, hint=_SCHEMA)
            table = self._with_charsets(defined, map)
            if (reason := mismatch(table, map)) is not None:
                raise SchemaError(
                    f"the table's definition differs from the log: {reason}", hint=_OTHER_TIME
                )
        table = msgspec.structs.replace(table, version=1)
        return table, SchemaChange("", None, table)

    def _with_charsets(self, table: Table, map: TableMap) -> Table:
        """The table with the charsets that the map has. Without a server, all are known then."""
        table = with_charsets(table, map)
        if self._definitions is not None and map.names is None:
            if self._overrides is not None:
                table = self._overrides.complete(table)
            _require_charsets(table)
        return table

    def _checked(self, table: Table, map: TableMap) -> Table:
        """The version that the map describes. Raises SchemaError if it has another shape.

        The statement that has made the difference is not in the log. What it did to existing rows,
        such as the default that they got in a new column, is not known.
        """
        table = self._with_charsets(table, map)
        reason = mismatch(table, map)
        if reason is None:
            return table
        if map.names is not None:
            after: Table | None = table_from_map(map, table)
        else:
            after = self._from_catalog(table, map)
        if after is None or _shape(after) != _shape(table):
            raise SchemaError(
                f"the table in the log differs from its tracked version: {reason}",
                hint=_ALTERED if self._definitions is None else _CHANGED,
            )
        return msgspec.structs.replace(after, version=table.version)

    def _from_catalog(self, table: Table, map: TableMap) -> Table | None:
        """The table as it is now, if its definition matches the map."""
        now = self._live(table.id) if self._live is not None else None
        # Without charsets in the map, nothing shows that the catalog's are those of this version.
        certain = map.charsets is not None or (now is not None and same_charsets(now, table))
        return None if now is None or mismatch(now, map) is not None or not certain else now


def _require_charsets(table: Table) -> None:
    """Refuse a table if the values of a column need a charset that is not known."""
    column = without_charset(table)
    if column is not None:
        database = table.id.schema
        raise SchemaError(
            f"the charset of the column {column} is not known: it is the default charset of the"
            f" database {database}, which the log does not contain",
            hint=f"write CREATE DATABASE {database} CHARACTER SET and its charset into a file, and"
            " name the file in [source] schema; or set charset in [source.values]",
        )


def _shape(table: Table) -> object:
    """The parts of a table that matter to a target: all but its source types and defaults."""
    columns = [(column.name, column.type, column.nullable) for column in table.columns]
    return table.id, columns, table.key, table.indexes
