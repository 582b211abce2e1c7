"""
Random schema changes from sessions with random settings, with rows between them.

The source decides which statements are valid: one that it refuses changes nothing. Afterwards each
table is equal on both sides. A table may have been backfilled again for that, but no difference is
silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.pipeline.loop import Pipeline
from engine.sandbox import Server, start_mariadb
from tests.support.compare import differences
from tests.support.mirror import catch_up, make_pipeline
from tests.support.releases import Since, Version, version_of
from tests.support.servers import AnyServer, connect_mysql, obtain_old

#: Types, each with literals that are or are not values of it.
TYPES: dict[str, tuple[str, ...]] = {
    "INT": ("7", "-3", "'12'"),
    "BIGINT UNSIGNED": ("18446744073709551615", "0"),
    "SMALLINT": ("-32768", "1.6"),
    "TINYINT(1)": ("1", "2"),
    "DECIMAL(10,2)": ("1.239", "-5"),
    "DECIMAL(6,4)": ("1.5", "0"),
    "FLOAT": ("1.1", "3"),
    "FLOAT(7,2)": ("1.239", "2.5"),
    "DOUBLE": ("0.1", "1e20"),
    "VARCHAR(20)": ("'aé'", "'1'", "' x '"),
    "VARCHAR(3)": ("'abc'", "'é'"),
    "VARCHAR(10) CHARACTER SET latin1": ("'é'", "'a'"),
    "VARCHAR(10) CHARACTER SET cp1251 COLLATE cp1251_bin": ("'я'", "'b'"),
    "CHAR(5)": ("'a '", "'bc'"),
    "TEXT": (),
    "VARBINARY(6)": ("'ab'", "x'00ff'"),
    "BINARY(4)": ("'a'", "x'01'"),
    "BLOB": (),
    "DATE": ("'2020-02-29'", "'2001-01-01'"),
    "DATETIME": ("'2020-06-01 12:00:00'", "CURRENT_TIMESTAMP"),
    "DATETIME(3)": ("'2020-06-01 12:00:00.12'", "CURRENT_TIMESTAMP(3)"),
    "TIMESTAMP": ("'2020-06-01 12:00:00'", "CURRENT_TIMESTAMP"),
    "TIMESTAMP(2)": ("'2020-06-01 12:00:00.55'",),
    "TIME": ("'12:00:00'", "'-01:00:00'"),
    "YEAR": ("2020", "1999"),
    "YEAR(2)": ("70", "1999"),
    "ENUM('x','y','1')": ("'x'", "'y'", "1"),
    "ENUM('y','x')": ("'x'",),
    "SET('a','b','c')": ("'a,c'", "''"),
    "BIT(5)": ("3", "b'101'"),
    "JSON": (),
    "INET4": ("'1.2.3.4'",),
    "INET6": ("'::FFFF:1.2.3.4'", "'::'"),
    "UUID": ("'123E4567E89B12D3A456426655440000'",),
}
SETTINGS = {
    "sql_mode": (
        *("''", "'STRICT_TRANS_TABLES'", "'STRICT_ALL_TABLES,NO_ZERO_DATE'"),
        *("'TIME_TRUNCATE_FRACTIONAL'", "'TIME_ROUND_FRACTIONAL'", "'NO_AUTO_VALUE_ON_ZERO'"),
        *("'STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES'", "'ANSI_QUOTES'", "'REAL_AS_FLOAT'"),
    ),
    "time_zone": ("'+00:00'", "'+05:30'", "'-03:00'"),
    "explicit_defaults_for_timestamp": ("ON", "OFF"),
    "binlog_format": ("ROW", "ROW", "ROW", "MIXED", "STATEMENT"),
    "binlog_row_image": ("FULL", "FULL", "MINIMAL"),
}
CHARSETS = ("utf8mb4", "latin1", "utf8mb4")
TABLES = ("keyed", "keyless", "unique_key", "computed")
#: Statements; T is a table, A and B are columns, TYPE a type with its attributes, N a number.
STATEMENTS = """
ALTER TABLE T ADD cN TYPE
ALTER TABLE T ADD cN TYPE
ALTER TABLE T ADD cN TYPE FIRST
ALTER TABLE T ADD cN TYPE AFTER A
ALTER TABLE T MODIFY A TYPE
ALTER TABLE T MODIFY A TYPE
ALTER TABLE T MODIFY A TYPE, ADD cN TYPE
ALTER TABLE T CHANGE A B TYPE
ALTER TABLE T CHANGE A cN TYPE
ALTER TABLE T DROP A
ALTER TABLE T RENAME COLUMN A TO B
ALTER TABLE T DROP A, ADD A TYPE
ALTER TABLE T MODIFY id BIGINT NOT NULL AUTO_INCREMENT
ALTER TABLE T MODIFY A INT AUTO_INCREMENT UNIQUE
ALTER TABLE T ADD cN SERIAL
ALTER TABLE T ADD INDEX iN (A)
ALTER TABLE T ADD UNIQUE uN (A)
ALTER TABLE T DROP PRIMARY KEY
ALTER TABLE T ADD PRIMARY KEY (id)
ALTER TABLE T DROP INDEX u
ALTER TABLE T CONVERT TO CHARACTER SET utf8mb4
ALTER TABLE T CONVERT TO CHARACTER SET latin1
ALTER TABLE T DEFAULT CHARACTER SET latin2
ALTER TABLE T ALTER A SET DEFAULT '1'
ALTER TABLE T RENAME TO T_N
TRUNCATE TABLE T
DELETE FROM T
OPTIMIZE TABLE T
ALTER TABLE T ADD gN VARCHAR(40) AS (A) STORED
ALTER TABLE T ADD gN VARCHAR(40) AS (A) PERSISTENT
ALTER TABLE T ADD gN INT AS (id + 1) VIRTUAL
ALTER TABLE T PARTITION BY HASH (id) PARTITIONS 3
ALTER TABLE T TRUNCATE PARTITION p1
ALTER TABLE T COALESCE PARTITION 1
ALTER TABLE T REMOVE PARTITIONING
CREATE TABLE T_N LIKE T
CREATE TABLE T_N AS SELECT * FROM T
CREATE OR REPLACE TABLE T LIKE keyed
CREATE TEMPORARY TABLE T LIKE keyed
DROP TEMPORARY TABLE IF EXISTS T
DROP TABLE T
RENAME TABLE T TO swapping, keyed TO T, swapping TO keyed
ALTER IGNORE TABLE T ADD UNIQUE (A)
""".strip().splitlines()
#: The releases that know a statement with these words. Every release knows the others.
SINCE = {
    "RENAME COLUMN": Since(mysql=(8, 0), mariadb=(10, 5, 2)),
    "STORED": Since(mysql=(5, 7, 6), mariadb=(10, 2, 1)),
    "VIRTUAL": Since(mysql=(5, 7, 6)),
    "PERSISTENT": Since(mysql=None),
    "OR REPLACE": Since(mysql=None, mariadb=(10, 0, 8)),
    "ALTER IGNORE": Since(mysql_until=(5, 7, 4)),
}
#: The same for types.
TYPES_SINCE = {
    **dict.fromkeys(("DATETIME(3)", "TIMESTAMP(2)"), Since(mysql=(5, 6, 4))),
    "YEAR(2)": Since(mysql_until=(5, 6, 6)),
    "JSON": Since(mysql=(5, 7, 8), mariadb=(10, 2, 7)),
    "INET4": Since(mysql=None, mariadb=(10, 10)),
    "INET6": Since(mysql=None, mariadb=(10, 5)),
    "UUID": Since(mysql=None, mariadb=(10, 7)),
}
ATTRIBUTES = ("", "NULL", "NOT NULL", "DEFAULT VALUE", "NOT NULL DEFAULT VALUE", "DEFAULT NULL")
NUMBER = st.integers(0, 9)


def programs(server: str, version: Version) -> st.SearchStrategy[Any]:
    """Sessions: the settings of each, its charset, and what it does. The statements and types are
    those that the release knows.
    """
    settings = {name: st.sampled_from(values) for name, values in SETTINGS.items()}
    known = [
        statement
        for statement in STATEMENTS
        if all(it.includes(server, version) for words, it in SINCE.items() if words in statement)
    ]
    types = [name for name in TYPES if TYPES_SINCE.get(name, Since()).includes(server, version)]
    changes = st.tuples(
        *(st.sampled_from(known), st.sampled_from(TABLES), NUMBER, NUMBER),
        *(st.sampled_from(sorted(types)), st.sampled_from(ATTRIBUTES), NUMBER),
    )
    steps = st.lists(changes, min_size=1, max_size=3)
    session = st.tuples(st.fixed_dictionaries(settings), st.sampled_from(CHARSETS), steps)
    return st.lists(session, min_size=3, max_size=4)


class Writer:
    """Executes statements, and counts those that the source did not refuse."""

    def __init__(self, server: AnyServer, database: str) -> None:
        self._server, self._database = server, database
        self.connection = connect_mysql(server, database)
        self.number = 100
        #: What the source has done, by session.
        self.accepted: list[str] = []

    def create(self) -> None:
        columns = "a INT, b VARCHAR(20), c DATETIME NULL, d DECIMAL(8,3), e VARCHAR(9)"
        with self.connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE keyed (id INT PRIMARY KEY, {columns})")
            cursor.execute(f"CREATE TABLE keyless (id INT, {columns})")
            cursor.execute(f"CREATE TABLE unique_key (id INT NOT NULL, {columns}, UNIQUE u (id))")
            cursor.execute(
                f"CREATE TABLE computed (id INT PRIMARY KEY, {columns}{self._generated()})"
            )
        self.connection.commit()
        self.write(self.connection)

    def _generated(self) -> str:
        """The definition of a generated column that the server stores, if it can."""
        version = version_of(self._server)
        for word in ("STORED", "PERSISTENT"):
            if SINCE[word].includes(self._server.kind, version):
                return f", g VARCHAR(50) AS (d) {word}"
        return ""

    def write(self, session: pymysql.connections.Connection[Any]) -> None:
        """Insert, update and delete rows in all tables."""
        with session.cursor() as cursor:
            cursor.execute("SHOW FULL TABLES WHERE Table_type LIKE 'BASE%'")
            tables = [str(row[0]) for row in cursor.fetchall()]
        for table in tables:
            self.number += 1
            for statement in (
                f"INSERT INTO {table} (id, a, b) VALUES ({self.number}, 5, 'aé')",
                f"INSERT INTO {table} (id, b, c) VALUES ({self.number + 500}, '1', NULL)",
                f"INSERT INTO {table} (id) VALUES ({self.number + 1000})",
                f"INSERT INTO {table} (id, a) VALUES (0, 0)",
                f"UPDATE {table} SET a = NULL WHERE id > {self.number}",
                f"UPDATE {table} SET c = '2020-02-02 02:02:02', b = NULL WHERE id > 600",
                f"DELETE FROM {table} WHERE id = {self.number + 1000 - 5}",
            ):
                self.execute(session, statement)
        session.commit()

    def run(self, program: Any) -> None:
        """Do what a session does; rows are written before each change, and at the end."""
        values, charset, steps = program
        with connect_mysql(self._server, self._database) as session:
            session.set_character_set(charset)
            for name, value in values.items():
                self.execute(session, f"SET SESSION {name} = {value}")
            self.accepted.append(f"-- {values}")
            for statement, *choices in steps:
                self.write(session)
                self.execute(session, self._text(statement, *choices))
            self.write(session)

    def _text(
        self, statement: str, table: str, one: int, two: int, kind: str, attribute: str, value: int
    ) -> str:
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = %s"
                " AND table_name = %s AND column_name <> 'id' ORDER BY ordinal_position",
                (self._database, table),
            )
            names = [str(name) for (name,) in cursor.fetchall()] or ["a"]
        self.connection.commit()
        self.number += 1
        defaults = TYPES[kind] or ("NULL",)
        default = defaults[value % len(defaults)]
        words = {
            "TYPE": f"{kind} {attribute.replace('VALUE', default)}",
            "A": names[one % len(names)],
            "B": names[two % len(names)],
            "T": table,
        }
        return " ".join(_replaced(word, words, self.number) for word in statement.split(" "))

    def execute(self, session: pymysql.connections.Connection[Any], statement: str) -> None:
        try:
            with session.cursor() as cursor:
                cursor.execute(statement)
        except pymysql.MySQLError:
            return  # the source refuses it
        if not statement.startswith(("INSERT", "UPDATE")):
            self.accepted.append(statement)


def _replaced(word: str, words: dict[str, str], number: int) -> str:
    bare = word.strip("(),")
    new = words.get(bare)
    if new is None and bare[-1:] == "N" and bare[:-1] in ("c", "i", "u", "g"):
        new = f"{bare[:-1]}{number}"
    if bare == "T_N":
        new = f"{words['T']}_{number}"
    return word if new is None else word.replace(bare, new, 1)


def check(
    server: AnyServer,
    target: str,
    examples: int,
    fresh_mysql_database: Callable[[AnyServer], str],
) -> None:
    done: list[str] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(programs(server.kind, version_of(server)))
    def run(program: Any) -> None:
        database = fresh_mysql_database(server)
        writer = Writer(server, database)

        def pipeline() -> Pipeline:
            return make_pipeline(server.url, target, [f"{database}.*"], name=database)

        with writer.connection, psycopg.connect(target, autocommit=True) as there:
            writer.create()
            catch_up(pipeline())
            for session in program:
                writer.run(session)
            mirrored = pipeline()
            try:
                catch_up(mirrored)
                states = {it.table.partition(".")[2]: it.state for it in mirrored.status().tables}
                assert set(states.values()) <= {"live", "quarantined"}
                found = differences(writer.connection, there, database)
                assert {name for name in found if states.get(name) != "quarantined"} == set()
            except BaseException:
                print(*writer.accepted, sep="\n")
                raise
            there.execute(f'DROP SCHEMA IF EXISTS "{database}" CASCADE')
        done.extend(writer.accepted)

    run()
    assert len(done) > 5 * examples


def test_a_few_random_schema_changes(
    mysql_family: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> None:
    check(mysql_family, target_database, 3, fresh_mysql_database)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_random_schema_changes(
    mysql_family: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> None:
    check(mysql_family, target_database, 100, fresh_mysql_database)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_schema_changes_of_an_old_server(
    old_server: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> None:
    check(old_server, target_database, 20, fresh_mysql_database)


@pytest.fixture(scope="module", params=["10.1", "10.5"])
def old_temporals(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A MariaDB that makes TIME, DATETIME and TIMESTAMP columns in the old storage formats."""
    options = ("--mysql56-temporal-format=OFF",)
    with obtain_old(lambda: start_mariadb(request.param, options=options)) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_schema_changes_with_old_temporal_formats(
    old_temporals: Server,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> None:
    check(old_temporals, target_database, 20, fresh_mysql_database)
