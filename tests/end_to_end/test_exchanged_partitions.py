"""
EXCHANGE PARTITION: the rows of the partition are read again, or the whole table is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import psycopg
import pytest

from engine.pipeline.loop import Pipeline
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql

BY_DAY = (
    "RANGE (TO_DAYS(at)) (PARTITION a VALUES LESS THAN (TO_DAYS('2020-02-01')), PARTITION b VALUES"
    " LESS THAN (TO_DAYS('2020-03-01')), PARTITION c VALUES LESS THAN MAXVALUE)"
)
BY_NUMBER = (
    "RANGE (at) (PARTITION a VALUES LESS THAN (10), PARTITION b VALUES LESS THAN (20),"
    " PARTITION c VALUES LESS THAN MAXVALUE)"
)
BY_LIST = "LIST (at) (PARTITION a VALUES IN (1, 5), PARTITION b VALUES IN (15, 16, 25))"


class Case(NamedTuple):
    """A table with the columns ``id``, ``at`` and ``v``. ``inside`` and ``outside`` are values of
    ``at`` in the partition ``b`` and in others. ``part``: only the partition is read again."""

    type: str
    partitions: str
    inside: str
    outside: str
    key: str = ", PRIMARY KEY (id, at)"
    part: bool = True


CASES = {
    "by_day": Case("DATE", BY_DAY, "'2020-02-29'", "'2020-03-01'"),
    "by_number": Case("INT", BY_NUMBER, "15", "5"),
    "by_list": Case("BIGINT", BY_LIST, "16", "1"),
    "keyless": Case("INT", BY_NUMBER, "15", "5", key="", part=False),
}


def test_rows_of_the_partition_are_read_again(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Between changes with whole and with partial images, and before other statements on the same
    partition."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    spare = fresh_mysql_database(mysql_family)

    def pipeline() -> Pipeline:
        return make_pipeline(mysql_family.url, target, [f"{database}.*"], name=database)

    writer = connect_mysql(mysql_family, database)
    with writer, psycopg.connect(target, autocommit=True) as there, writer.cursor() as cursor:
        for name, case in CASES.items():
            columns = f"id INT NOT NULL, at {case.type} NOT NULL, v VARCHAR(9), w INT{case.key}"
            cursor.execute(f"CREATE TABLE {name} ({columns}) PARTITION BY {case.partitions}")
            cursor.execute(f"CREATE TABLE {spare}.{name} ({columns})")
            for n in range(1, 7):
                cursor.execute(f"INSERT INTO {name} VALUES ({n}, {case.inside}, 'old', 0)")
                cursor.execute(f"INSERT INTO {name} VALUES ({n + 10}, {case.outside}, 'out', 0)")
                cursor.execute(
                    f"INSERT INTO {spare}.{name} VALUES ({n + 4}, {case.inside}, 'new', 0)"
                )
        catch_up(pipeline())
        cursor.execute("SET SESSION binlog_row_image = 'MINIMAL'")
        for name, case in CASES.items():
            exchange = f"ALTER TABLE {name} EXCHANGE PARTITION b WITH TABLE {spare}.{name}"
            cursor.execute(f"UPDATE {name} SET w = 1 WHERE id IN (2, 12)")
            cursor.execute(exchange)
            cursor.execute(f"UPDATE {name} SET v = 'later' WHERE id IN (6, 13)")
            cursor.execute(f"DELETE FROM {name} WHERE id IN (7, 14)")
            cursor.execute(f"INSERT INTO {name} VALUES (7, {case.inside}, 'later', 2)")
            catch_up(pipeline())
            assert_equal(writer, there, database)
            cursor.execute(exchange)
            cursor.execute("SET SESSION binlog_row_image = 'FULL'")
            cursor.execute(f"UPDATE {name} SET at = {case.outside} WHERE id = 3")
            cursor.execute(f"UPDATE {name} SET at = {case.inside} WHERE id = 11")
            catch_up(pipeline())
            assert_equal(writer, there, database)
            cursor.execute(exchange)
            cursor.execute("SET SESSION binlog_row_image = 'MINIMAL'")
            cursor.execute(f"UPDATE {name} SET at = {case.outside} WHERE id = 5")
            cursor.execute(exchange)
            cursor.execute(f"ALTER TABLE {name} ADD more INT DEFAULT 7")
            cursor.execute(f"ALTER TABLE {name} DROP PARTITION b")
            cursor.execute(f"UPDATE {name} SET v = 'end'")
        run = pipeline()
        catch_up(run)
        assert {it.state for it in run.status().tables} == {"live"}
        assert_equal(writer, there, database)
        twins = there.execute("SELECT 1 FROM pg_tables WHERE tablename LIKE 'tailrace_twin_%'")
        assert twins.fetchall() == []
    parts = {it.table for it in caplog.records if it.getMessage().startswith("a part of the")}  # type: ignore[attr-defined]
    assert parts == {f"{database}.{name}" for name, case in CASES.items() if case.part}


def test_other_rows_pass_on_unique_values_meanwhile(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """Rows outside of the partition have their unique index all the time."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql)
    spare = fresh_mysql_database(mysql)
    columns = "id INT, at INT, u VARCHAR(9), w INT, PRIMARY KEY (id, at), UNIQUE KEY (u, at)"

    def run() -> Pipeline:
        pipeline = make_pipeline(mysql.url, target, [f"{database}.*"])
        catch_up(pipeline)
        return pipeline

    writer = connect_mysql(mysql, database)
    with writer, psycopg.connect(target, autocommit=True) as there, writer.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t ({columns}) PARTITION BY {BY_NUMBER}")
        cursor.execute(f"CREATE TABLE {spare}.t ({columns})")
        cursor.execute("INSERT INTO t VALUES (1, 5, 'a', 0), (2, 5, 'b', 0), (3, 15, 'a', 0)")
        run()
        cursor.execute(f"ALTER TABLE t EXCHANGE PARTITION b WITH TABLE {spare}.t")
        cursor.execute("UPDATE t SET u = 'c' WHERE id = 1")
        cursor.execute("UPDATE t SET u = 'a' WHERE id = 2")
        cursor.execute("UPDATE t SET w = 1 WHERE id = 1")
        (table,) = run().status().tables
        assert table.state == "live"
        assert_equal(writer, there, database)


#: As a version without foreign keys and partitions has stored its tables.
FORGET = (
    "UPDATE tailrace.table_version SET definition ="
    " (definition::jsonb - 'partitions' - 'foreign_keys')::text"
)


@pytest.mark.parametrize("altered", [False, True])
def test_a_table_that_was_followed_before_its_partitions_were_stored(
    altered: bool,
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are those of the catalog, unless the table was altered in the log that is not read."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql)

    def run() -> None:
        catch_up(make_pipeline(mysql.url, target, [f"{database}.*"]))

    writer = connect_mysql(mysql, database)
    with writer, psycopg.connect(target, autocommit=True) as there, writer.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (id INT, at INT NOT NULL) PARTITION BY {BY_NUMBER}")
        cursor.execute("INSERT INTO t VALUES (1, 5), (2, 15), (3, 25)")
        run()
        there.execute(FORGET)
        if altered:
            cursor.execute("ALTER TABLE t DROP PARTITION c")
            cursor.execute("ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN (30))")
            cursor.execute("INSERT INTO t VALUES (4, 22)")
        run()
        cursor.execute("ALTER TABLE t DROP PARTITION b")
        run()
        assert_equal(writer, there, database)
    again = [it for it in caplog.records if it.getMessage() == "the table is backfilled again"]
    assert len(again) == altered
