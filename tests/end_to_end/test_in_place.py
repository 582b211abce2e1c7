"""
Tables are backfilled again in place, under load, while the engine is killed and readers read.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from tests.support.background import Background
from tests.support.commands import tailrace
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql

ROWS = 4000
MORE = """
[backfill]
chunk_rows = 400
slice_seconds = 0.02
[retry]
max_seconds = 0.5
"""
#: The definition of each table, and its row of a number.
TABLES = {
    "numbered": ("id BIGINT PRIMARY KEY, a INT UNIQUE, b TEXT", "({n}, {n}, 'x')"),
    "dated": (
        "day DATE, n INT UNSIGNED, a INT, b TEXT, PRIMARY KEY (day, n)",
        "('2020-01-01' + INTERVAL {n} DIV 10 DAY, {n}, {n}, 'x')",
    ),
    "decimal_key": ("id DECIMAL(20,4) PRIMARY KEY, a INT, b TEXT", "({n} / 8 - 90, {n}, 'x')"),
    "text_key": (
        "id VARCHAR(20) COLLATE utf8mb4_unicode_ci, n SET('y'), a INT, b TEXT, PRIMARY KEY (id, n)",
        "(CONCAT(IF({n} % 2, 'b', 'A'), {n} % 70, '_', {n}), {n} % 2, {n}, 'x')",
    ),
    "binary_key": ("id VARBINARY(12) PRIMARY KEY, a INT, b TEXT", "(UNHEX(HEX({n})), {n}, 'x')"),
}
UNFIT = {
    "keyless": "a INT",
}


class Load(Background):
    """Changes rows of all tables at random, and reads those that do not change."""

    def __init__(self, server: AnyServer, database: str, target: str) -> None:
        super().__init__(self._write, self._read)
        self._server, self._database, self._target = server, database, target
        self.missing: set[str] = set()
        self.reads = 0

    def _write(self, stopping: threading.Event) -> None:
        chance = random.Random(7)
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            while not stopping.wait(0.005):
                for table, (_, row) in TABLES.items():
                    n, other = (chance.randrange(ROWS // 2, ROWS * 3 // 2) for _ in range(2))
                    statements = (
                        f"INSERT INTO {table} VALUES {row.format(n=n)}",
                        f"DELETE FROM {table} WHERE a = {n}",
                        f"UPDATE {table} SET b = '{n}' WHERE a = {other}",
                        f"UPDATE {table} SET a = {other} WHERE a = {n}",
                        f"UPDATE text_key SET id = UPPER(id) WHERE a = {other}",
                    )
                    try:
                        cursor.execute(chance.choice(statements))
                    except pymysql.err.IntegrityError:  # the row or the value exists
                        continue
                session.commit()

    def _read(self, stopping: threading.Event) -> None:
        with psycopg.connect(self._target, autocommit=True) as session:
            while not stopping.wait(0.005):
                for table in TABLES:
                    query = (
                        f'SELECT count(*) FROM "{self._database}".{table}'
                        f" WHERE a BETWEEN 1 AND {ROWS // 2 - 1} AND a % 10 <> 0"
                    )
                    (count,) = session.execute(query.encode()).fetchone() or (0,)
                    self.reads += 1
                    if count != sum(n % 10 != 0 for n in range(1, ROWS // 2)):
                        self.missing.add(f"{table}: {count}")


def make_tables(source: Any) -> None:
    with source.cursor() as cursor:
        for table, (columns, row) in TABLES.items():
            cursor.execute(f"CREATE TABLE {table} ({columns})")
            values = ",".join(row.format(n=n) for n in range(1, ROWS))
            cursor.execute(f"INSERT INTO {table} VALUES {values}")
        for table, columns in UNFIT.items():
            cursor.execute(f"CREATE TABLE {table} ({columns})")
    source.commit()


def change_without_log(source: Any) -> None:
    """Change, delete and insert rows, also with values that other rows had."""
    with source.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0")
        for table, (_, row) in TABLES.items():
            cursor.execute(f"UPDATE {table} SET b = 'changed' WHERE a % 3 = 0")
            cursor.execute(f"DELETE FROM {table} WHERE a % 10 = 0 OR a > {ROWS - 100}")
            for n in (ROWS * 2, ROWS * 2 + 1):
                cursor.execute(f"INSERT INTO {table} VALUES {row.format(n=n)}")
        cursor.execute("SET SESSION sql_log_bin = 1")
    source.commit()


def in_backfill(status: dict[str, Any]) -> bool:
    return any(it["state"] == "backfilling" and it["rows"] > 100 for it in status["tables"])


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "server",
    ["mysql", *(pytest.param(it, marks=pytest.mark.slow) for it in ("mariadb_10", "mariadb_11"))],
)
def test_rows_are_replaced_by_key(
    server: str,
    request: pytest.FixtureRequest,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    source_server: AnyServer = request.getfixturevalue(server)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(source_server)
    config = write_config(tmp_path, source_server.url, target, f"{database}.*", more=MORE)
    with (
        connect_mysql(source_server, database) as source,
        psycopg.connect(target, autocommit=True) as there,
    ):
        make_tables(source)
        catch_up(make_pipeline(source_server.url, target, [f"{database}.*"]))
        identity = f"SELECT '\"{database}\".numbered'::regclass::oid"
        before = there.execute(identity.encode()).fetchone()
        there.execute(f'CREATE VIEW shown AS SELECT a FROM "{database}".numbered'.encode())
        change_without_log(source)
        names = [f"{database}.{table}" for table in TABLES]
        for table in UNFIT:
            refused = tailrace(0, "backfill", config, f"{database}.{table}", "--in-place")
            assert "no engine" in refused
        with Load(source_server, database, target) as load:
            with EngineProcess(config) as engine:
                engine.wait_status(lambda it: len(it["tables"]) == len(TABLES) + len(UNFIT))
                # The engine may connect anew, because it executes the commands before.
                tailrace(0, "backfill", config, *names, "--in-place")
                engine.wait_status(in_backfill)
                engine.kill()
            with EngineProcess(config) as engine:
                engine.wait_status(in_backfill)
                engine.kill()
            with EngineProcess(config) as engine:
                engine.wait_live()
                assert engine.terminate() == 0
        assert not load.missing
        assert load.reads > 20
        catch_up(make_pipeline(source_server.url, target, [f"{database}.*"]))
        assert_equal(source, there, database)
        assert there.execute(identity.encode()).fetchone() == before
        rows = there.execute(b"SELECT count(*) > 100 FROM shown").fetchone()
        assert rows == (True,)
        index = "SELECT count(*) FROM pg_index WHERE indrelid = $1::oid AND indisunique"
        assert before is not None
        assert there.execute(index.replace("$1", "%s").encode(), before).fetchone() == (2,)
        listed = tailrace(0, "commands", config, "--json")
        assert "the table has no key" in listed
        assert "in place" in listed
