"""
What the schemas of a server have besides columns and rows, from ``information_schema``: comments,
AUTO_INCREMENT, checks, indexes over other things than columns, views, triggers, routines, events.

What the user may not see is left out, and named as hidden.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymysql.connections import Connection

from engine.databases.mysql.connect import is_mariadb, query, query_all, version_number
from engine.errors import SourceError, SourceLost
from engine.schema import Table, TableId
from engine.structure import Check, Counter, Program, Structure, TableDetails
from sources.mysql.catalog import among
from sources.mysql.ddl.computed import exact_condition
from sources.mysql.ddl.expressions import shown_expression, written_expression
from sources.mysql.stored_programs import hidden_programs

__all__ = ["read_counters", "read_programs_of", "read_structure"]

_COLUMNS: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, EXTRA, COLUMN_COMMENT FROM information_schema.COLUMNS
WHERE {where} AND (COLUMN_COMMENT <> '' OR EXTRA LIKE '%%auto_increment%%'
  OR EXTRA LIKE '%%on update%%')
"""
#: MySQL's manual, "The INFORMATION_SCHEMA COLUMNS Table". MariaDB shows defaults as SQL.
_EXPRESSIONS: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT FROM information_schema.COLUMNS
WHERE {where} AND EXTRA LIKE '%%DEFAULT_GENERATED%%'
"""
_COMMENTS: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_COMMENT FROM information_schema.TABLES
WHERE {where} AND TABLE_COMMENT <> ''
"""
_NEXT_NUMBERS: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES
WHERE {where} AND AUTO_INCREMENT IS NOT NULL
"""
#: MySQL's manual, "Optimizing INFORMATION_SCHEMA Queries": without it a counter is up to a day old.
_FRESH: Final = "SET SESSION information_schema_stats_expiry = {}"
_CACHES: Final = (8, 0, 3)
_INDEXES: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, INDEX_TYPE FROM information_schema.STATISTICS
WHERE {where} AND (INDEX_TYPE NOT IN ('BTREE', 'HASH') OR COLUMN_NAME IS NULL)
"""
#: The names of checks are unique in a schema (MySQL) or in a table (MariaDB).
_CHECKS: Final = {
    False: """
SELECT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, CHECK_CLAUSE, ENFORCED
FROM information_schema.TABLE_CONSTRAINTS
JOIN information_schema.CHECK_CONSTRAINTS USING (CONSTRAINT_SCHEMA, CONSTRAINT_NAME)
WHERE CONSTRAINT_TYPE = 'CHECK' AND {where}
""",
    True: """
SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, CHECK_CLAUSE, 'YES'
FROM information_schema.CHECK_CONSTRAINTS WHERE {constraint_where}
""",
}
_PROGRAMS: Final = (
    "SELECT 'view', TABLE_SCHEMA, TABLE_NAME, NULL FROM information_schema.VIEWS",
    """SELECT 'trigger', TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_OBJECT_TABLE
FROM information_schema.TRIGGERS""",
    """SELECT LOWER(ROUTINE_TYPE), ROUTINE_SCHEMA, ROUTINE_NAME, NULL
FROM information_schema.ROUTINES WHERE ROUTINE_TYPE IN ('PROCEDURE', 'FUNCTION')""",
    "SELECT 'event', EVENT_SCHEMA, EVENT_NAME, NULL FROM information_schema.EVENTS",
)


def read_structure(connection: Connection[Any], tables: Sequence[Table]) -> Structure:
    """That of these tables and of their schemas. Raises SourceError, SourceLost."""
    if not tables:
        return Structure({}, ())
    ids = {table.id for table in tables}
    comments = dict(_rows(connection, _COMMENTS, ids))
    columns = _grouped(_rows(connection, _COLUMNS, ids))
    numbered, numbers = _numbered(columns), _next_numbers(connection, ids)
    indexes = _grouped(_rows(connection, _INDEXES, ids))
    mariadb = is_mariadb(connection)
    defaults = _grouped(() if mariadb else _rows(connection, _EXPRESSIONS, ids))
    checks = _grouped(_visible(connection, _CHECKS[mariadb], ids))
    found = {
        table.id: TableDetails(
            comments.get(table.id, ""),
            {name: comment for name, _, comment in columns[table.id] if comment},
            numbered.get(table.id, ""),
            tuple(name for name, it, _ in columns[table.id] if _says(it, "on update")),
            tuple(_check(table, mariadb, *it) for it in sorted(checks[table.id])),
            {name: _index_kind(kind) for name, kind in indexes[table.id]},
            numbers.get(table.id, 0),
            {
                name: written_expression(text, mariadb=mariadb)
                for name, text in defaults[table.id]
                if text is not None
            },
        )
        for table in tables
    }
    schemas = {id.schema for id in ids}
    programs = read_programs_of(connection, schemas)
    return Structure(found, tuple(programs), tuple(hidden_programs(connection, schemas)))


