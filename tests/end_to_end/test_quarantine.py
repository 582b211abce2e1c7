"""
Each way into quarantine and out of it, while other tables stream and the engine is killed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

ROWS = 300
MORE = """
[backfill]
chunk_rows = 50
slice_seconds = 0.01
unlogged_change = "quarantine"
[retry]
max_seconds = 0.5
"""

#: By the table in trouble: what the target is given beforehand, what the source executes then, and
#: what removes the cause.
TROUBLES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "constrained": (
        "ALTER TABLE {name} ADD CONSTRAINT small CHECK (a < 1000)",
        ("UPDATE {table} SET a = 5000 WHERE id = 7",),
        "ALTER TABLE {name} DROP CONSTRAINT small",
    ),
    "unique_value": (
        "CREATE UNIQUE INDEX own_unique ON {name} (a)",
        ("UPDATE {table} SET a = 1 WHERE id = 2",),
        "DROP INDEX {schema}.own_unique",
    ),
    "column_dropped": (
        "ALTER TABLE {name} DROP COLUMN a",
        ("UPDATE {table} SET a = a + 1",),
        "SELECT",
    ),
    "statement_format": (
        "SELECT",
        ("SET SESSION binlog_format = 'STATEMENT'", "UPDATE {table} SET a = a + 1"),
        "SELECT",
    ),
    "not_logged": (
        "SELECT",
        ("ALTER TABLE {table} ADD g BIGINT AS (a + 1) VIRTUAL",),
        "SELECT",
    ),
    "too_long": (
        "CREATE INDEX own_long ON {name} (b)",
        ("UPDATE {table} SET b = (SELECT GROUP_CONCAT(SHA2(id, 256)) FROM constrained)",),
        "DROP INDEX {schema}.own_long",
    ),
}


class Load:
    """Writes to all tables, and reads those in trouble on the target all the time."""

    def __init__(self, server: AnyServer, database: str, target: str) -> None:
        self._server, self._database, self._target = server, database, target
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=it) for it in (self._write, self._read)]
        self.fewest = ROWS

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _write(self) -> None:
        number = ROWS
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            while not self._stopping.wait(0.01):
                number += 1
                for table in TROUBLES:
                    values = f"({number}, {number}, '')"
                    cursor.execute(f"INSERT INTO {table} (id, a, b) VALUES {values}")
                cursor.execute("INSERT INTO other VALUES (%s)", (number,))
                session.commit()

    def _read(self) -> None:
        with psycopg.connect(self._target, autocommit=True) as session:
            while not self._stopping.wait(0.005):
                for table in TROUBLES:
                    query = f'SELECT count(*) FROM "{self._database}".{table}'
                    (count,) = session.execute(query.encode()).fetchone() or (0,)
                    self.fewest = min(self.fewest, count)


def tailrace(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def states_of(status: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {it["table"].partition(".")[2]: it["state"] for it in status["tables"]}


class Mirror:
    """A mirrored database with a table for each trouble, and one without."""

    def __init__(self, source: Any, target: psycopg.Connection[Any], database: str) -> None:
        self._target, self._database = target, database
        values = ",".join(f"({number}, {number}, '')" for number in range(1, ROWS + 1))
        with source.cursor() as cursor:
            cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
            cursor.execute("INSERT INTO other VALUES (1)")
            for table in TROUBLES:
                cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT, b TEXT)")
                cursor.execute(f"INSERT INTO {table} VALUES {values}")
        source.commit()

    def rows(self) -> int:
        """The number of rows of the table without trouble, on the target."""
        found = self._target.execute(f'SELECT count(*) FROM "{self._database}".other'.encode())
        return int((found.fetchone() or (0,))[0])

    def on_the_target(self, part: int) -> None:
        """Execute this part of each trouble."""
        for table, trouble in TROUBLES.items():
            names = {"name": f'"{self._database}".{table}', "schema": f'"{self._database}"'}
            self._target.execute(str(trouble[part]).format(**names).encode())


def make_trouble(server: AnyServer, database: str) -> None:
    for table, (_, statements, _) in TROUBLES.items():
        with connect_mysql(server, database) as session, session.cursor() as cursor:
            cursor.execute("SET SESSION group_concat_max_len = 1000000")
            for statement in statements:
                cursor.execute(statement.format(table=table))
            session.commit()


def assert_explained(status: dict[str, Any], config: Path) -> None:
    for it in status["tables"]:
        if it["state"] == "quarantined":
            assert it["reason"], it
            assert it["position"], it
            assert f"`tailrace backfill {config} {it['table']}`" in it["remedy"]


@pytest.mark.timeout(180)
def test_each_way_in_and_out(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    config = write_config(tmp_path, mysql_family.url, target, f"{database}.*", more=MORE)
    left_out = {**dict.fromkeys(TROUBLES, "quarantined"), "other": "live"}
    with (
        connect_mysql(mysql_family, database) as source,
        psycopg.connect(target, autocommit=True) as there,
    ):
        mirror = Mirror(source, there, database)
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.*"]))
        mirror.on_the_target(0)
        with Load(mysql_family, database, target) as load:
            with EngineProcess(config) as engine:
                wait_until(lambda: mirror.rows() > 50, what="rows")
                make_trouble(mysql_family, database)
                status = engine.wait_status(lambda it: states_of(it) == left_out)
                assert_explained(status, config)
                engine.kill()
            there_were = mirror.rows()
            with EngineProcess(config) as engine:  # still in quarantine, the others go on
                wait_until(lambda: mirror.rows() > there_were, what="more rows")
                engine.wait_status(lambda it: states_of(it) == left_out)
                mirror.on_the_target(2)
                first, second, *others = [f"{database}.{table}" for table in TROUBLES]
                assert "read again" in tailrace("backfill", config, first, second)
                engine.kill()
            assert "no engine" in tailrace("backfill", config, *others)
            for _ in range(2):
                with EngineProcess(config) as engine:
                    wait_until(lambda: (engine.status() or {}).get("tables"), what="the status")
                    engine.kill()
            with EngineProcess(config) as engine:
                engine.wait_status(lambda it: set(states_of(it).values()) == {"live"})
                assert engine.terminate() == 0
        assert load.fewest == ROWS
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.*"]))
        assert_equal(source, there, database)
