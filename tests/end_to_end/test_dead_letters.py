"""
Rows that PostgreSQL refuses are dead letters, with kills, until they are retried.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

MORE = '[errors]\non_error = "dead_letter"\n[backfill]\nchunk_rows = 50\n'


def tailrace(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def assert_listed(config: Path) -> None:
    listed = tailrace("dead-letters", config, "list")
    assert listed.returncode == 3
    assert [line.split()[2:4] for line in listed.stdout.splitlines()] == [
        ["update", "[7]"],
        ["update", "[90]"],
        ["update", "[7]"],
        ["delete", "[90]"],
    ]
    assert "CheckViolation" in listed.stdout
    assert "500" not in listed.stdout
    assert "500" in tailrace("dead-letters", config, "show").stdout


@pytest.mark.timeout(120)
def test_refused_rows_wait_and_are_applied_in_order(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    config = write_config(tmp_path, mysql_family.url, target, f"{database}.*", more=MORE)
    with (
        connect_mysql(mysql_family, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):

        def count(query: str) -> int:
            row = there.execute(query.format(database).encode()).fetchone()
            return 0 if row is None else int(row[0])

        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT, b BLOB)")
        cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
        values = ",".join(f"({number}, 1, x'00ff')" for number in range(1, 201))
        cursor.execute(f"INSERT INTO t VALUES {values}")
        source.commit()
        assert tailrace("run", config, "--until-caught-up").returncode == 0
        there.execute(f'ALTER TABLE "{database}".t ADD CONSTRAINT small CHECK (a < 100)'.encode())
        with EngineProcess(config) as engine:
            engine.wait_status(lambda it: it["state"] == "streaming")
            cursor.execute("UPDATE t SET a = IF(id IN (7, 90), 500, 2)")
            cursor.execute("INSERT INTO other VALUES (1)")
            source.commit()
            wait_until(lambda: count('SELECT count(*) FROM "{}".other') == 1, what="the others")
            engine.kill()
        with EngineProcess(config) as engine:
            cursor.execute("UPDATE t SET a = 3 WHERE id = 7")
            cursor.execute("DELETE FROM t WHERE id = 90")
            cursor.execute("UPDATE t SET a = 4 WHERE id = 8")
            source.commit()
            four = 'SELECT count(*) FROM "{}".t WHERE a = 4'
            wait_until(lambda: count(four) == 1, what="the next row")
            assert count('SELECT a FROM "{}".t WHERE id = 7') == 1
            assert count('SELECT count(*) FROM "{}".t WHERE a = 2') == 197
            assert_listed(config)
            assert "0 of 4" in tailrace("dead-letters", config, "retry").stdout
            there.execute(f'ALTER TABLE "{database}".t DROP CONSTRAINT small'.encode())
            assert "4 of 4" in tailrace("dead-letters", config, "retry").stdout
            engine.kill()
        assert tailrace("dead-letters", config, "list").returncode == 0
        assert tailrace("run", config, "--until-caught-up").returncode == 0
        assert_equal(source, there, database)
