"""
Tables that are tracked through logged statements, compared with the tables of real servers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import pymysql

from engine.databases.mysql.types import parse_type, same_order
from engine.schema import Column, Table, TableId
from sinks.postgres.defaults import existing_value, literal
from sources.mysql.catalog import read_catalog
from sources.mysql.codec.defaults import constant_default
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import apply_statement
from tests.support.ddl_statements import (
    MARIADB_ONLY,
    MYSQL_ONLY,
    SAME_ON_ALL,
    Tables,
    everything,
    follow,
)
from tests.support.mysql_log import live_table, selected_rows
from tests.support.servers import AnyServer, connect_mysql


def definitions(tables: Iterable[Table]) -> dict[TableId, object]:
    """The parts that must be equal in the catalog and in a tracked version."""
    return {
        table.id: (
            [
                (column.name, column.type, type_parts(column), column.nullable, column.generated)
                for column in table.columns
            ],
            [table.names[ordinal] for ordinal in table.key],
            sorted((index.name, index.columns, index.unique) for index in table.indexes),
            table.uniques,
            sorted(table.foreign_keys, key=lambda key: key.name),
        )
        for table in tables
    }


def type_parts(column: Column) -> tuple[object, ...]:
    """The parts of a source type that the decoder uses."""
    parsed = parse_type(column.source_type)
    return parsed.base, parsed.unsigned, parsed.length, parsed.charset, parsed.compressed


def defaults(table: Table) -> dict[str, object]:
    """The constant defaults."""
    known = {}
    for column in table.columns:
        with contextlib.suppress(ValueError):
            known[column.name] = constant_default(column)
    return known


def log_end(cursor: pymysql.cursors.Cursor) -> tuple[str, int]:
    for statement in ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"):
        with contextlib.suppress(pymysql.ProgrammingError):
            cursor.execute(statement)
            break
    row = cursor.fetchone()
    assert row is not None
    return row[0], row[1]


def logged(cursor: pymysql.cursors.Cursor, start: tuple[str, int], schema: str) -> str:
    """The text of the statement that the server has logged since ``start``; empty if none."""
    cursor.execute(f"SHOW BINLOG EVENTS IN '{start[0]}' FROM {start[1]}")
    use = f"use `{schema}`; "
    texts = [event[5].removeprefix(use) for event in cursor.fetchall() if event[5].startswith(use)]
    assert len(texts) < 2
    return texts[0] if texts else ""


def test_tracked_tables_equal_the_server(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    schema = fresh_mysql_database(mysql_family)
    mariadb = mysql_family.kind == "mariadb"
    statements = SAME_ON_ALL + (MARIADB_ONLY if mariadb else MYSQL_ONLY)
    tables: Tables = {}
    with connect_mysql(mysql_family, schema) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@collation_database")
        ((collation,),) = cursor.fetchall()
        for statement in statements:
            before = log_end(cursor)
            cursor.execute(statement)
            effects = apply_statement(
                logged(cursor, before, schema),
                schema,
                tables,
                everything,
                default_charset=lambda _: collation,
                dialect=Dialect(mariadb=mariadb),
            )
            follow(tables, effects)
            live = read_catalog(connection, lambda id: id.schema == schema)
            assert definitions(tables.values()) == definitions(live), statement
            for table in live:
                for was, now in zip(tables[table.id].columns, table.columns, strict=True):
                    assert same_order(was.source_type, now.source_type), (
                        statement,
                        was.source_type,
                        now.source_type,
                    )
            for table in live:
                tracked, real = defaults(tables[table.id]), defaults(table)
                for name in tracked.keys() & real.keys():
                    assert tracked[name] == real[name], (statement, name)


STORED_ON_ALL = [
    ("CHAR(5)", "'a  '"),
    ("CHAR(3)", "'ab       '"),
    ("VARCHAR(20)", "'  sp  '"),
    ("VARCHAR(9)", "1e3"),
    ("VARCHAR(9)", "1.50"),
    ("VARCHAR(9)", "007"),
    ("VARCHAR(9)", "-7"),
    ("VARCHAR(9)", "TRUE"),
    ("CHAR(9)", "b'1000001'"),
    ("VARCHAR(9)", "0x4142"),
    ("VARCHAR(9) CHARACTER SET utf8mb4", "x'E282AC'"),
    ("VARCHAR(9)", "_latin1 x'80'"),
    ("VARCHAR(9)", "_utf8mb4 0xE282AC"),
    ("VARCHAR(9)", "_latin1'ab'"),
    ("VARCHAR(9) CHARACTER SET latin1", "x'80'"),
    ("VARBINARY(9)", "007"),
    ("VARBINARY(9)", "b'1000001'"),
    ("VARBINARY(9)", "'ab '"),
    ("ENUM('a','b','1')", "'B'"),
    ("ENUM('x','y')", "'y '"),
    ("SET('x','y','z')", "'Z,x'"),
    ("SET('x','y')", "''"),
    ("BIT(9)", "'5'"),
]


def test_defaults_are_stored_as_the_server_stores_them(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    schema = fresh_mysql_database(mysql_family)
    with connect_mysql(mysql_family, schema) as connection, connection.cursor() as cursor:
        before = log_end(cursor)
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY) CHARACTER SET utf8mb4")
        tables: Tables = {}
        follow(tables, apply_statement(logged(cursor, before, schema), schema, tables, everything))
        cursor.execute("INSERT INTO t VALUES (1)")
        for number, (type, default) in enumerate(STORED_ON_ALL):
            before = log_end(cursor)
            cursor.execute(f"ALTER TABLE t ADD c{number} {type} DEFAULT {default}")
            sql = logged(cursor, before, schema)
            follow(tables, apply_statement(sql, schema, tables, everything))
        (table,) = tables.values()
        (row,) = selected_rows(mysql_family, live_table(connection, schema, "t"))
    for column, value, case in zip(table.columns[1:], row[1:], STORED_ON_ALL, strict=True):
        assert (case, existing_value(column)) == (case, literal_of(column, value))


def literal_of(column: Column, value: object) -> str:
    """The literal for the value that the server has set in a row."""
    if isinstance(value, bytes):
        return literal("\\x" + value.hex())
    if isinstance(value, int):
        return literal(f"{value:0{column.type.length}b}")
    return literal(str(value))
