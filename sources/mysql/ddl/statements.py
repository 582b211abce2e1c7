"""
The parser for logged statements that can change tables. Pure.

A statement that cannot be parsed is not an error here, because it may touch no followed table. It
then has a ``problem``, or no tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from engine.schema import TableId
from sources.mysql.ddl.clauses import Alteration, read_alteration
from sources.mysql.ddl.columns import (
    Charset,
    ColumnDefinition,
    read_charset,
    read_column,
    with_row_times,
)
from sources.mysql.ddl.dialect import Dialect, read_table_name, skip_set_statement
from sources.mysql.ddl.foreign_keys import has_foreign_keys
from sources.mysql.ddl.keys import KeyDefinition, at_key, read_index, read_key
from sources.mysql.ddl.partitions import PartitionChange, read_partition_change
from sources.mysql.ddl.tokens import Tokens, Unreadable

__all__ = [
    "AlterTable",
    "CreateTable",
    "CreateTemporary",
    "DropDatabase",
    "DropTables",
    "DropTemporary",
    "EmptyTable",
    "RenameTables",
    "RepairTables",
    "Statement",
    "WriteRows",
    "adds_foreign_keys",
    "changes_foreign_keys",
    "engine_is_certain",
    "read_statement",
]

_HARMLESS: Final = (
    frozenset(("BEGIN", "BINLOG", "CACHE", "CALL", "CHANGE", "CHECK", "CHECKSUM"))
    | frozenset(("COMMIT", "DEALLOCATE", "DO", "END", "EXECUTE", "FLUSH", "GRANT", "INSTALL"))
    | frozenset(("KILL", "LOCK", "PREPARE", "PURGE", "RELEASE", "RESET"))
    | frozenset(("REVOKE", "ROLLBACK", "SAVEPOINT", "SELECT", "SET", "SHOW", "START", "STOP"))
    | frozenset(("UNINSTALL", "UNLOCK", "USE", "XA"))
)
_DATABASE: Final = frozenset(("DATABASE", "SCHEMA"))
_QUERY: Final = frozenset(("SELECT", "AS", "IGNORE", "REPLACE", "WITH", "VALUES", "TABLE", "("))
_WRITE_OPTIONS: Final = frozenset(
    ("LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE", "INTO")
)


class Statement(msgspec.Struct, frozen=True):
    """A statement that may change the rows or the definition of tables.

    ``kind`` is its first words, such as ``ALTER TABLE``. ``tables`` are all tables that it changes;
    an unknown statement has none. ``problem`` says why its effects on them are unknown; it is empty
    if they are known.
    """

    kind: str
    tables: tuple[TableId, ...] = ()
    problem: str = ""


class CreateTable(Statement, frozen=True):
    """CREATE TABLE."""

    if_not_exists: bool = False
    or_replace: bool = False
    like: TableId | None = None
    columns: tuple[ColumnDefinition, ...] = ()
    keys: tuple[KeyDefinition, ...] = ()
    charset: Charset = Charset()
    partitions: PartitionChange | None = None
    engine: str = ""


class CreateTemporary(Statement, frozen=True):
    """CREATE TEMPORARY TABLE."""


class DropTemporary(Statement, frozen=True):
    """DROP TEMPORARY TABLE."""


class AlterTable(Statement, frozen=True):
    """ALTER TABLE. It alters the first of ``tables``; the others are its new name, or lose rows."""

    change: Alteration = msgspec.field(default_factory=Alteration)
    ignore: bool = False


class RenameTables(Statement, frozen=True):
    """RENAME TABLE: ``pairs`` of old and new names, in the order of the statement."""

    pairs: tuple[tuple[TableId, TableId], ...] = ()
    if_exists: bool = False


class DropTables(Statement, frozen=True):
    """DROP TABLE: those of ``tables`` that exist are dropped."""


class DropDatabase(Statement, frozen=True):
    """DROP DATABASE, or CREATE OR REPLACE DATABASE: all tables of ``schema`` are dropped."""

    schema: str = ""


class EmptyTable(Statement, frozen=True):
    """TRUNCATE, or a DELETE of all rows: all rows of ``tables`` are removed."""


class RepairTables(Statement, frozen=True):
    """OPTIMIZE or REPAIR TABLE, on a server that converts columns by it."""


class WriteRows(Statement, frozen=True):
    """DML that is logged as a statement."""


def adds_foreign_keys(statement: CreateTable | AlterTable) -> bool:
    """Whether the statement defines foreign keys."""
    if isinstance(statement, CreateTable):
        keys = [*statement.keys, *(key for each in statement.columns for key in each.keys)]
    else:
        columns = statement.change.columns
        keys = [*statement.change.keys, *(it for each in columns for it in each.definition.keys)]
    return any(key.kind == "foreign" for key in keys)


def changes_foreign_keys(statement: CreateTable | AlterTable) -> bool:
    """Whether the statement adds, drops or moves foreign keys."""
    if adds_foreign_keys(statement) or isinstance(statement, CreateTable):
        return adds_foreign_keys(statement)
    change = statement.change
    return bool(
        change.name is not None
        or change.dropped_foreign_keys
        or change.dropped_constraints
        or not has_foreign_keys(change.engine)
    )


def engine_is_certain(statement: CreateTable | AlterTable, dialect: Dialect) -> bool:
    """Whether the table has the storage engine that the statement names.

    Without the SQL mode NO_ENGINE_SUBSTITUTION the server may have taken another one.
    """
    named = statement.engine if isinstance(statement, CreateTable) else statement.change.engine
    return bool(named) and dialect.keeps_engine


def read_statement(sql: str, schema: str, dialect: Dialect = Dialect()) -> Statement | None:  # noqa: B008
    """Parse a statement. None if it cannot change the rows or the definition of a table.

    ``schema`` is the session's default database. Never raises an error.
    """
    tokens = dialect.tokens(sql)
    parsed_before = skip_set_statement(tokens)
    verb = tokens.peek().word
    if tokens.ended or verb in _HARMLESS:
        return None
    read = _READERS.get(verb)
    if read is None:
        return Statement(verb)
    tokens.next()
    try:
        statement = read(_Context(tokens, schema, dialect, verb))
    except Unreadable:
        return Statement(verb)
    if parsed_before and isinstance(statement, CreateTable | AlterTable):
        problem = statement.problem or "was parsed with an SQL mode that the log does not show"
        return msgspec.structs.replace(statement, problem=problem)
    return statement


class _Context(msgspec.Struct, frozen=True):
    """The input of each parser: the tokens after the verb, and the context of names."""

    tokens: Tokens
    schema: str
    dialect: Dialect
    verb: str

    def table(self) -> TableId:
        """Take a table name."""
        return read_table_name(self.tokens, self.schema, self.dialect)

    def database(self) -> str:
        """Take the name of a database."""
        name = self.tokens.name()
        return name.lower() if self.dialect.fold_names else name

    def tables(self) -> tuple[TableId, ...]:
        """Take a comma-separated list of table names."""
        found = [self.table()]
        while self.tokens.take(","):
            found.append(self.table())
        return tuple(found)


def _read_repair(context: _Context) -> Statement | None:
    if not context.dialect.converts_years:
        return None
    context.tokens.take_any(frozenset(("LOCAL", "NO_WRITE_TO_BINLOG")))
    context.tokens.expect("TABLE")
    return RepairTables(f"{context.verb} TABLE", context.tables())


def _read_create(context: _Context) -> Statement | None:
    tokens = context.tokens
    or_replace = tokens.take("OR", "REPLACE")
    if tokens.take("TEMPORARY"):
        if not tokens.take("SEQUENCE"):
            tokens.expect("TABLE")
        tokens.take("IF", "NOT", "EXISTS")
        return CreateTemporary("CREATE TEMPORARY TABLE", (context.table(),))
    if tokens.take("TABLE"):
        return _read_create_table(context, or_replace)
    if or_replace and tokens.take_any(_DATABASE):
        return DropDatabase("CREATE OR REPLACE DATABASE", schema=context.database())
    tokens.take("ONLINE") or tokens.take("OFFLINE")
    unique = tokens.take("UNIQUE")
    other = tokens.take_any(frozenset(("FULLTEXT", "SPATIAL", "VECTOR")))
    if not tokens.take("INDEX"):
        return None  # a view, a user …
    if_not_exists = tokens.take("IF", "NOT", "EXISTS")
    name = tokens.name()
    if tokens.take_any(frozenset(("USING", "TYPE"))):
        tokens.name()
    tokens.expect("ON")
    id = context.table()
    kind = "CREATE INDEX"
    try:
        key = read_index(tokens, name, unique=unique, tracked=not other)
    except Unreadable as error:
        return AlterTable(kind, (id,), problem=str(error))
    keys = [msgspec.structs.replace(key, if_not_exists=if_not_exists)]
    dropped = [name] if or_replace else []
    return AlterTable(kind, (id,), change=Alteration(keys=keys, dropped_keys=dropped))


def _read_create_table(context: _Context, or_replace: bool) -> Statement | None:
    tokens = context.tokens
    if_not_exists = tokens.take("IF", "NOT", "EXISTS")
    found = CreateTable(
        "CREATE TABLE",
        (context.table(),),
        if_not_exists=if_not_exists,
        or_replace=or_replace,
    )
    try:
        return _read_body(context, found)
    except Unreadable as error:
        return msgspec.structs.replace(found, problem=str(error))


def _read_body(context: _Context, found: CreateTable) -> Statement | None:
    tokens = context.tokens
    if tokens.take("LIKE") or tokens.take("(", "LIKE"):
        return msgspec.structs.replace(found, like=context.table())
    query = tokens.at("(", "SELECT") or tokens.at("(", "WITH") or tokens.at("(", "(")
    columns: list[ColumnDefinition] = []
    keys: list[KeyDefinition] = []
    if not query and tokens.take("("):
        _read_definitions(context, columns, keys)
    charset, problem = Charset(), "" if columns else "does not define the columns"
    engine, versioned = "", False
    while not (tokens.ended or tokens.at("PARTITION", "BY")):
        if tokens.at("SEQUENCE"):
            return None
        if tokens.take("WITH", "SYSTEM", "VERSIONING"):
            versioned = True
            continue
        if tokens.at_any(_QUERY):
            problem = "takes columns from a query"
            break
        if tokens.at("ENGINE") or tokens.at("TYPE"):
            engine = tokens.peek(2 if tokens.peek(1).word == "=" else 1).text.lower()
        charset = _read_option(tokens).over(charset)
    return msgspec.structs.replace(
        found,
        columns=tuple(with_row_times(columns) if versioned else columns),
        keys=tuple(keys),
        charset=charset,
        problem=problem,
        engine=engine,
        partitions=read_partition_change(tokens) if tokens.at("PARTITION", "BY") else None,
    )


def _read_definitions(
    context: _Context, columns: list[ColumnDefinition], keys: list[KeyDefinition]
) -> None:
    tokens = context.tokens
    while True:
        if at_key(tokens):
            key = read_key(tokens, context.dialect)
            if key is not None:
                keys.append(key)
        else:
            columns.append(read_column(tokens, tokens.name(), context.dialect))
        if tokens.take(")"):
            return
        tokens.expect(",")


def _read_option(tokens: Tokens) -> Charset:
    """Take one table option. Return the charset that it sets."""
    if tokens.take("DEFAULT") or tokens.take(","):
        return Charset()
    charset = read_charset(tokens)
    if charset is not None:
        return charset
    tokens.next()
    if tokens.take("="):
        tokens.skip()
    elif tokens.at("("):
        tokens.group()
    return Charset()


def _read_alter(context: _Context) -> Statement | None:
    tokens = context.tokens
    ignore = False
    while word := tokens.take_any(frozenset(("ONLINE", "OFFLINE", "IGNORE"))):
        ignore = ignore or word == "IGNORE"
    if not tokens.take("TABLE"):
        return None
    tokens.take("IF", "EXISTS")
    id = context.table()
    kind = "ALTER TABLE"
    try:
        change = read_alteration(tokens, context.schema, context.dialect)
    except Unreadable as error:
        return AlterTable(kind, (id,), problem=str(error))
    renamed = () if change.name is None else (change.name,)
    return AlterTable(kind, (id, *renamed, *change.others), change=change, ignore=ignore)


def _read_drop(context: _Context) -> Statement | None:
    tokens = context.tokens
    if tokens.take("TEMPORARY"):
        tokens.next()  # TABLE, TABLES or SEQUENCE
        tokens.take("IF", "EXISTS")
        return DropTemporary("DROP TEMPORARY TABLE", context.tables())
    if tokens.take_any(frozenset(("TABLE", "TABLES"))):
        tokens.take("IF", "EXISTS")
        return DropTables("DROP TABLE", context.tables())
    if tokens.take_any(_DATABASE):
        tokens.take("IF", "EXISTS")
        return DropDatabase("DROP DATABASE", schema=context.database())
    tokens.take("ONLINE") or tokens.take("OFFLINE")
    if not tokens.take("INDEX"):
        return None
    tokens.take("IF", "EXISTS")
    name = tokens.name()
    tokens.expect("ON")
    return AlterTable("DROP INDEX", (context.table(),), change=Alteration(dropped_keys=[name]))


def _read_rename(context: _Context) -> Statement | None:
    tokens = context.tokens
    if not tokens.take_any(frozenset(("TABLE", "TABLES"))):
        return None
    if_exists = tokens.take("IF", "EXISTS")
    pairs: list[tuple[TableId, TableId]] = []
    while True:
        old = context.table()
        if not tokens.take("NOWAIT") and tokens.take("WAIT"):
            tokens.integer()
        tokens.expect("TO")
        pairs.append((old, context.table()))
        if not tokens.take(","):
            break
    ids = tuple(id for pair in pairs for id in pair)
    return RenameTables("RENAME TABLE", ids, pairs=tuple(pairs), if_exists=if_exists)


def _read_truncate(context: _Context) -> Statement | None:
    context.tokens.take("TABLE")
    return EmptyTable("TRUNCATE TABLE", (context.table(),))


def _read_insert(context: _Context) -> Statement | None:
    _skip_write_options(context.tokens)
    return WriteRows(context.verb, (context.table(),))


def _read_update(context: _Context) -> Statement | None:
    _skip_write_options(context.tokens)
    return WriteRows(context.verb, _read_references(context, frozenset(("SET",))))


def _read_delete(context: _Context) -> Statement | None:
    tokens = context.tokens
    _skip_write_options(tokens)
    listed = not tokens.take("FROM")
    ids: tuple[TableId, ...] = (_read_reference(context),)
    if tokens.ended and not listed:  # logged when a MEMORY table is emptied after a restart
        return EmptyTable(context.verb, ids)
    ids += _read_references(context, frozenset(("FROM", "USING", "WHERE")), expected=False)
    if tokens.take("FROM") or tokens.take("USING"):
        ids += _read_references(context, frozenset(("WHERE",)))
    return WriteRows(context.verb, ids)


def _read_load(context: _Context) -> Statement | None:
    tokens = context.tokens
    if tokens.at("INDEX"):
        return None
    while not tokens.ended:
        if tokens.take("INTO", "TABLE"):
            return WriteRows("LOAD DATA", (context.table(),))
        tokens.next()
    return Statement(context.verb)


def _read_inner(context: _Context) -> Statement | None:
    """The DML after common table expressions, or that MariaDB's ANALYZE executes."""
    tokens = context.tokens
    while not tokens.ended:
        verb = tokens.peek().word
        if verb in ("UPDATE", "DELETE", "INSERT", "REPLACE"):
            tokens.next()
            read = _READERS[verb]
            return read(_Context(tokens, context.schema, context.dialect, verb))
        if verb in ("SELECT", "TABLE") or (verb == "TABLES" and context.verb == "ANALYZE"):
            return None
        tokens.skip()
    return Statement(context.verb)


