"""
Sessions that log statements instead of rows, while the pipeline runs: the target equals the source.
"""

from __future__ import annotations

import psycopg
import pytest

from engine.databases.mysql.connect import query
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer

OBJECTS = (
    "CREATE TABLE one (id INT PRIMARY KEY)",
    "CREATE TABLE two (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE noise (id INT PRIMARY KEY)",
    "CREATE VIEW shown AS SELECT id FROM one",
    """
    CREATE TRIGGER both_ AFTER INSERT ON noise FOR EACH ROW BEGIN
      INSERT INTO one VALUES (NEW.id); INSERT INTO two VALUES (NEW.id, 1);
    END
    """,
    "INSERT INTO two VALUES (1, 1), (2, 2)",
)


@pytest.mark.parametrize(
    "server",
    ["mysql", *(pytest.param(it, marks=pytest.mark.slow) for it in ("mariadb_10", "mariadb_11"))],
)
def test_changes_in_statement_format_are_backfilled(
    server: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
) -> None:
    """A trigger changes two tables, a view one, and a temporary table hides one."""
    source: AnyServer = request.getfixturevalue(server)
    writer = Writer(source, fresh_mysql_database(source))
    name = writer.database
    tables = [f"{name}.one", f"{name}.two"]
    writer(*OBJECTS)
    catch_up(make_pipeline(source.url, target_database, tables))
    writer("SET binlog_format = STATEMENT", "INSERT INTO noise VALUES (10), (11)")
    writer("CREATE TEMPORARY TABLE two (id INT)", "TRUNCATE TABLE two", "DROP TABLE two")
    writer("UPDATE two SET v = 3 WHERE id = 2", "DELETE FROM shown WHERE id = 10")
    writer.reconnect()
    writer("INSERT INTO one VALUES (12)")
    catch_up(make_pipeline(source.url, target_database, tables))
    with psycopg.connect(target_database) as target:
        for table in ("one", "two"):
            select = f"SELECT * FROM {name}.{table} ORDER BY id"
            assert target.execute(select).fetchall() == list(query(writer.connection, select))
