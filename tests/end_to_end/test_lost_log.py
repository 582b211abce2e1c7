"""
A pipeline whose log is lost goes on by a command, and a pipeline is forgotten by one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
from pymysql.cursors import Cursor

from tests.support.commands import run_tailrace
from tests.support.compare import assert_equal
from tests.support.engine_process import write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until


def purge(cursor: Cursor) -> None:
    """Remove all log files but a new one. The server keeps those that it still sends."""
    cursor.execute("FLUSH BINARY LOGS")

    def purged() -> bool:
        cursor.execute("SHOW BINARY LOGS")
        files = [str(row[0]) for row in cursor.fetchall()]
        cursor.execute(f"PURGE BINARY LOGS TO '{files[-1]}'")
        return len(files) == 1

    wait_until(purged, what="the purge of the log")


def test_after_a_purged_log_all_tables_are_read_again(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    config = write_config(tmp_path, mysql_family.url, target, f"{database}.*")
    with (
        connect_mysql(mysql_family, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        for table in ("a", "b"):
            cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, x INT)")
            cursor.execute(f"INSERT INTO {table} VALUES (1, 1), (2, 2)")
        cursor.execute("CREATE TABLE keyless (x INT)")
        source.commit()
        assert run_tailrace("run", config, "--until-caught-up").returncode == 0
        cursor.execute("UPDATE a SET x = 5 WHERE id = 1")
        cursor.execute("DELETE FROM b WHERE id = 2")
        cursor.execute("INSERT INTO keyless VALUES (1), (1)")
        source.commit()
        purge(cursor)
        stopped = run_tailrace("run", config, "--until-caught-up")
        assert stopped.returncode == 1, stopped.stderr
        remedy = f"`tailrace backfill {config} --all`"
        assert remedy in stopped.stderr
        assert "no engine" in run_tailrace("backfill", config, "--all").stdout
        done = run_tailrace("run", config, "--until-caught-up")
        assert done.returncode == 0, done.stderr
        assert_equal(source, there, database)

        asked = run_tailrace("reset", config)
        assert asked.returncode == 2
        assert "3 tables are forgotten" in asked.stdout
        assert "--yes" in asked.stderr
        assert run_tailrace("tables", config).returncode == 0
        assert "3 tables are dropped" in run_tailrace("reset", config, "--drop", "--yes").stdout
        assert "no state" in run_tailrace("reset", config, "--yes").stdout
        assert run_tailrace("run", config, "--until-caught-up").returncode == 0
        assert_equal(source, there, database)