def _skip_write_options(tokens: Tokens) -> None:
    while tokens.take_any(_WRITE_OPTIONS):
        pass


def _read_references(
    context: _Context, ends: frozenset[str], *, expected: bool = True
) -> tuple[TableId, ...]:
    """Take the tables of a list with commas and joins, up to one of the words in ``ends``.

    ``expected`` says whether the list starts with a table.
    """
    tokens = context.tokens
    found: list[TableId] = []
    while not (tokens.ended or tokens.at_any(ends)):
        if tokens.at("(", "SELECT") or (tokens.at("(") and not expected):
            tokens.group()
            expected = False
        elif expected:
            if not tokens.take("(") and not tokens.take("LATERAL"):
                found.append(_read_reference(context))
                expected = False
        else:
            word = tokens.next().word
            expected = word in (",", "JOIN", "STRAIGHT_JOIN")
    return tuple(found)


def _read_reference(context: _Context) -> TableId:
    """Take ``[schema.]name[.*]``."""
    tokens = context.tokens
    if tokens.peek(1).word == "." and tokens.peek(2).word == "*":
        id = TableId(context.schema, tokens.name())
    else:
        id = context.table()
    if tokens.take(".") and not tokens.take("*"):
        raise tokens.unreadable()
    return id


_READERS: Final[Mapping[str, Callable[[_Context], Statement | None]]] = {
    "CREATE": _read_create,
    "ALTER": _read_alter,
    "DROP": _read_drop,
    "RENAME": _read_rename,
    "OPTIMIZE": _read_repair,
    "REPAIR": _read_repair,
    "TRUNCATE": _read_truncate,
    "INSERT": _read_insert,
    "REPLACE": _read_insert,
    "UPDATE": _read_update,
    "DELETE": _read_delete,
    "LOAD": _read_load,
    **dict.fromkeys(("ANALYZE", "WITH"), _read_inner),
}
