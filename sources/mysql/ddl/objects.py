"""
The parser for statements that create, change or drop databases, views, triggers and routines. Pure.

A followed table never depends on them directly. A log without a server's catalog does: a database
has the default charset of its tables, and a statement on a view or on a table with triggers, or
that calls a function, changes other tables (``definitions``).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from engine.schema import TableId
from sources.mysql.ddl.columns import Charset, read_charset
from sources.mysql.ddl.dialect import Dialect, read_table_name
from sources.mysql.ddl.tokens import Tokens, Unreadable

__all__ = [
    "CreateDatabase",
    "CreateRoutine",
    "CreateTrigger",
    "CreateView",
    "DatabaseObject",
    "DropRoutine",
    "DropTrigger",
    "DropViews",
    "read_object",
]

_DATABASE: Final = frozenset(("DATABASE", "SCHEMA"))
_PROGRAMS: Final = frozenset(("VIEW", "TRIGGER", "FUNCTION", "PROCEDURE"))
#: The most words between CREATE and the kind of a program: ALGORITHM, DEFINER and SQL SECURITY.
_MOST_OPTIONS: Final = 24


class CreateDatabase(msgspec.Struct, frozen=True):
    """CREATE DATABASE, or ALTER DATABASE with ``alters``. ``charset`` is empty if it is not named.

    ``name`` is empty for an ALTER DATABASE of the session's default database.
    """

    name: str
    charset: Charset = Charset()
    alters: bool = False
    if_not_exists: bool = False


class CreateView(msgspec.Struct, frozen=True):
    """CREATE VIEW, or ALTER VIEW. ``body`` is its query."""

    id: TableId
    body: str


class DropViews(msgspec.Struct, frozen=True):
    """DROP VIEW."""

    ids: tuple[TableId, ...]


class CreateTrigger(msgspec.Struct, frozen=True):
    """CREATE TRIGGER ``id`` on ``table``."""

    id: TableId
    table: TableId
    body: str


class DropTrigger(msgspec.Struct, frozen=True):
    """DROP TRIGGER."""

    id: TableId


class CreateRoutine(msgspec.Struct, frozen=True):
    """CREATE FUNCTION or PROCEDURE. ``body`` starts with its parameters."""

    kind: Literal["function", "procedure"]
    id: TableId
    body: str


class DropRoutine(msgspec.Struct, frozen=True):
    """DROP FUNCTION or PROCEDURE."""

    kind: Literal["function", "procedure"]
    id: TableId


DatabaseObject = (
    CreateDatabase
    | CreateView
    | DropViews
    | CreateTrigger
    | DropTrigger
    | CreateRoutine
    | DropRoutine
)


def read_object(sql: str, schema: str, dialect: Dialect) -> DatabaseObject | None:
    """Parse a statement. None if it is another one, or cannot be read. Never raises an error."""
    tokens = dialect.tokens(sql)
    try:
        if tokens.take("CREATE"):
            return _read_create(tokens, schema, dialect)
        if tokens.take("ALTER"):
            return _read_alter(tokens, schema, dialect)
        if tokens.take("DROP"):
            return _read_drop(tokens, schema, dialect)
    except Unreadable:
        pass
    return None


def _read_create(tokens: Tokens, schema: str, dialect: Dialect) -> DatabaseObject | None:
    tokens.take("OR", "REPLACE")
    if tokens.take_any(_DATABASE):
        exists = tokens.take("IF", "NOT", "EXISTS")
        return CreateDatabase(_name(tokens, dialect), _charset(tokens), if_not_exists=exists)
    kind = _skip_options(tokens)
    tokens.take("IF", "NOT", "EXISTS")
    if not kind:
        return None
    id = read_table_name(tokens, schema, dialect)
    if kind == "VIEW":
        return CreateView(id, _rest(tokens))
    if kind == "FUNCTION":
        return CreateRoutine("function", id, _rest(tokens))
    if kind == "PROCEDURE":
        return CreateRoutine("procedure", id, _rest(tokens))
    tokens.next()  # BEFORE or AFTER
    tokens.next()  # the operation
    while tokens.take("OR"):  # MariaDB 12: INSERT OR UPDATE
        tokens.next()
    while not (tokens.ended or tokens.at("ON")):  # MariaDB 12: UPDATE OF columns
        tokens.next()
    tokens.expect("ON")
    # The table is in the schema of the trigger.
    table = read_table_name(tokens, id.schema, dialect)
    tokens.expect("FOR", "EACH", "ROW")
    if tokens.take_any(frozenset(("FOLLOWS", "PRECEDES"))):
        tokens.name()
    return CreateTrigger(id, table, _rest(tokens))


def _read_alter(tokens: Tokens, schema: str, dialect: Dialect) -> DatabaseObject | None:
    if tokens.take_any(_DATABASE):
        unnamed = tokens.at_any(frozenset(("DEFAULT", "CHARACTER", "CHARSET", "COLLATE")))
        name = "" if unnamed else _name(tokens, dialect)
        return CreateDatabase(name, _charset(tokens), alters=True)
    if _skip_options(tokens) == "VIEW":
        return CreateView(read_table_name(tokens, schema, dialect), _rest(tokens))
    return None


def _read_drop(tokens: Tokens, schema: str, dialect: Dialect) -> DatabaseObject | None:
    kind = tokens.take_any(_PROGRAMS)
    if not kind:
        return None
    tokens.take("IF", "EXISTS")
    ids = [read_table_name(tokens, schema, dialect)]
    if kind == "TRIGGER":
        return DropTrigger(ids[0])
    if kind != "VIEW":
        return DropRoutine("function" if kind == "FUNCTION" else "procedure", ids[0])
    while tokens.take(","):
        ids.append(read_table_name(tokens, schema, dialect))
    return DropViews(tuple(ids))


def _skip_options(tokens: Tokens) -> str:
    """Take everything up to and with the kind of a program. Return it, or an empty string."""
    for _ in range(_MOST_OPTIONS):
        word = tokens.peek().word
        if tokens.ended or word in ("TABLE", "EVENT", "INDEX", "USER"):
            return ""
        tokens.next()
        if word in _PROGRAMS:
            return word
    return ""


def _rest(tokens: Tokens) -> str:
    """The text from the next token on."""
    return tokens.sql[tokens.peek().start :]


def _name(tokens: Tokens, dialect: Dialect) -> str:
    name = tokens.name()
    return name.lower() if dialect.fold_names else name


def _charset(tokens: Tokens) -> Charset:
    """The charset among the options of a database. The last one counts."""
    charset = Charset()
    while not tokens.ended:
        found = read_charset(tokens)
        if found is None:
            tokens.next()
        else:
            charset = found.over(charset)
    return charset
