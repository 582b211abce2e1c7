"""
The current definitions of tables, from ``information_schema``.

The number of queries does not depend on the number of tables. A ``Table`` from here equals the one
that the stream's tracking derives from the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import is_mariadb, query, query_all, version_number
from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.types import INTEGER_KINDS, neutral_type
from engine.errors import SchemaError, SourceError, SourceLost
from engine.schema import (
    Column,
    Expression,
    ForeignKey,
    Index,
    Partitions,
    ReferentialAction,
    Table,
    TableId,
)
from sources.mysql.codec.versioned import ROW_END, ROW_START
from sources.mysql.ddl.computed import computed
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.expressions import inexact, shown_expression
from sources.mysql.ddl.keys import KeyDefinition, read_key
from sources.mysql.ddl.partitions import partitions_of
from sources.mysql.merge_tables import merge_tables, refusal

__all__ = [
    "all_foreign_keys",
    "among",
    "created_at",
    "database_collations",
    "missing_partitions",
    "engine_of",
    "read_catalog",
    "read_columns",
    "read_table",
]

_SYSTEM_SCHEMAS = ("information_schema", "mysql", "performance_schema", "sys")
_TABLES = """
SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES
WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND {where}
"""
_DEFAULTS = """
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_COLLATION FROM information_schema.TABLES WHERE {where}
"""
_PARTITIONS = """
SELECT TABLE_SCHEMA, TABLE_NAME, PARTITION_METHOD, PARTITION_EXPRESSION, PARTITION_NAME,
    PARTITION_DESCRIPTION
FROM information_schema.PARTITIONS WHERE PARTITION_NAME IS NOT NULL AND {where}
ORDER BY TABLE_SCHEMA, TABLE_NAME, PARTITION_ORDINAL_POSITION, SUBPARTITION_ORDINAL_POSITION
"""
_DATABASES = "SELECT SCHEMA_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
_COLUMNS = """
SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, COLLATION_NAME,
    IS_NULLABLE, COLUMN_DEFAULT, EXTRA
FROM information_schema.COLUMNS WHERE {where}
ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION
"""
_VERSIONED = """
SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES
WHERE TABLE_TYPE = 'SYSTEM VERSIONED' AND {where}
"""
_ROW_TIMES = """
SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, GENERATION_EXPRESSION
FROM information_schema.COLUMNS
WHERE GENERATION_EXPRESSION IN ('ROW START', 'ROW END') AND {where}
"""
_EXPRESSIONS = """
SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, GENERATION_EXPRESSION
FROM information_schema.COLUMNS WHERE GENERATION_EXPRESSION <> '' AND {where}
"""
#: The first versions whose catalog shows the expressions of generated columns.
_SHOWS_EXPRESSIONS: Final = {True: (10, 2, 5), False: (5, 7, 6)}
_INDEXES = """
SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART
FROM information_schema.STATISTICS WHERE INDEX_TYPE IN ('BTREE', 'HASH') AND {where}
ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX
"""
_FOREIGN_KEYS = """
SELECT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA,
    REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME
FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL AND {where}
ORDER BY TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, ORDINAL_POSITION
"""
_NOT_INNODB = """
SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES
WHERE ENGINE <> 'InnoDB' AND TABLE_TYPE = 'BASE TABLE' AND {where}
"""
_RULES = """
SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, DELETE_RULE, UPDATE_RULE
FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE {where}
"""
_NOT_SYSTEM = f"CAST(TABLE_SCHEMA AS BINARY) NOT IN {_SYSTEM_SCHEMAS}"
_ONE_TABLE = "TABLE_SCHEMA = %s AND TABLE_NAME = %s"
_ACTIONS: dict[str, ReferentialAction] = defaultdict(
    lambda: "restrict", {"CASCADE": "cascade", "SET NULL": "set null"}
)
_INERT: tuple[ReferentialAction, ReferentialAction] = ("restrict", "restrict")
_NAME_LISTS = 500  # the most tables that a query lists by name


def read_catalog(
    connection: Connection[Any],
    wanted: Callable[[TableId], bool],
    refused: dict[TableId, SchemaError] | None = None,
) -> list[Table]:
    """The wanted base tables, ordered by id, without views and the server's own tables.

    The key is the primary key, else the shortest unique index over whole columns that are not
    nullable. Raises SourceError, SourceLost, and SchemaError for an unknown column type. With
    ``refused``, the tables that have one and MERGE tables are left out, and their errors are added.
    """
    ids = [
        id
        for schema, name in query(connection, _TABLES.format(where=_NOT_SYSTEM))
        if wanted(id := TableId(schema, name))
    ]
    if refused is not None and ids:
        merged = set(merge_tables(connection)).intersection(ids)
        refused.update({id: refusal(id) for id in sorted(merged)})
        ids = [id for id in ids if id not in merged]
    if not ids:
        return []
    return _tables(connection, sorted(ids), *among(ids), refused)


def read_table(connection: Connection[Any], id: TableId) -> Table | None:
    """The current definition of one table; None if it does not exist or is no base table."""
    where, arguments = among([id])
    if not query(connection, _TABLES.format(where=where), arguments):
        return None
    return _tables(connection, [id], where, arguments)[0]


def created_at(connection: Connection[Any], id: TableId) -> int | None:
    """When a table was created, in Unix seconds; None if it does not exist or that is unknown."""
    sql = """
        SELECT UNIX_TIMESTAMP(CREATE_TIME) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s
    """
    rows = query(connection, sql, (id.schema, id.name))
    return int(rows[0][0]) if rows and rows[0][0] is not None else None


def engine_of(connection: Connection[Any], id: TableId) -> str | None:
    """The storage engine that a table has now; None if it does not exist."""
    where, arguments = among([id])
    sql = f"SELECT ENGINE FROM information_schema.TABLES WHERE {where}"
    rows = query(connection, sql, arguments)
    return rows[0][0] if rows else None


def read_columns(
    connection: Connection[Any], id: TableId, before: Sequence[str] = ()
) -> tuple[Column, ...]:
    """The current columns of a table or view; empty if it does not exist. The statements of
    ``before`` are executed before they are read, in the same round trip.
    """
    return tuple(_columns(connection, [id], *among([id]), before=before)[id])


def database_collations(connection: Connection[Any]) -> dict[str, str]:
    """The default collation of each database."""
    return dict(query(connection, _DATABASES))


def among(ids: Collection[TableId]) -> tuple[str, list[str]]:
    """A condition for ``information_schema`` that selects these tables, and its arguments.

    With several ids it may select other tables too. With one id the server reads only that table.
    Names are compared as bytes, because the columns' collation takes ``t`` and ``T`` for equal, and
    MariaDB then reads only the first of them.
    """
    schemas, names = sorted({id.schema for id in ids}), sorted({id.name for id in ids})
    if len(ids) == 1:
        return _ONE_TABLE, [*schemas, *names]
    where = f"CAST(TABLE_SCHEMA AS BINARY) IN ({_marks(schemas)})"
    if len(ids) > _NAME_LISTS:
        return where, schemas
    return f"{where} AND CAST(TABLE_NAME AS BINARY) IN ({_marks(names)})", [*schemas, *names]


def _tables(
    connection: Connection[Any],
    ids: Collection[TableId],
    where: str,
    arguments: Sequence[str],
    refused: dict[TableId, SchemaError] | None = None,
) -> list[Table]:
    columns = _columns(connection, ids, where, arguments, refused)
    queries = (_INDEXES, _DEFAULTS, _FOREIGN_KEYS, _PARTITIONS)
    indexes, found, key_rows, partition_rows = query_all(
        connection, [(sql.format(where=where), arguments) for sql in queries]
    )
    parts: dict[TableId, list[tuple[Any, ...]]] = defaultdict(list)
    for schema, name, *part in indexes:
        parts[TableId(schema, name)].append(tuple(part))
    defaults = {TableId(schema, name): collation or "" for schema, name, collation in found}
    keys = _foreign_keys(connection, key_rows, where, arguments)
    tables = [
        _table(id, tuple(columns[id]), parts[id], defaults.get(id, "")) for id in ids if columns[id]
    ]
    partitions = _partitions(partition_rows, tables)
    return [
        msgspec.structs.replace(
            it, foreign_keys=keys.get(it.id, ()), partitions=partitions.get(it.id)
        )
        for it in tables
    ]


def missing_partitions(
    connection: Connection[Any], tables: Iterable[Table]
) -> dict[TableId, Partitions]:
    """The present partitions of tables that were stored without foreign keys and partitions."""
    old = [table for table in tables if table.foreign_keys is None]
    if not old:
        return {}
    where, arguments = among([table.id for table in old])
    return _partitions(query(connection, _PARTITIONS.format(where=where), arguments), old)


def _partitions(
    rows: Iterable[Sequence[Any]], tables: Iterable[Table]
) -> dict[TableId, Partitions]:
    """The partitions of tables that are partitioned by ranges or lists of one column, from the rows
    of ``_PARTITIONS``.
    """
    parts: dict[TableId, list[tuple[Any, ...]]] = defaultdict(list)
    for schema, name, *part in rows:
        parts[TableId(schema, name)].append(tuple(part))
    found: dict[TableId, Partitions] = {}
    for table in tables:
        kinds = {(method, expression) for method, expression, *_ in parts[table.id]}
        if len(kinds) == 1:
            ((method, expression),) = kinds
            # A partition has a row for each of its subpartitions.
            described = dict.fromkeys((name, text or "") for *_, name, text in parts[table.id])
            partitions = partitions_of(table.columns, method, expression or "", described)
            if partitions is not None:
                found[table.id] = partitions
    return found


def all_foreign_keys(connection: Connection[Any]) -> dict[TableId, tuple[ForeignKey, ...]]:
    """The foreign keys of all tables that have any, as far as the user can see them."""
    rows = query(connection, _FOREIGN_KEYS.format(where=_NOT_SYSTEM))
    return _foreign_keys(connection, rows, _NOT_SYSTEM, ())


def _foreign_keys(
    connection: Connection[Any],
    rows: Iterable[Sequence[Any]],
    where: str,
    arguments: Sequence[str],
) -> dict[TableId, tuple[ForeignKey, ...]]:
    """The foreign keys in the rows of ``_FOREIGN_KEYS``."""
    parts: dict[tuple[TableId, str], list[tuple[str, str, str, str]]] = defaultdict(list)
    for schema, name, key, *part in rows:
        parts[TableId(schema, name), key].append(tuple(part))
    if not parts:
        return {}
    rules = _rules(connection, where, arguments, parts)
    parents = {TableId(*members[0][1:3]) for members in parts.values()}
    found = query(connection, _NOT_INNODB.format(where=among(parents)[0]), among(parents)[1])
    inert = {TableId(*it) for it in found}  # such a parent's rows never make a foreign key act
    keys: dict[TableId, list[ForeignKey]] = defaultdict(list)
    for (id, key), members in parts.items():
        _, parent_schema, parent, _ = members[0]
        columns = tuple(column for column, *_ in members)
        parent_columns = tuple(column for *_, column in members)
        to = TableId(parent_schema, parent)
        actions = _INERT if to in inert else rules[id, key]
        keys[id].append(ForeignKey(key, columns, to, parent_columns, *actions))
    return {id: tuple(found) for id, found in keys.items()}


def _rules(
    connection: Connection[Any],
    where: str,
    arguments: Sequence[str],
    keys: Iterable[tuple[TableId, str]],
) -> dict[tuple[TableId, str], tuple[ReferentialAction, ReferentialAction]]:
    """What the foreign keys do, on delete and on update.

    MariaDB hides the constraints from users who may only read a table, but not SHOW CREATE TABLE.
    """
    where = where.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA")
    rules = {
        (TableId(schema, name), key): (_ACTIONS[on_delete], _ACTIONS[on_update])
        for schema, name, key, on_delete, on_update in query(
            connection, _RULES.format(where=where), arguments
        )
    }
    for id in {id for id, key in keys if (id, key) not in rules}:
        rules |= {
            (id, key.name): (key.references.on_delete, key.references.on_update)
            for key in _shown(connection, id)
            if key.references is not None
        }
    return defaultdict(lambda: ("restrict", "restrict"), rules)


def _shown(connection: Connection[Any], id: TableId) -> list[KeyDefinition]:
    """The constraints of a table, each of which has a line; none if the user may not see it."""
    try:
        ((_, sql),) = query(
            connection, f"SHOW CREATE TABLE {quote_name(id.schema)}.{quote_name(id.name)}"
        )
    except SourceLost:
        raise
    except SourceError:
        return []
    dialect = Dialect(mariadb=is_mariadb(connection))
    lines = [line for line in sql.splitlines() if line.startswith("  CONSTRAINT ")]
    found = (read_key(dialect.tokens(line), dialect) for line in lines)
    return [key for key in found if key is not None]


def _columns(
    connection: Connection[Any],
    ids: Collection[TableId],
    where: str,
    arguments: Sequence[str],
    refused: dict[TableId, SchemaError] | None = None,
    before: Sequence[str] = (),
) -> dict[TableId, list[Column]]:
    """The columns of these tables. ``where`` may select other tables too."""
    mariadb, wanted = is_mariadb(connection), set(ids)
    columns: dict[TableId, list[Column]] = defaultdict(list)
    statements = [*((sql, ()) for sql in before), (_COLUMNS.format(where=where), arguments)]
    for schema, name, *column in query_all(connection, statements)[-1]:
        id = TableId(schema, name)
        if id not in wanted:
            continue
        try:
            columns[id].append(_column(mariadb, *column))
        except SchemaError as error:
            message = f"the column {column[0]}: {error.message}"
            found = SchemaError(message, hint=error.hint, table=id)
            if refused is None:
                raise found from error
            refused[id] = found
            wanted.discard(id)
            del columns[id]
    _compute(connection, where, arguments, columns)
    if mariadb:
        _mark_row_times(connection, where, arguments, columns)
    return columns


def _compute(
    connection: Connection[Any],
    where: str,
    arguments: Sequence[str],
    columns: dict[TableId, list[Column]],
) -> None:
    """Give generated columns their expressions."""
    generated = {id for id, each in columns.items() if any(column.generated for column in each)}
    mariadb = is_mariadb(connection)
    if not generated or version_number(connection) < _SHOWS_EXPRESSIONS[mariadb]:
        return
    found: dict[TableId, dict[str, Expression]] = defaultdict(dict)
    for schema, name, column, text in query(
        connection, _EXPRESSIONS.format(where=where), arguments
    ):
        if (id := TableId(schema, name)) in generated:
            found[id][column] = shown_expression(text, mariadb=mariadb)
    for id, expressions in found.items():
        columns[id] = list(computed(columns[id], expressions))


def _mark_row_times(
    connection: Connection[Any],
    where: str,
    arguments: Sequence[str],
    columns: dict[TableId, list[Column]],
) -> None:
    """Mark the two columns of each system-versioned table that the server fills (see
    ``codec.versioned``). Where the table's definition does not name them, add them as the log has
    them: at the end, under their usual names.
    """
    found = query(connection, _VERSIONED.format(where=where), arguments)
    versioned = {TableId(schema, name) for schema, name in found} & columns.keys()
    if not versioned:
        return
    marks: dict[TableId, dict[str, str]] = defaultdict(dict)
    for schema, name, column, time in query(connection, _ROW_TIMES.format(where=where), arguments):
        mark = ROW_START if time == "ROW START" else ROW_END
        marks[TableId(schema, name)][column] = mark
    for id in versioned:
        if id not in marks:
            type = neutral_type("timestamp(6)")
            for name, mark in (("row_start", ROW_START), ("row_end", ROW_END)):
                marks[id][name] = mark
                filled = inexact("the server fills it")
                columns[id].append(Column(name, type, "timestamp(6)", False, None, True, filled))
        columns[id] = [
            msgspec.structs.replace(it, source_type=it.source_type + marks[id].get(it.name, ""))
            for it in columns[id]
        ]


def _marks(values: list[str]) -> str:
    return ", ".join(["%s"] * len(values))


def _column(
    mariadb: bool,
    name: str,
    source_type: str,
    charset: str | None,
    collation: str | None,
    nullable: str,
    default: str | None,
    extra: str,
) -> Column:
    if charset == "binary" and "?" in source_type:
        raise SchemaError(
            "the server shows a question mark for a label, which may be other bytes",
            hint='give the column a character set, or add "TABLE" to exclude in [source]',
        )
    if charset:
        source_type += f" character set {'utf8mb3' if charset == 'utf8' else charset}"
        source_type += f" collate {collation}"
    extra = extra.upper()
    generated = "VIRTUAL" in extra or "STORED" in extra or "PERSISTENT" in extra
    type = neutral_type(source_type)
    if mariadb:
        default = None if default == "NULL" else default
    elif default is not None and "DEFAULT_GENERATED" not in extra:
        default = _as_sql(default, type.kind)
    return Column(name, type, source_type, nullable == "YES", default, generated)


def _as_sql(default: str, kind: str) -> str:
    """A constant default as SQL: MySQL returns it without its quotes."""
    if kind in INTEGER_KINDS or kind in ("float32", "float64", "decimal", "bit", "binary"):
        return default
    if kind in ("datetime", "timestamp") and default.upper().startswith("CURRENT_TIMESTAMP"):
        return default
    return "'" + default.replace("\\", "\\\\").replace("'", "''") + "'"


def _table(
    id: TableId, columns: tuple[Column, ...], parts: list[tuple[Any, ...]], collation: str
) -> Table:
    ordinals = {column.name.lower(): ordinal for ordinal, column in enumerate(columns)}
    grouped: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for name, *part in parts:
        grouped[name].append(tuple(part))
    primary: tuple[int, ...] = ()
    indexes = []
    for name, members in grouped.items():
        if any(column is None or column.lower() not in ordinals for _, column, _ in members):
            continue  # an index over an expression
        index = Index(
            name,
            tuple(ordinals[column.lower()] for _, column, _ in members),
            unique=not int(members[0][0]),
            prefix=any(length is not None for _, _, length in members),
        )
        if name == "PRIMARY":
            primary = index.columns
        else:
            indexes.append(index)
    table = Table(id, columns, primary, tuple(indexes), default_charset=collation)
    return table if primary else msgspec.structs.replace(table, key=_unique_key(table))


def _unique_key(table: Table) -> tuple[int, ...]:
    candidates = [
        index.columns
        for index in table.uniques
        if not any(table.columns[ordinal].nullable for ordinal in index.columns)
    ]
    return min(candidates, key=len, default=())