def read_counters(connection: Connection[Any], tables: Sequence[Table]) -> dict[TableId, Counter]:
    """Those of these tables that number their rows. Raises SourceError, SourceLost."""
    if not tables:
        return {}
    ids = {table.id for table in tables}
    numbered = _numbered(_grouped(_rows(connection, _COLUMNS, ids)))
    numbers = _next_numbers(connection, ids)
    return {id: Counter(numbered[id], numbers[id]) for id in numbered.keys() & numbers.keys()}


def read_programs_of(connection: Connection[Any], schemas: Collection[str]) -> list[Program]:
    """The views, triggers, routines and events of schemas, as far as the user may see them."""
    return sorted(
        Program(kind, TableId(schema, name), TableId(schema, table) if table else None)
        for statement in _PROGRAMS
        for kind, schema, name, table in _allowed(connection, statement)
        if schema in schemas
    )


def _numbered(columns: Mapping[TableId, list[tuple[Any, ...]]]) -> dict[TableId, str]:
    """The AUTO_INCREMENT columns, of the rows of ``_COLUMNS``."""
    return {
        id: name
        for id, each in columns.items()
        for name, extra, _ in each
        if _says(extra, "auto_increment")
    }


def _next_numbers(connection: Connection[Any], ids: Collection[TableId]) -> dict[TableId, int]:
    where, arguments = among(ids)
    statements: list[tuple[str, Sequence[Any]]] = [(_NEXT_NUMBERS.format(where=where), arguments)]
    if not is_mariadb(connection) and version_number(connection) >= _CACHES:
        statements = [(_FRESH.format(0), ()), *statements, (_FRESH.format("DEFAULT"), ())]
    found = [row for rows in query_all(connection, statements) for row in rows]
    return {id: number for schema, name, number in found if (id := TableId(schema, name)) in ids}


def _check(table: Table, mariadb: bool, name: str, clause: str, enforced: str) -> Check:
    condition = exact_condition(table.columns, shown_expression(clause, mariadb=mariadb))
    text = written_expression(clause, mariadb=mariadb)
    return Check(name, text, condition, enforced == "YES")


def _index_kind(kind: str) -> str:
    return "an index over an expression" if kind in ("BTREE", "HASH") else f"a {kind} index"


def _says(extra: str, what: str) -> bool:
    return what in extra.lower()


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[TableId, list[tuple[Any, ...]]]:
    found: dict[TableId, list[tuple[Any, ...]]] = defaultdict(list)
    for id, *row in rows:
        if tuple(row) not in found[id]:  # an index has a row for each of its parts
            found[id].append(tuple(row))
    return found


def _rows(
    connection: Connection[Any], statement: str, ids: Collection[TableId]
) -> Iterator[tuple[Any, ...]]:
    """The rows of a query that begin with the schema and the name of one of these tables."""
    where, arguments = among(ids)
    text = statement.format(
        where=where, constraint_where=where.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA")
    )
    for schema, name, *row in query(connection, text, arguments):
        if (id := TableId(schema, name)) in ids:
            yield (id, *row)


def _visible(
    connection: Connection[Any], statement: str, ids: Collection[TableId]
) -> list[tuple[Any, ...]]:
    """The same; nothing if the server does not have what is asked for."""
    try:
        return list(_rows(connection, statement, ids))
    except SourceLost:
        raise
    except SourceError:
        return []


def _allowed(connection: Connection[Any], statement: str) -> Sequence[tuple[Any, ...]]:
    try:
        return query(connection, statement)
    except SourceLost:
        raise
    except SourceError:
        return ()
