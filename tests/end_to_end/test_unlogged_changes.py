"""
Statements whose effects the log does not show: the target equals the source afterwards.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from engine.pipeline.loop import Pipeline
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

LOOSE = "SET SESSION sql_mode = ''"
RANGES = (
    "PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (3), PARTITION p1 VALUES LESS THAN (9))"
)


class Case(NamedTuple):
    """A table ``t``, and statements on it. ``only``: the server family that knows them."""

    columns: str
    values: str
    statements: tuple[str, ...]
    only: str = ""
    partitions: str = ""


#: By the name of the table.
CASES = {
    "generated_stored": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 10), (2, NULL)",
        ("ALTER TABLE t ADD g INT GENERATED ALWAYS AS (a * 2) STORED",),
    ),
    "generated_virtual": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 10), (2, NULL)",
        ("ALTER TABLE t ADD g INT GENERATED ALWAYS AS (a * 2) VIRTUAL",),
    ),
    "generated_base_modified": Case(
        "id INT PRIMARY KEY, a DECIMAL(8,3), g VARCHAR(30) AS (a) STORED",
        "(1, 1.5, DEFAULT), (2, 2.25, DEFAULT)",
        ("ALTER TABLE t MODIFY a DECIMAL(9,4)",),
    ),
    "default_today": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        ("ALTER TABLE t ADD at DATE DEFAULT (CURRENT_DATE)",),
    ),
    "default_expression": Case(
        "id INT PRIMARY KEY", "(1), (2)", ("ALTER TABLE t ADD n INT DEFAULT (1 + 2)",)
    ),
    "partition_dropped": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t DROP PARTITION p0",),
        partitions=RANGES,
    ),
    "partition_truncated": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t TRUNCATE PARTITION p0",),
        partitions=RANGES,
    ),
    "partition_exchanged": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        (
            "CREATE TABLE SINGLE (id INT PRIMARY KEY)",
            "INSERT INTO SINGLE VALUES (0)",
            "ALTER TABLE t EXCHANGE PARTITION p0 WITH TABLE SINGLE",
        ),
        partitions=RANGES,
    ),
    "partition_converted": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t CONVERT PARTITION p0 TO TABLE SINGLE",),
        "mariadb",
        partitions=RANGES,
    ),
    "repartitioned": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t PARTITION BY HASH (id) PARTITIONS 3",),
        partitions=RANGES,
    ),
    "lossy": Case(
        "id INT PRIMARY KEY, a VARCHAR(20), b DOUBLE, c BIGINT",
        "(1, 'a long text', 1.23456789, 9999999999)",
        (LOOSE, "ALTER TABLE t MODIFY a VARCHAR(3), MODIFY b FLOAT, MODIFY c SMALLINT"),
    ),
    "nulls_replaced": Case(
        "id INT PRIMARY KEY, e ENUM('x','y'), ts TIMESTAMP NULL, n INT, s VARCHAR(9), j DATE",
        "(1, NULL, NULL, NULL, NULL, NULL), (2, 'y', '2020-01-01', 3, 's', '2020-01-01')",
        (
            LOOSE,
            "ALTER TABLE t MODIFY e ENUM('x','y') NOT NULL",
            "ALTER TABLE t MODIFY ts TIMESTAMP NOT NULL, MODIFY n INT NOT NULL",
            "ALTER TABLE t MODIFY s VARCHAR(9) NOT NULL, MODIFY j DATE NOT NULL",
        ),
    ),
    "float_rounded": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        ("ALTER TABLE t ADD f FLOAT(7,2) DEFAULT 1.239, ADD d DOUBLE(7,2) DEFAULT 1.239",),
    ),
    "default_converted": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        (
            "ALTER TABLE t ADD a DATE DEFAULT '2020-1-2', ADD b DATETIME DEFAULT 20200102030405",
            "ALTER TABLE t ADD c YEAR DEFAULT '7', ADD d TIME DEFAULT '1 10:00'",
        ),
    ),
    "implicit_timestamp_modified": Case(
        "id INT PRIMARY KEY, a DATETIME NULL, b TIMESTAMP NULL",
        "(1, NULL, NULL), (2, '2020-01-01', '2020-01-01')",
        (
            LOOSE,
            "SET SESSION explicit_defaults_for_timestamp = OFF",
            "ALTER TABLE t MODIFY a TIMESTAMP, MODIFY b TIMESTAMP",
        ),
    ),
    "to_timestamp": Case(
        "id INT PRIMARY KEY, a DATETIME",
        "(1, '2020-06-01 12:00:00')",
        ("SET SESSION time_zone = '-03:00'", "ALTER TABLE t MODIFY a TIMESTAMP NULL"),
    ),
    "to_enum": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 2)",
        ("ALTER TABLE t MODIFY a ENUM('x','y','1')",),
    ),
    "to_json": Case(
        "id INT PRIMARY KEY, a INT", "(1, 1), (2, 2)", ("ALTER TABLE t MODIFY a JSON",)
    ),
    "to_text": Case(
        "id INT PRIMARY KEY, a FLOAT, b DOUBLE",
        "(1, 1.1, 1e300), (2, 16777216, 0.1)",
        ("ALTER TABLE t MODIFY a VARCHAR(40), MODIFY b TEXT",),
    ),
    "column_added_again": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 2)",
        ("ALTER TABLE t DROP a, ADD a VARCHAR(9) DEFAULT 'new'",),
    ),
    "identity_dropped": Case(
        "id INT NOT NULL, a INT NOT NULL, UNIQUE KEY u (id)",
        "(1, 1), (2, 2)",
        ("ALTER TABLE t DROP KEY u", "INSERT INTO t VALUES (2, 2)"),
    ),
    "key_retyped": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (-2, 2)",
        ("ALTER TABLE t MODIFY id VARCHAR(20) NOT NULL", "INSERT INTO t VALUES ('x', 3)"),
    ),
    "years_of_two_digits": Case(
        "id INT PRIMARY KEY, a YEAR(2), b YEAR",
        "(1, 70, 1970), (2, 69, 2000)",
        ("ALTER TABLE t MODIFY a YEAR, MODIFY b YEAR(2)",),
        "mariadb",
    ),
    "duplicates_dropped": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 1), (3, 3)",
        ("ALTER IGNORE TABLE t ADD UNIQUE KEY u (a)",),
        "mariadb",
    ),
    "replaced_by_query": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 1), (3, 3)",
        ("CREATE OR REPLACE TABLE t AS SELECT 7 AS x, 'y' AS y",),
        "mariadb",
    ),
    "numbered": Case(
        "id INT NOT NULL PRIMARY KEY, a INT",
        "(0, 1), (5, 2)",
        ("ALTER TABLE t CHANGE id number BIGINT NOT NULL AUTO_INCREMENT",),
    ),
    "addresses": Case(
        "id INT PRIMARY KEY, a VARCHAR(40), b INET4, c INET6",
        "(1, '::FFFF:1.2.3.4', '1.2.3.4', '::1'), (2, NULL, NULL, NULL)",
        (
            LOOSE,
            "ALTER TABLE t MODIFY c INET6 NOT NULL",
            "ALTER TABLE t MODIFY a INET6, MODIFY b INET6",
        ),
        "mariadb",
    ),
    "addresses_added": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        (
            "ALTER TABLE t ADD a INET4 NOT NULL, ADD b INET6 NOT NULL",
            "ALTER TABLE t ADD c INET6 DEFAULT '::FFFF:1.2.3.4'",
        ),
        "mariadb",
    ),
    "keyless": Case(
        "a INT, b VARCHAR(9)",
        "(1, 'x'), (1, 'x'), (NULL, NULL)",
        ("ALTER TABLE t ADD g INT AS (a + 1) STORED", "INSERT INTO t VALUES (5, 'z', DEFAULT)"),
    ),
}


def make_tables(writer: Any, family: str) -> dict[str, Case]:
    """Create the table of each case that the server knows, with its rows."""
    cases = {name: case for name, case in CASES.items() if case.only in ("", family)}
    with writer.cursor() as cursor:
        for name, case in cases.items():
            cursor.execute(f"CREATE TABLE {name} ({case.columns}) {case.partitions}")
            cursor.execute(f"INSERT INTO {name} VALUES {case.values}")
        writer.commit()
    return cases


def change_table(server: AnyServer, database: str, name: str, case: Case) -> None:
    """Execute the statements of a case in a session of their own."""
    with connect_mysql(server, database) as session, session.cursor() as cursor:
        for statement in case.statements:
            statement = re.sub(r"(TABLE|INTO) t\b", rf"\1 {name}", statement)
            cursor.execute(statement.replace("SINGLE", f"{name}_single"))


def test_the_target_equals_the_source_after_each_kind(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    family = "mariadb" if "mariadb" in mysql_family.url else "mysql"
    writer = connect_mysql(mysql_family, database)

    def pipeline() -> Pipeline:
        return make_pipeline(mysql_family.url, target, [f"{database}.*"], name=database)

    with writer, psycopg.connect(target, autocommit=True) as there:
        cases = make_tables(writer, family)
        catch_up(pipeline())
        for name, case in cases.items():
            change_table(mysql_family, database, name, case)
        run = pipeline()
        catch_up(run)
        assert {it.state for it in run.status().tables} == {"live"}
        assert_equal(writer, there, database)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_after_each_kind(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a source under load WHEN each kind of statement is executed, and the engine is killed a
    moment after each THEN both sides are equal at the end."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    family = "mariadb" if "mariadb" in mysql_family.url else "mysql"
    tables, dice = f"{database}.*", random.Random(8)
    config = write_config(tmp_path, mysql_family.url, target, tables)
    writer = connect_mysql(mysql_family, database)
    with writer, psycopg.connect(target, autocommit=True) as there:
        cases = make_tables(writer, family)
        with Load(mysql_family, database):
            catch_up(make_pipeline(mysql_family.url, target, [tables]))
            for name, case in cases.items():
                with EngineProcess(config) as engine:
                    engine.wait_status(lambda status: status["state"] != "connecting")
                    change_table(mysql_family, database, name, case)
                    moment = time.monotonic() + dice.uniform(0, 1.5)
                    wait_until(lambda moment=moment: time.monotonic() > moment)
                    engine.kill()
        catch_up(make_pipeline(mysql_family.url, target, [tables]))
        assert_equal(writer, there, database)


class Load:
    """Inserts, updates and deletes rows of a table of its own all the time."""

    def __init__(self, server: AnyServer, database: str) -> None:
        self._session = connect_mysql(server, database)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Load:
        with self._session.cursor() as cursor:
            cursor.execute("CREATE TABLE busy (id INT PRIMARY KEY, a INT)")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        self._session.close()

    def _write(self) -> None:
        number = 0
        with self._session.cursor() as cursor:
            while not self._stopping.wait(0.003):
                number += 1
                cursor.execute("INSERT INTO busy VALUES (%s, 0)", (number,))
                cursor.execute("UPDATE busy SET a = a + 1 WHERE id > %s", (number - 5,))
                cursor.execute("DELETE FROM busy WHERE id = %s", (number - 50,))
                self._session.commit()
