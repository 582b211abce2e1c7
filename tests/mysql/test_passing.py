"""
``tailrace skip``: an event, or a transaction, is passed over once, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from engine.errors import ConfigError
from sources.mysql.position import MySQLPosition, parse_position
from tests.support.engine_process import write_config
from tests.support.servers import AnyServer, connect_mysql

STOP = '[errors]\non_error = "stop"\n[backfill]\nunlogged_change = "stop"\n'


def tailrace(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_a_place_is_part_of_the_position() -> None:
    start = MySQLPosition("s", "bin.000002", 100)
    passing = start.pass_over("bin.000002:900", whole=False).pass_over("bin.000003:4", whole=True)
    assert passing.passing == {"bin.000002:900", "bin.000003:4+"}
    assert parse_position(str(passing)) == passing
    assert "passing" not in str(start)
    assert start.pass_over("bin.000002:100", whole=True).passing
    for place, whole in (("bin.000002:100", False), ("bin.000001:900", True), ("900", False)):
        with pytest.raises(ConfigError):
            start.pass_over(place, whole=whole)


@pytest.mark.parametrize(
    "server", ["mysql", "mariadb_11", pytest.param("mariadb_10", marks=pytest.mark.slow)]
)
def test_a_statement_or_a_transaction_is_passed_over(
    request: pytest.FixtureRequest,
    server: str,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    there_is: AnyServer = request.getfixturevalue(server)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(there_is)
    config = write_config(tmp_path, there_is.url, target, f"{database}.*", more=STOP)

    def skip(option: str) -> None:
        stopped = tailrace("run", config, "--until-caught-up")
        assert stopped.returncode == 1
        (line,) = [
            line for line in stopped.stderr.split("`") if f"tailrace skip {config} {option}" in line
        ]
        asked = tailrace(*line.split()[1:])
        assert asked.returncode == 2
        assert "will not be applied" in asked.stdout
        assert "no engine" in tailrace(*line.split()[1:], "--yes").stdout

    with (
        connect_mysql(there_is, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
        source.commit()
        assert tailrace("run", config, "--until-caught-up").returncode == 0
        with connect_mysql(there_is, database) as session, session.cursor() as loose:
            loose.execute("SET SESSION binlog_format = 'STATEMENT'")
            loose.execute("UPDATE t SET a = 77 WHERE id = 1")
            session.commit()
            cursor.execute("INSERT INTO other VALUES (1)")
            source.commit()
            loose.execute("BEGIN")
            loose.execute("UPDATE t SET a = 88 WHERE id = 2")
            loose.execute("INSERT INTO t VALUES (3, 3)")
            session.commit()
        cursor.execute("INSERT INTO other VALUES (2)")
        cursor.execute("INSERT INTO t VALUES (4, 4)")
        source.commit()
        skip("--statement")
        skip("--transaction")
        done = tailrace("run", config, "--until-caught-up")
        assert done.returncode == 0, done.stderr
        rows = there.execute(f'SELECT id, a FROM "{database}".t ORDER BY 1'.encode()).fetchall()
        assert rows == [(1, 1), (2, 2), (4, 4)]
        others = there.execute(f'SELECT count(*) FROM "{database}".other'.encode()).fetchone()
        assert others == (2,)
        position = there.execute("SELECT position FROM tailrace.checkpoint").fetchone()
        assert position is not None
        assert "passing" not in position[0]
        commands = there.execute("SELECT count(*) FROM tailrace.command WHERE NOT refused")
        assert commands.fetchone() == (2,)
        assert tailrace("verify", config, "--deadline-seconds", "3").returncode == 3
