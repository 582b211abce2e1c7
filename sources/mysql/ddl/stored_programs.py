"""
Which tables a logged statement can change through views, triggers and stored functions. Pure.

A statement in statement format names the table or the view that it writes. It also changes what
the view shows, what triggers on its tables write, and what the functions that it calls write. So
``Programs`` follows these names through the texts of all of them. A procedure counts only where a
trigger or a function calls it: a server logs the statements of other calls one by one.

A text is not executed. Whatever it may write counts as written.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from engine.errors import SourceError, UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import TableId
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.functions import BUILT_IN
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    CreateTemporary,
    DropTables,
    DropTemporary,
    EmptyTable,
    Statement,
    WriteRows,
    read_statement,
)
from sources.mysql.ddl.tokens import Tokens
from sources.mysql.rights import database

__all__ = ["Program", "Programs", "may_change_programs", "may_use_programs"]

_WRITES: Final = frozenset(("INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD"))
#: After these words a verb does not begin a statement: FOR UPDATE, ON DUPLICATE KEY UPDATE.
_NO_START: Final = frozenset(("FOR", "KEY", "ON"))
_NAMES: Final = frozenset(("word", "name", "quoted"))
_ROW_FORMAT: Final = (
    f"set binlog_format = ROW, globally and in sessions that set their own; {BACKFILL}"
)


class Program(NamedTuple):
    """A view, trigger, function or procedure. ``on`` is the table of a trigger.

    ``body`` is None if the user may not read it. ``dialect`` is that of the body. ``qualified``:
    the tables in the body of a view have their schema, as in a server's catalog.
    """

    kind: Literal["view", "trigger", "function", "procedure"]
    id: TableId
    body: str | None
    on: TableId | None = None
    dialect: Dialect = Dialect()
    qualified: bool = True


class _Uses(NamedTuple):
    """The names in a text: the tables that it writes, what it calls, and all of them.

    ``unqualified`` are those that it never names with a schema.
    """

    writes: frozenset[TableId]
    calls: frozenset[TableId] = frozenset()
    names: frozenset[TableId] = frozenset()
    unqualified: frozenset[TableId] = frozenset()


class Programs:
    """The programs of a server. ``hidden`` are the schemas whose triggers the user may not see."""

    def __init__(self, programs: Iterable[Program], hidden: Iterable[str] = ()) -> None:
        self._hidden = frozenset(hidden)
        self._views: dict[TableId, Program] = {}
        self._triggers: dict[TableId, list[Program]] = {}
        self._routines: dict[TableId, Program] = {}
        for program in programs:
            if program.on is not None:
                self._triggers.setdefault(program.on, []).append(program)
            elif program.kind == "view":
                self._views[program.id] = program
            else:
                self._routines[_folded(program.id)] = program
        names = {id.name.lower() for id in (*self._views, *self._routines)}
        words = "|".join(map(re.escape, sorted(names)))
        self._mentions = re.compile(words, re.IGNORECASE) if words else None

    def check(
        self,
        sql: str,
        schema: str,
        statement: Statement | None,
        followed: Container[TableId],
        *,
        dialect: Dialect,
    ) -> None:
        """Refuse a statement that may change a followed table through programs.

        ``statement`` is what its text says. Raises UnloggedChange for the table, and SourceError if
        the user may not see what the statement does.
        """
        for id in statement.tables if statement is not None else ():
            if id.schema in self._hidden and id not in followed:
                raise SourceError(
                    f"a statement in statement format writes {id}, which may have triggers that the"
                    " user may not see",
                    hint=f"GRANT TRIGGER ON {database(id.schema)} TO <user>; then"
                    " `tailrace run CONFIG` goes on",
                )
        for program, table in self._reached(sql, schema, statement, dialect):
            if table in followed:
                raise UnloggedChange(
                    f"the {program.kind} {program.id} changes the table, in a statement that was"
                    " logged as a statement, not as rows",
                    hint=_ROW_FORMAT,
                    table=table,
                )

    def unknown_calls(
        self, sql: str, schema: str, tables: Container[TableId], dialect: Dialect
    ) -> list[TableId]:
        """The stored functions that a statement may call and that are not among the programs.

        ``tables`` are those that the statement writes: lists of their columns are no arguments.
        """
        uses = _uses(sql, schema, dialect)
        return sorted(
            id
            for id in uses.calls
            if id not in tables
            and _folded(id) not in self._routines
            and not (id in uses.unqualified and id.name.upper() in BUILT_IN)
        )

    def _reached(
        self, sql: str, schema: str, statement: Statement | None, dialect: Dialect
    ) -> Iterator[tuple[Program, TableId]]:
        """The tables that a statement may change through programs."""
        writes = frozenset(statement.tables if statement is not None else ())
        uses = _Uses(writes)
        if self._mentions is not None and self._mentions.search(sql):
            # Only then: the text may have many megabytes.
            uses = _uses(sql, schema, dialect)._replace(writes=writes)
        seen: set[tuple[Program, bool]] = set()
        waiting = self._used(uses)
        while waiting:
            program, written = found = waiting.pop()
            if found in seen:
                continue
            seen.add(found)
            if program.body is None:
                raise _hidden_body(program)
            uses = _body_uses(program)
            if written:
                uses = uses._replace(writes=uses.names)
            yield from ((program, table) for table in sorted(uses.writes))
            waiting += self._used(uses)

    def _used(self, uses: _Uses) -> list[tuple[Program, bool]]:
        """The programs that a text uses directly, and whether they are views that it writes."""
        found = [(self._views[id], id in uses.writes) for id in uses.names if id in self._views]
        found += [(self._views[id], True) for id in uses.writes if id in self._views]
        for table in uses.writes:
            found += [(trigger, False) for trigger in self._triggers.get(table, ())]
        calls = map(_folded, uses.calls)
        return found + [(self._routines[id], False) for id in calls if id in self._routines]


def may_use_programs(verb: str, statement: Statement | None) -> bool:
    """Whether a statement, which starts with ``verb``, changes rows or may call a function."""
    if statement is None:
        return verb in ("CALL", "DO", "SELECT", "SET")
    if isinstance(statement, CreateTable):
        return bool(statement.problem)  # it may have a query
    return isinstance(statement, WriteRows) or statement.kind in (*_WRITES, "WITH", "ANALYZE")


def may_change_programs(verb: str, statement: Statement | None) -> bool:
    """Whether a statement may create, change, drop or move views, triggers or functions."""
    if isinstance(statement, AlterTable):
        return statement.change.name is not None
    known = isinstance(statement, CreateTable | CreateTemporary | DropTables | DropTemporary)
    return verb in ("CREATE", "ALTER", "DROP", "RENAME") and not known


def _hidden_body(program: Program) -> SourceError:
    if program.kind == "view":
        right = f"SELECT, SHOW VIEW ON {database(program.id.schema)}"
    else:
        right = "SHOW_ROUTINE ON *.* (MySQL), SELECT ON mysql.proc (MariaDB)"
    return SourceError(
        f"a statement in statement format uses the {program.kind} {program.id}, whose definition"
        " the user may not see",
        hint=f"GRANT {right} TO <user>; then `tailrace run CONFIG` goes on",
    )


def _folded(id: TableId) -> TableId:
    """The names of routines do not depend on case."""
    return TableId(id.schema.lower(), id.name.lower())


def _body_uses(program: Program) -> _Uses:
    uses = _uses(program.body or "", program.id.schema, program.dialect)
    if (
        program.kind == "view" and program.qualified
    ):  # its tables are qualified, and its other names are aliases
        uses = uses._replace(names=uses.names - uses.unqualified)
    return uses


def _uses(sql: str, schema: str, dialect: Dialect) -> _Uses:
    """The names in a text of one or more statements. ``schema`` is that of unqualified names."""
    writes: set[TableId] = set()
    calls: set[TableId] = set()
    qualified: set[TableId] = set()
    unqualified: set[TableId] = set()
    unreadable = False
    tokens: Tokens | None = dialect.tokens(sql)
    while tokens is not None:
        before = ""
        while not tokens.ended:
            token = tokens.peek()
            if token.word in _WRITES and before not in _NO_START and not _is_function(tokens):
                statement = read_statement(tokens.sql[token.start :], schema, dialect)
                writes.update(statement.tables if statement is not None else ())
                unreadable |= not isinstance(statement, WriteRows | EmptyTable)
            names = _take_names(tokens)
            if names:
                id = _table_id(names, schema, dialect)
                (qualified if len(names) > 1 else unqualified).add(id)
                if tokens.at("(") or before == "CALL":
                    calls.add(id)
            before = token.word
        tokens = tokens.rest()
    names_found = frozenset(qualified | unqualified)
    return _Uses(
        names_found if unreadable else frozenset(writes),
        frozenset(calls),
        names_found,
        frozenset(unqualified - qualified),
    )


def _is_function(tokens: Tokens) -> bool:
    """Whether INSERT or REPLACE comes next as the name of a function."""
    return tokens.at("INSERT", "(") or tokens.at("REPLACE", "(")


def _take_names(tokens: Tokens) -> list[str]:
    """Take one token, or a name with its qualifiers. Return the names."""
    token = tokens.next()
    if token.kind not in _NAMES:
        return []
    names = [token.text]
    while tokens.at(".") and tokens.peek(1).kind in _NAMES:
        tokens.next()
        names.append(tokens.next().text)
    return names


def _table_id(names: list[str], schema: str, dialect: Dialect) -> TableId:
    """The schema and name; the third of ``schema.table.column`` is a column."""
    id = TableId(names[0], names[1]) if len(names) > 1 else TableId(schema, names[0])
    return TableId(id.schema.lower(), id.name.lower()) if dialect.fold_names else id
