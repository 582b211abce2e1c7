"""
Random histories of tables whose foreign keys delete and change rows.

The source decides which statements are valid: one that it refuses changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.pipeline.loop import Pipeline
from engine.settings.loader import BackfillSettings
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline, running
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

ACTIONS = st.sampled_from(["CASCADE", "SET NULL"])
NUMBERS = st.integers(1, 8)
STEPS = st.tuples(
    st.sampled_from(["delete", "delete", "insert", "insert", "key", "refer", "replace", "off"]),
    st.integers(0, 2),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
HISTORIES = st.lists(st.lists(STEPS, min_size=1, max_size=6), max_size=10)


#: Duplicates, rows that are referred to, missing parents, and cascades that are too deep.
REFUSED = (1062, 1451, 1452, 1761, 3008)


class HistoryWriter:
    """Three tables, of which each refers to the one before it, and to itself or the first one."""

    def __init__(self, server: AnyServer, database: str, actions: list[str]) -> None:
        self.connection = connect_mysql(server, database)
        first, second, third, fourth, fifth = actions
        self.execute(
            "CREATE TABLE t0 (id INT PRIMARY KEY, a INT, b INT, FOREIGN KEY (a) REFERENCES t0 (id)"
            f" ON DELETE {first})"
        )
        self.execute(
            "CREATE TABLE t1 (id INT PRIMARY KEY, a INT, b INT, FOREIGN KEY (a) REFERENCES t0 (id)"
            f" ON DELETE {second} ON UPDATE {third})"
        )
        self.execute(
            "CREATE TABLE t2 (id INT PRIMARY KEY, a INT, b INT, FOREIGN KEY (a) REFERENCES t1 (id)"
            f" ON DELETE {fourth} ON UPDATE CASCADE, FOREIGN KEY (b) REFERENCES t0 (id)"
            f" ON DELETE {fifth} ON UPDATE SET NULL)"
        )

    def execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(sql)
            except (pymysql.IntegrityError, pymysql.OperationalError) as error:
                if error.args[0] not in REFUSED:
                    raise

    def fill(self, rows: int) -> None:
        for table in ("t0", "t1", "t2"):
            values = ", ".join(f"({n}, {(n * 7) % rows + 1}, NULL)" for n in range(1, rows + 1))
            self.execute("SET foreign_key_checks = 0")
            self.execute(f"INSERT INTO {table} VALUES {values}")
            self.execute("SET foreign_key_checks = 1")

    def write(self, history: list[list[tuple[str, int, int, int, int]]]) -> None:
        for transaction in history:
            self.execute("BEGIN")
            for step in transaction:
                self._step(*step)
            self.execute("COMMIT")

    def _step(self, kind: str, table: int, id: int, a: int, b: int) -> None:
        name = f"t{table}"
        if kind == "delete":
            self.execute(f"DELETE FROM {name} WHERE id IN ({id}, {a})")
        elif kind in ("insert", "replace"):
            verb = "INSERT" if kind == "insert" else "REPLACE"
            self.execute(f"{verb} INTO {name} VALUES ({id}, {a}, {b if table == 2 else 'NULL'})")
        elif kind == "key":
            self.execute(f"UPDATE {name} SET id = {a} WHERE id = {id}")
        elif kind == "refer":
            self.execute(f"UPDATE {name} SET a = {a} WHERE id IN ({id}, {b})")
        elif kind == "off":
            self.execute("SET foreign_key_checks = 0")
            self.execute(f"DELETE FROM {name} WHERE id = {id}")
            self.execute("SET foreign_key_checks = 1")


@pytest.mark.timeout(170)
@pytest.mark.parametrize("image", [pytest.param("FULL", marks=pytest.mark.slow), "MINIMAL"])
def test_random_histories(
    mariadb_10: AnyServer,
    postgres: AnyServer,
    image: str,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """GIVEN three tables with random actions WHEN they change at random, while they are backfilled
    in chunks of three rows and after it THEN both sides are equal."""
    target = fresh_postgres_database(postgres)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ACTIONS, min_size=5, max_size=5), HISTORIES, HISTORIES)
    def run(actions: list[str], first: Any, second: Any) -> None:
        database = fresh_mysql_database(mariadb_10)
        writer = HistoryWriter(mariadb_10, database, actions)
        writer.fill(60)
        writer.execute(f"SET SESSION binlog_row_image = {image}")

        def pipeline() -> Pipeline:
            return make_pipeline(
                *(mariadb_10.url, target, [f"{database}.*"]),
                name=database,
                backfill=BackfillSettings(chunk_rows=3, slice_seconds=0.0),
            )

        with psycopg.connect(target, autocommit=True) as there:
            with running(started := pipeline()):
                wait_until(lambda started=started: started.status().state != "connecting")
                for transaction in first:
                    writer.write([transaction])
            catch_up(pipeline())
            assert_equal(writer.connection, there, database)
            writer.write(second)
            catch_up(pipeline())
            assert_equal(writer.connection, there, database)
        writer.connection.close()

    run()
