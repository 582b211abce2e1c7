"""
Parents that are not followed: their rows are read for their children alone.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer

CHILD = (
    "CREATE TABLE t (id INT PRIMARY KEY, p INT,"
    " FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE{more})"
)


def rows_of(target: str, database: str, table: str) -> list[tuple[int, int]]:
    with psycopg.connect(target) as there:
        return there.execute(f'SELECT * FROM "{database}".{table} ORDER BY id').fetchall()


def test_what_cannot_be_decoded_does_not_concern_the_children(
    mariadb_10: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> None:
    """Text that is invalid, and defaults that an image of a new row lacks."""
    writer = Writer(mariadb_10, fresh_mysql_database(mariadb_10))
    tables = [f"{writer.database}.t"]
    writer(
        "CREATE TABLE p (id INT PRIMARY KEY, s VARCHAR(9) CHARACTER SET cp1251,"
        " at DATETIME DEFAULT CURRENT_TIMESTAMP)",
        CHILD.format(more=""),
        "INSERT INTO p (id) VALUES (1), (2)",
        "INSERT INTO t VALUES (1, 1), (2, 2)",
    )
    catch_up(make_pipeline(mariadb_10.url, target_database, tables))
    writer(
        "INSERT INTO p (id, s) VALUES (3, _cp1251 0x98)",
        "INSERT INTO t VALUES (3, 3), (4, 1)",
        "UPDATE p SET s = _cp1251 0x9898 WHERE id = 2",
        "DELETE FROM p WHERE id > 1",
        "SET SESSION binlog_row_image = MINIMAL",
        "INSERT INTO p (id) VALUES (4)",
    )
    run = make_pipeline(mariadb_10.url, target_database, tables)
    catch_up(run)
    assert rows_of(target_database, writer.database, "t") == [(1, 1), (4, 1)]
    assert run.counters.backfilled_rows == 0


@pytest.mark.parametrize("more", ["", " ON UPDATE CASCADE"])
def test_an_update_that_cannot_be_decoded_makes_its_children_inexact(
    more: str,
    native_mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
) -> None:
    """A document of which the log has only the changed parts. The table whose foreign key may act
    on an update is backfilled again."""
    writer = Writer(native_mysql, fresh_mysql_database(native_mysql))
    tables = [f"{writer.database}.t"]
    writer(
        "CREATE TABLE p (id INT PRIMARY KEY, j JSON)",
        CHILD.format(more=more),
        f'INSERT INTO p VALUES (1, \'{{"a": "{"a" * 40}", "b": 1}}\'), (2, \'{{}}\')',
        "INSERT INTO t VALUES (1, 1)",
    )
    catch_up(make_pipeline(native_mysql.url, target_database, tables))
    writer(
        "SET SESSION binlog_row_value_options = PARTIAL_JSON, binlog_row_image = MINIMAL",
        "UPDATE p SET j = JSON_SET(j, '$.b', 2) WHERE id = 1",
        "INSERT INTO t VALUES (2, 2)",
    )
    run = make_pipeline(native_mysql.url, target_database, tables)
    catch_up(run)
    assert rows_of(target_database, writer.database, "t") == [(1, 1), (2, 2)]
    assert bool(run.counters.backfilled_rows) == bool(more)
