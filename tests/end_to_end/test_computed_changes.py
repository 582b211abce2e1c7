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
