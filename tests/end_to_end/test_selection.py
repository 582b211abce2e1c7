"""
Edits of the configuration's tables, for tables that are followed already.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql


def test_tables_are_left_out_and_followed_again(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    everything = [f"{database}.*"]
    with (
        connect_mysql(mysql_family, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):

        def change() -> None:
            for table in ("kept", "leftout", "dropped"):
                cursor.execute(f"INSERT INTO {table} (a) VALUES (1), (2)")
            source.commit()

        def count(table: str) -> int:
            row = there.execute(f'SELECT count(*) FROM "{database}".{table}'.encode()).fetchone()
            return 0 if row is None else int(row[0])

        for table in ("kept", "leftout", "dropped"):
            cursor.execute(f"CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, a INT)")
        change()
        catch_up(make_pipeline(mysql_family.url, target, everything))
        change()
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.k*"]))
        assert [count(table) for table in ("kept", "leftout", "dropped")] == [4, 2, 2]
        cursor.execute("ALTER TABLE leftout ADD b INT AS (a + 1) VIRTUAL")
        cursor.execute("DROP TABLE dropped")
        cursor.execute("CREATE TABLE dropped (id INT AUTO_INCREMENT PRIMARY KEY, a INT)")
        change()
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.k*"]))
        assert [count(table) for table in ("kept", "leftout", "dropped")] == [6, 2, 2]
        pipeline = make_pipeline(mysql_family.url, target, everything)
        catch_up(pipeline)
        assert {table.state for table in pipeline.status().tables} == {"live"}
        change()
        catch_up(make_pipeline(mysql_family.url, target, everything))
        assert_equal(source, there, database)
