"""
What the statements of a log or of a schema dump say about tables, for a log without a server. Pure.

A server's catalog tells whether a name is a table or a view, whether a table has triggers, and the
default charset of a database. Without a server, only statements do. ``Definitions`` follows all of
them, also those on tables that the pipeline does not select. The tracked version of a followed
table is not used from here (``sources.mysql.binlog.tracking``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.change import SchemaChange
from engine.errors import SchemaError
from engine.schema import ForeignKey, Table, TableId
from sources.mysql.ddl.columns import Charset
from sources.mysql.ddl.databases import DatabaseCharsets
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import apply_statement
from sources.mysql.ddl.objects import (
    CreateDatabase,
    CreateRoutine,
    CreateTrigger,
    CreateView,
    DropRoutine,
    DropTrigger,
    DropViews,
    read_object,
)
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    DropDatabase,
    DropTables,
    RenameTables,
    RepairTables,
    Statement,
    read_statement,
)
from sources.mysql.ddl.stored_programs import Program, Programs

__all__ = ["Definitions"]

#: The servers' own schemas. Their tables have no triggers that change other tables.
_SYSTEM: Final = frozenset(("information_schema", "mysql", "performance_schema", "sys"))

_OF_TABLES: Final = (CreateTable, AlterTable, RenameTables, RepairTables, DropTables)


class Definitions:
    """The databases, tables, views and triggers that statements have created so far.

    ``check_case``: it is not known whether the server stored names in lower case.
    """

    def __init__(self, *, check_case: bool = False) -> None:
        self._check_case = check_case
        #: The base tables whose columns are known.
        self.tables: dict[TableId, Table] = {}
        #: The base tables whose columns are not known, and why.
        self._unknown: dict[TableId, SchemaError] = {}
        self.databases = DatabaseCharsets()
        #: Views, triggers and routines by kind and name.
        self._programs: dict[tuple[str, TableId], Program] = {}
        #: The databases whose tables, views and triggers are all defined here.
        self._complete: set[str] = set()
        #: Called with a name of such a database that is not defined, when a statement writes it.
        self.assume: Callable[[TableId], None] = lambda id: None

    def copy(self) -> Definitions:
        """The same definitions, which change on their own."""
        copy = Definitions(check_case=self._check_case)
        copy.tables = dict(self.tables)
        copy.databases = self.databases.copy()
        copy._unknown = dict(self._unknown)
        copy._programs = dict(self._programs)
        copy._complete = set(self._complete)
        copy.assume = self.assume
        return copy

    def complete(self, *, of_beginning: bool) -> None:
        """Take note that a schema dump is read. If it is ``of_beginning``, all tables, views and
        triggers that its databases have at the beginning of the log are defined.
        """
        ids = (*self.tables, *self._unknown, *(id for _, id in self._programs))
        self._complete = {id.schema for id in ids} if of_beginning else set()

    def foreign_keys(self) -> dict[TableId, tuple[ForeignKey, ...]]:
        """The foreign keys of the tables that have any."""
        return {id: it.foreign_keys for id, it in self.tables.items() if it.foreign_keys}

    def find(self, id: TableId) -> Table | None:
        """The definition of a table; None if no statement defines it.

        Raises SchemaError if one does, in a way from which its columns cannot be derived.
        """
        if id in self._unknown:
            raise self._unknown[id]
        return self.tables.get(id)

    def known(self, id: TableId) -> Table | None:
        """The definition of a table, if its columns are known."""
        return self.tables.get(id)

    def in_other_case(self, id: TableId) -> TableId | None:
        """A table that is this one if the server stores names in lower case, and that is not known
        by this name.
        """
        if not self._check_case or id in self.tables or id in self._unknown:
            return None
        if id != _lower(id):
            return None
        known = (*self.tables, *self._unknown)
        return next((other for other in known if _lower(other) == id), None)

    def is_known(self, id: TableId) -> bool:
        """Whether it is known what the name means: a table, with its triggers, or a view.

        A name that is not defined in a database that is means a table without triggers.
        """
        if id.schema.lower() in _SYSTEM:
            return True
        if id in self.tables or id in self._unknown or ("view", id) in self._programs:
            return True
        if id.schema in self._complete:
            self.assume(id)
        return id.schema in self._complete

    def programs(self) -> Programs:
        """The views, triggers and routines."""
        return Programs(self._programs.values())

    def follow(
        self,
        sql: str,
        schema: str,
        dialect: Dialect,
        server: Charset = Charset(),  # noqa: B008
        statement: Statement | None = None,
    ) -> None:
        """Follow a statement. ``server`` is the charset of a database that does not name one.

        ``statement``: as for ``apply_statement``.
        """
        statement = statement or read_statement(sql, schema, dialect)
        if isinstance(statement, DropDatabase):
            self._drop_database(statement.schema)
        if statement is None or isinstance(statement, DropDatabase):  # it may create another one
            self._follow_object(sql, schema, dialect, server)
        elif isinstance(statement, _OF_TABLES):
            self._follow_table(statement, sql, schema, dialect)

    def _follow_object(self, sql: str, schema: str, dialect: Dialect, server: Charset) -> None:
        match read_object(sql, schema, dialect):
            case CreateDatabase() as found:
                self.databases.follow(found, schema, server)
                if not (found.alters or found.if_not_exists):
                    self._complete.add(found.name)  # it is new, so it has nothing yet
            case CreateView(id, body):
                self._forget(id)
                program = Program("view", id, body, dialect=dialect, qualified=False)
                self._programs["view", id] = program
            case DropViews(ids):
                for id in ids:
                    self._forget(id)
            case CreateTrigger(id, table, body):
                self._programs["trigger", id] = Program("trigger", id, body, table, dialect)
            case DropTrigger(id):
                self._programs.pop(("trigger", id), None)
            case CreateRoutine(kind, id, body):
                self._programs[kind, id] = Program(kind, id, body, dialect=dialect)
            case DropRoutine(kind, id):
                self._programs.pop((kind, id), None)

    def _follow_table(self, statement: Statement, sql: str, schema: str, dialect: Dialect) -> None:
        self._move_unknown(statement)
        try:
            effects = apply_statement(
                sql,
                schema,
                self.tables,
                lambda id: True,
                default_charset=self.databases.find,
                dialect=dialect,
                empty=True,
                statement=statement,
            )
        except SchemaError as error:
            for id in statement.tables:
                if isinstance(statement, CreateTable) or id in self.tables:
                    self._forget(id)
                    self._unknown[id] = error
            return
        for effect in effects:
            if isinstance(effect, SchemaChange):
                if effect.before is not None:
                    del self.tables[effect.before.id]
                if effect.after is not None:
                    self._unknown.pop(effect.after.id, None)
                    self.tables[effect.after.id] = effect.after

    def _move_unknown(self, statement: Statement) -> None:
        """Follow the name of tables whose columns are not known, and of triggers' tables."""
        if isinstance(statement, DropTables):
            for id in statement.tables:
                self._unknown.pop(id, None)
                self._drop_triggers(id)
        elif isinstance(statement, CreateTable):
            if not statement.if_not_exists:
                self._forget(statement.tables[0])
        elif isinstance(statement, RenameTables):
            for old, new in statement.pairs:
                self._rename(old, new)
        elif isinstance(statement, AlterTable) and statement.change.name is not None:
            self._rename(statement.tables[0], statement.change.name)

    def _rename(self, old: TableId, new: TableId) -> None:
        if old in self._unknown:
            self._unknown[new] = self._unknown.pop(old)
        for key, program in self._programs.items():
            if program.on == old:
                self._programs[key] = program._replace(on=new)

    def _forget(self, id: TableId) -> None:
        self.tables.pop(id, None)
        self._unknown.pop(id, None)
        self._programs.pop(("view", id), None)

    def _drop_triggers(self, table: TableId) -> None:
        for key in [key for key, program in self._programs.items() if program.on == table]:
            del self._programs[key]

    def _drop_database(self, schema: str) -> None:
        for id in [id for id in (*self.tables, *self._unknown) if id.schema == schema]:
            self._forget(id)
            self._drop_triggers(id)
        for key in [key for key in self._programs if key[1].schema == schema]:
            del self._programs[key]
        self.databases.drop(schema)


def _lower(id: TableId) -> TableId:
    return TableId(id.schema.lower(), id.name.lower())
