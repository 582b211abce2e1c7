"""
A table that its server cannot read is quarantined, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg

from engine.commands import BackfillTables
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.support.commands import submit
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql


def test_a_crashed_table(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    with (
        connect_mysql(mysql_family, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute("CREATE TABLE crashed (id INT PRIMARY KEY, a TEXT) ENGINE = MyISAM")
        cursor.execute("CREATE TABLE sound (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO crashed VALUES (1, REPEAT('x', 999)), (2, 'y'), (3, 'z')")
        cursor.execute("INSERT INTO sound VALUES (1)")
        source.commit()
        cursor.execute("FLUSH TABLES crashed")
        cursor.execute("SELECT @@datadir")
        ((folder,),) = cursor.fetchall()
        data = Path(str(folder)) / database / "crashed.MYD"
        content = data.read_bytes()
        data.write_bytes(content[:20])
        pipeline = make_pipeline(mysql_family.url, target, [f"{database}.*"])
        catch_up(pipeline)
        crashed, sound = pipeline.status().tables
        assert (crashed.state, sound.state) == ("quarantined", "live"), crashed.reason
        assert "REPAIR" in crashed.remedy or "repair" in crashed.remedy
        data.write_bytes(content)
        cursor.execute("FLUSH TABLES crashed")
        cursor.execute("REPAIR TABLE crashed")
        cursor.fetchall()
        sink = PostgresSink(PostgresSettings(target), "mirror")
        submit(sink, BackfillTables((crashed.table,)))
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.*"]))
        assert_equal(source, there, database)


def test_a_table_whose_keys_read_the_same(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """An invalid value of an ENUM reads like its empty member."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql)
    with (
        connect_mysql(mysql, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute("SET sql_mode = ''")
        cursor.execute("CREATE TABLE alike (k ENUM('a', '') PRIMARY KEY)")
        cursor.execute("CREATE TABLE sound (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO alike VALUES ('invalid'), ('')")
        cursor.execute("INSERT INTO sound VALUES (1)")
        source.commit()
        catch_up(pipeline := make_pipeline(mysql.url, target, [f"{database}.*"]))
        alike, sound = pipeline.status().tables
        assert (alike.state, sound.state) == ("quarantined", "live"), alike.reason
        assert "reads like its member ''" in alike.reason
        assert "backfill" in alike.remedy
        cursor.execute("DELETE FROM alike WHERE k + 0 = 0")
        source.commit()
        submit(PostgresSink(PostgresSettings(target), "mirror"), BackfillTables((alike.table,)))
        catch_up(make_pipeline(mysql.url, target, [f"{database}.*"]))
        assert_equal(source, there, database)
