"""
Logged statements whose meaning depends on the state of their session.

Each statement is executed in a session with that state. The version of the table that is derived
from the log equals the one in the server's catalog.
"""

from __future__ import annotations

import re

import pymysql
import pytest

from engine.change import SchemaChange
from engine.schema import Column, Table, TableId
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.statements import CreateTable, read_statement
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer

PLAIN = "sql_mode = DEFAULT"
#: The state of the session, and statements. Skipped where a server does not have the variable.
CASES = {
    PLAIN: [
        "CREATE TABLE a (id INT PRIMARY KEY, r REAL, c VARCHAR(5), n NCHAR(3))",
        "CREATE TABLE b (id SERIAL, a BOOL, c FIXED(5,2), d INT8, e FLOAT4, f LONG VARCHAR)",
        "CREATE TABLE c (a INT) /*!50100 COMMENT = 'x' */ /*!999999 ENGINE = nope */",
        "SET STATEMENT foreign_key_checks = OFF FOR CREATE TABLE w (r REAL)",
        "EXECUTE IMMEDIATE 'CREATE TABLE x (r REAL)'",
    ],
    "sql_mode = REAL_AS_FLOAT": [
        "CREATE TABLE d (id INT PRIMARY KEY, r REAL, p DOUBLE PRECISION)",
        "ALTER TABLE a MODIFY r REAL",
    ],
    "sql_mode = ANSI_QUOTES": [
        """CREATE TABLE e ("id" INT PRIMARY KEY, c VARCHAR(9) DEFAULT 'a"b')""",
    ],
    "sql_mode = ANSI": ['CREATE TABLE f ("id" INT PRIMARY KEY, "r" REAL DEFAULT 1)'],
    "sql_mode = NO_BACKSLASH_ESCAPES": ["CREATE TABLE g (id INT, c VARCHAR(9) DEFAULT 'a\\')"],
    "sql_mode = MAXDB": [
        "CREATE TABLE h (id INT, a TIMESTAMP, b TIMESTAMP(3) NULL)",
        "ALTER TABLE a ADD m TIMESTAMP NULL",
    ],
    "sql_mode = EMPTY_STRING_IS_NULL": [
        "CREATE TABLE i (id INT, c VARCHAR(9) DEFAULT '')",
        "ALTER TABLE a ADD x VARCHAR(9) DEFAULT ''",
        "ALTER TABLE a ALTER c SET DEFAULT ''",
    ],
    "sql_mode = ''": ["CREATE TABLE j (id INT, c VARCHAR(70000) CHARACTER SET latin1)"],
    "sql_generate_invisible_primary_key = ON": [
        "CREATE TABLE k (a INT)",
        "CREATE TABLE l LIKE k",
    ],
    "default_collation_for_utf8mb4 = utf8mb4_general_ci": [
        "CREATE TABLE m (c CHAR(3)) CHARSET utf8mb4",
    ],
    "character_set_collations = 'utf8mb4=utf8mb4_bin'": [
        "CREATE TABLE n (c CHAR(3)) CHARSET utf8mb4",
    ],
    "old_mode = ''": ["CREATE TABLE o (c CHAR(3) CHARACTER SET utf8mb4)"],
    "collation_server = latin1_bin, collation_database = latin1_bin": [
        "CREATE TABLE p (c CHAR(3))",
    ],
    "character_set_client = latin1": ["CREATE TABLE q (`na\xefve` INT)"],
    "explicit_defaults_for_timestamp = OFF": ["CREATE TABLE r (id INT, a TIMESTAMP NULL)"],
    "explicit_defaults_for_timestamp = ON": ["CREATE TABLE s (id INT, a TIMESTAMP)"],
    "foreign_key_checks = OFF": [
        "CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES nowhere (id))",
    ],
    "unique_checks = OFF, auto_increment_increment = 5": ["CREATE TABLE u (a INT UNIQUE)"],
    "lc_time_names = de_DE, time_zone = '+05:00'": ["CREATE TABLE v (a DATETIME)"],
}


@pytest.fixture
def database(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Writer:
    """A session in a fresh database."""
    return Writer(mysql_family, fresh_mysql_database(mysql_family))


def execute(database: Writer, state: str, statement: str) -> bool:
    """Execute a statement in a session with this state. False if the server has no such state."""
    session = Writer(database.server, database.database)
    try:
        session(f"SET {state}")
    except pymysql.MySQLError:
        return False
    try:
        session(statement)
    except pymysql.err.ProgrammingError:
        return False  # a statement that only one family has
    finally:
        session.connection.close()
    return True


def shape(column: Column) -> object:
    """What a statement says of a column. It may not name the collation, and MariaDB the width."""
    source_type = re.sub(r" collate \w+|(?<=int)\((?:11|20)\)", "", column.source_type)
    return column.name, column.type, source_type, column.nullable, column.default


def test_the_state_of_the_session_gives_a_statement_its_meaning(database: Writer) -> None:
    source = source_of(database.server, database.database)
    tracked: dict[TableId, Table] = {}
    with Following(source, source.position(), ()) as following:
        following.wait()  # from here on the database's charset is certain
        done = [
            statement
            for state, statements in CASES.items()
            for statement in statements
            if execute(database, state, statement)
        ]
        following.wait()
        for change in following.changes:
            if isinstance(change, SchemaChange):
                if change.before is not None:
                    del tracked[change.before.id]
                if change.after is not None:
                    tracked[change.after.id] = change.after
        catalog = {table.id: table for table in source.catalog()}
    assert len(done) > 18
    assert set(tracked) == set(catalog)
    for id, table in catalog.items():
        found = tracked[id]
        assert [shape(column) for column in found.columns] == [
            shape(column) for column in table.columns
        ]
        assert found.key == table.key
        assert len(found.indexes) == len(table.indexes)


def test_a_statement_that_sets_its_own_sql_mode_is_parsed_before() -> None:
    """In MariaDB this REAL is a DOUBLE if the session's mode is the default one."""
    sql = "SET STATEMENT sql_mode = 'REAL_AS_FLOAT' FOR CREATE TABLE t (r REAL)"
    statement = read_statement(sql, "d", Dialect(mariadb=True, sql_mode=1))
    assert isinstance(statement, CreateTable)
    assert "SQL mode" in statement.problem
    other = read_statement(sql.replace("sql_mode", "old_mode"), "d", Dialect(mariadb=True))
    assert isinstance(other, CreateTable)
    assert not other.problem
