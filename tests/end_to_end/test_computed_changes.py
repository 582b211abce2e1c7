"""
What the log does not show and follows from the statement: the target equals the source afterwards,
and no table is read again.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pymysql
import pytest

from engine.pipeline.loop import Pipeline
from sources.mysql.server_info import converted_time
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline, running
from tests.support.servers import AnyServer, connect_mysql

OLD_DEFAULTS = "time_zone = '+05:30', explicit_defaults_for_timestamp = 0, sql_mode = ''"

#: The settings of a session, and the new column.
COLUMNS = [
    ("time_zone = '+05:30'", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
    ("time_zone = '-03:00'", "TIMESTAMP(3) NOT NULL DEFAULT NOW(3) ON UPDATE NOW(3) FIRST"),
    ("time_zone = '+05:30'", "DATETIME DEFAULT CURRENT_TIMESTAMP()"),
    ("time_zone = '-11:15'", "DATETIME(6) NOT NULL DEFAULT LOCALTIMESTAMP(6) AFTER id"),
    ("time_zone = '+05:30'", "DATETIME(2) DEFAULT (NOW(2)), ALGORITHM = COPY"),
    ("time_zone = 'SYSTEM'", "DATETIME(3) DEFAULT LOCALTIME(3)"),
    ("time_zone = '+12:00', timestamp = 1234567890.987654", "DATETIME(4) DEFAULT NOW(4)"),
    ("time_zone = '+12:00', timestamp = 1234567890.987654", "DATETIME DEFAULT NOW()"),
    ("timestamp = 1234567890", "TIMESTAMP(6) DEFAULT NOW(6)"),
    ("time_zone = '+05:30'", "TIMESTAMP DEFAULT '2001-01-01 00:00:00'"),
    ("time_zone = 'SYSTEM'", "TIMESTAMP(2) NOT NULL DEFAULT '2001-01-01 12:00:00.5'"),
    ("time_zone = '+02:00'", "DATETIME DEFAULT NOW(), ADD b{n} TIMESTAMP DEFAULT NOW()"),
    # The last ones, because strict sessions refuse to alter a table whose default is zero.
    (OLD_DEFAULTS, "TIMESTAMP FIRST"),
    (OLD_DEFAULTS, "TIMESTAMP(2) NOT NULL FIRST"),
    (OLD_DEFAULTS, "TIMESTAMP"),
    (OLD_DEFAULTS, "TIMESTAMP ON UPDATE CURRENT_TIMESTAMP FIRST"),
]
TABLES = {
    "keyed": "id INT PRIMARY KEY AUTO_INCREMENT, a INT",
    "keyless": "id INT, a INT",
}


def test_a_new_column_with_the_time_of_the_statement(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)

    def pipeline() -> Pipeline:
        return make_pipeline(mysql_family.url, target, [f"{database}.*"], name=database)

    writer = connect_mysql(mysql_family, database)
    with writer, psycopg.connect(target, autocommit=True) as there, writer.cursor() as cursor:
        for table, columns in TABLES.items():
            cursor.execute(f"CREATE TABLE {table} ({columns})")
            cursor.execute(f"INSERT INTO {table} (a) VALUES (1), (2)")
        catch_up(pipeline())
        with running(pipeline()):
            for number, (variables, column) in enumerate(COLUMNS):
                with connect_mysql(mysql_family, database) as session, session.cursor() as other:
                    other.execute(f"SET {variables}")
                    for table in TABLES:
                        add = f"ALTER TABLE {table} ADD c{number} {column.format(n=number)}"
                        other.execute(add)
                        cursor.execute(f"INSERT INTO {table} (a) VALUES ({number}), (7)")
                        cursor.execute(f"UPDATE {table} SET a = {-number} WHERE a = 7")
        run = pipeline()
        catch_up(run)
        assert {it.state for it in run.status().tables} == {"live"}
        assert_equal(writer, there, database)
    assert not [it for it in caplog.records if "backfilled again" in it.getMessage()]


def test_a_restarted_server_is_not_asked_about_time_zones(mysql_family: AnyServer) -> None:
    with connect_mysql(mysql_family) as session, session.cursor() as cursor:
        noon = "2020-02-29 12:00:00"
        cursor.execute("SELECT UNIX_TIMESTAMP()")
        ((now,),) = cursor.fetchall()
        assert isinstance(session, pymysql.connections.Connection)
        assert converted_time(session, now, noon, "+00:00", "-02:30") == "2020-02-29 09:30:00"
        assert converted_time(session, 0, noon, "+00:00", "-02:30") is None
        assert converted_time(session, now, noon, "+00:00", "No/Where") is None


#: The columns of a table, how it is partitioned, five values of ``at``, one in each partition and
#: NULL or the highest, and statements.
PARTITIONED = {
    "by_days": (
        "at DATE NOT NULL",
        (
            "RANGE (TO_DAYS(at)) (PARTITION p1 VALUES LESS THAN (TO_DAYS('2020-02-01')),"
            " PARTITION p2 VALUES LESS THAN (TO_DAYS('2020-03-01')),"
            " PARTITION rest VALUES LESS THAN MAXVALUE)"
        ),
        ("'2019-01-01'", "'2020-01-31'", "'2020-02-01'", "'2020-02-29'", "'2020-03-01'"),
        (
            "DROP PARTITION p1",
            (
                "REORGANIZE PARTITION rest INTO (PARTITION p3 VALUES LESS THAN"
                " (TO_DAYS('2020-04-01')) COMMENT 'x', PARTITION rest VALUES LESS THAN (MAXVALUE))"
            ),
            "TRUNCATE PARTITION p3",
            "DROP PARTITION p2, p3",
        ),
    ),
    "by_datetime": (
        "at DATETIME(2) NOT NULL",
        (
            "RANGE COLUMNS (at) (PARTITION p1 VALUES LESS THAN ('2020-02-01'),"
            " PARTITION p2 VALUES LESS THAN ('2020-03-01 12:00:00'))"
        ),
        (
            *("'2019-01-01'", "'2020-01-31 23:59:59.99'", "'2020-02-01 00:00:00.00'"),
            *("'2020-03-01 11:59:59.99'", "'2020-02-10'"),
        ),
        (
            "ADD PARTITION (PARTITION `P 3` VALUES LESS THAN ('2020-04-01'))",
            "DROP PARTITION P2",
            "DROP PARTITION `p 3`",
        ),
    ),
    "by_year": (
        "at DATETIME NOT NULL",
        (
            "RANGE (YEAR(at)) (PARTITION p1 VALUES LESS THAN (2019),"
            " PARTITION p2 VALUES LESS THAN (2020), PARTITION p3 VALUES LESS THAN MAXVALUE)"
        ),
        (
            *("'1999-01-01'", "'2018-12-31 23:59:59'", "'2019-01-01'"),
            *("'2019-12-31 23:59:59'", "'2020-01-01'"),
        ),
        ("TRUNCATE PARTITION p3, p1", "DROP PARTITION p2"),
    ),
    "by_timestamp": (
        "at TIMESTAMP NOT NULL",
        (
            "RANGE (UNIX_TIMESTAMP(at)) (PARTITION p1 VALUES LESS THAN"
            " (UNIX_TIMESTAMP('2020-02-01 00:00:00')), PARTITION p2 VALUES LESS THAN (1600000000))"
        ),
        (
            *("'2020-01-31 23:59:59'", "'2020-02-01 00:00:00'", "'2020-01-01 00:00:01'"),
            *("'2020-02-02'", "'2020-08-01'"),
        ),
        ("DROP PARTITION p1",),
    ),
    "by_number": (
        "at INT",
        (
            "RANGE (at) (PARTITION p1 VALUES LESS THAN (-5), PARTITION p2 VALUES LESS THAN (7),"
            " PARTITION p3 VALUES LESS THAN MAXVALUE)"
        ),
        ("NULL", "-6", "-5", "6", "7"),
        ("DROP PARTITION p1", "ADD COLUMN more INT FIRST", "DROP PARTITION p2"),
    ),
    "by_big_number": (
        "at BIGINT UNSIGNED NOT NULL",
        (
            "RANGE COLUMNS (at) (PARTITION p1 VALUES LESS THAN (10),"
            " PARTITION p2 VALUES LESS THAN (1000000000000))"
        ),
        ("0", "9", "10", "999999999999", "11"),
        ("DROP PARTITION p2",),
    ),
    "by_list": (
        "at INT NOT NULL",
        (
            "LIST (at) (PARTITION p1 VALUES IN (1, -7, 2), PARTITION p2 VALUES IN (5),"
            " PARTITION p3 VALUES IN (8))"
        ),
        ("1", "-7", "2", "5", "8"),
        (
            "DROP PARTITION p1",
            "ADD PARTITION (PARTITION p4 VALUES IN (1, 2))",
            "TRUNCATE PARTITION p4, p3",
            "REORGANIZE PARTITION p2, p3 INTO (PARTITION p5 VALUES IN (5, 8))",
            "DROP PARTITION p4",
        ),
    ),
    "by_list_of_days": (
        "at DATE NOT NULL",
        (
            "LIST COLUMNS (at) (PARTITION p1 VALUES IN ('2020-01-31', '2020-02-01'),"
            " PARTITION p2 VALUES IN ('2020-03-01', '2020-03-02', '2020-03-03'))"
        ),
        ("'2020-01-31'", "'2020-02-01'", "'2020-03-01'", "'2020-03-02'", "'2020-03-03'"),
        ("TRUNCATE PARTITION p2", "DROP PARTITION p1"),
    ),
    "with_subpartitions": (
        "at DATE NOT NULL",
        (
            "RANGE (YEAR(at)) SUBPARTITION BY HASH (id) SUBPARTITIONS 2"
            " (PARTITION p1 VALUES LESS THAN (2019), PARTITION p2 VALUES LESS THAN (2020),"
            " PARTITION p3 VALUES LESS THAN MAXVALUE)"
        ),
        ("'1999-01-01'", "'2018-12-31'", "'2019-01-01'", "'2019-12-31'", "'2020-01-01'"),
        ("TRUNCATE PARTITION p3", "DROP PARTITION p1"),
    ),
    "by_hash": (
        "at INT NOT NULL",
        "HASH (at) PARTITIONS 3",
        ("1", "2", "3", "4", "5"),
        ("TRUNCATE PARTITION ALL",),
    ),
}


@pytest.mark.parametrize("created", ["before", "after"])
def test_the_rows_of_a_dropped_partition(
    created: str,
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The tables are created before or after the pipeline starts: from the catalog or the log."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)

    def pipeline() -> Pipeline:
        return make_pipeline(mysql_family.url, target, [f"{database}.*"], name=database)

    writer = connect_mysql(mysql_family, database)
    with writer, psycopg.connect(target, autocommit=True) as there, writer.cursor() as cursor:
        cursor.execute("SET time_zone = '+05:30'")
        if created == "after":
            cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
            catch_up(pipeline())
        for table, (column, partitions, values, _) in PARTITIONED.items():
            key = ", PRIMARY KEY (id, at)" if "NOT NULL" in column else ""
            cursor.execute(
                f"CREATE TABLE {table} (id INT, {column}{key}) PARTITION BY {partitions}"
            )
            for number, value in enumerate(values):
                cursor.execute(f"INSERT INTO {table} (id, at) VALUES ({number}, {value})")
        if created == "before":
            catch_up(pipeline())
        for table, (_, _, values, statements) in PARTITIONED.items():
            for number, statement in enumerate(statements):
                cursor.execute(f"ALTER TABLE {table} {statement}")
                cursor.execute(f"UPDATE {table} SET id = -id WHERE id > 0")
                for value in values:  # those that have a partition
                    cursor.execute(
                        f"INSERT IGNORE INTO {table} (id, at) VALUES ({50 + number}, {value})"
                    )
            run = pipeline()
            catch_up(run)
            assert {it.state for it in run.status().tables} == {"live"}
            assert_equal(writer, there, database)
    assert not [it for it in caplog.records if "backfilled again" in it.getMessage()]


def test_dates_that_the_target_replaced_are_read_again(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their partition is not the one of their replacement."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)

    def pipeline() -> Pipeline:
        return make_pipeline(mysql_family.url, target, [f"{database}.*"], name=database)

    writer = connect_mysql(mysql_family, database)
    with writer, psycopg.connect(target, autocommit=True) as there, writer.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES'")
        cursor.execute(
            "CREATE TABLE t (id INT, at DATE) PARTITION BY RANGE COLUMNS (at) ("
            "PARTITION a VALUES LESS THAN ('2020-01-01'), PARTITION b VALUES LESS THAN (MAXVALUE))"
        )
        cursor.execute("INSERT INTO t VALUES (1, '2019-02-31'), (2, '2020-02-31'), (3, NULL)")
        catch_up(pipeline())
        cursor.execute("ALTER TABLE t DROP PARTITION a")
        catch_up(pipeline())
        assert_equal(writer, there, database)
    assert [it for it in caplog.records if "backfilled again" in it.getMessage()]
