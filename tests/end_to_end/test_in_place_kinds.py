"""
Every kind of table is backfilled again in place: children of foreign keys, computed columns, mapped
and merged tables, many small ones, one with rows that the target refuses. While rows change, and
with SIGKILL in between.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pymysql
import pytest

from engine.cli.main import main
from tests.support.background import Background
from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

MORE = """
[errors]
on_error = "dead_letter"
[sink.values]
nul_byte = "error"
[backfill]
chunk_rows = 50
slice_seconds = 0.02
[retry]
max_seconds = 0.5
[mapping."*.people"]
to = "crm.*"
select = "id, CONCAT(name, '!') AS called, kept"
where = "kept = 1"
[mapping."*.order_*"]
to = "*.orders"
merge = {{ shop = "table" }}
"""
ROWS = 600
REFERS = "FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE"
SMALL = tuple(f"small_{number}" for number in range(5))
#: The columns of each table, and the values of a row of number ``{n}``. A parent is before its
#: children.
TABLES = {
    "parent": ("id INT PRIMARY KEY, a INT", "({n}, {n})"),
    "child": (
        f"id INT PRIMARY KEY, a INT, p INT, {REFERS} ON UPDATE SET NULL",
        "({n}, {n}, {n} % 300 + 1)",
    ),
    "labeled_child": (
        f"id VARCHAR(20) PRIMARY KEY, a INT, p INT, {REFERS}",
        "(CONCAT(IF({n} % 2, 'b_', 'A_'), {n}), {n}, {n} % 300 + 1)",
    ),
    "computed": (
        "id INT PRIMARY KEY, a INT, double_a INT AS (a * 2) STORED, twice INT AS (a + a) VIRTUAL",
        "({n}, {n}, DEFAULT, DEFAULT)",
    ),
    "people": ("id INT PRIMARY KEY, a INT, name VARCHAR(20), kept INT", "({n}, {n}, 'x', {n} % 3)"),
    "order_north": ("id INT PRIMARY KEY, a INT", "({n}, {n})"),
    "order_south": ("id INT PRIMARY KEY, a INT", "({n}, {n})"),
    "lettered": (
        "id INT PRIMARY KEY, a INT, one INT UNIQUE, b VARCHAR(20)",
        "({n}, {n}, {n}, 'x')",
    ),
    **dict.fromkeys(SMALL, ("id CHAR(36) PRIMARY KEY, a INT", "(UUID(), {n})")),
}
#: Rows that nothing else changes.
STILL = 10


def create(cursor: pymysql.cursors.Cursor) -> None:
    for table, (columns, row) in TABLES.items():
        rows = 20 if table in SMALL else ROWS
        cursor.execute(f"CREATE TABLE {table} ({columns})")
        cursor.execute(
            f"INSERT INTO {table} VALUES {','.join(row.format(n=n) for n in range(1, rows))}"
        )


def change_without_log(cursor: pymysql.cursors.Cursor) -> None:
    cursor.execute("SET SESSION sql_log_bin = 0")
    for table, (_, row) in reversed(TABLES.items()):
        cursor.execute(f"DELETE FROM {table} WHERE a % 7 = 3 AND a > {STILL}")
        cursor.execute(f"UPDATE {table} SET a = a + 1000 WHERE a % 5 = 1 AND a > {STILL}")
        cursor.execute(f"INSERT INTO {table} VALUES {row.format(n=5000)}")
    cursor.execute("UPDATE lettered SET one = one + 1 WHERE one > 100 ORDER BY one DESC")
    cursor.execute(r"UPDATE lettered SET b = 'a\0b' WHERE id = 1")
    cursor.execute("SET SESSION sql_log_bin = 1")


class Load(Background):
    """Changes rows of all tables at random."""

    def __init__(self, server: AnyServer, database: str) -> None:
        super().__init__(self._write)
        self._server, self._database = server, database
        self.done = 0

    def _write(self, stopping: threading.Event) -> None:
        chance = random.Random(11)
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            while not stopping.wait(0.01):
                table = chance.choice(list(TABLES))
                n, other = (chance.randrange(STILL + 1, ROWS + 200) for _ in range(2))
                statements = [
                    f"INSERT INTO {table} VALUES {TABLES[table][1].format(n=n)}",
                    f"DELETE FROM {table} WHERE a = {n}",
                    f"UPDATE {table} SET a = {other} WHERE a = {n}",
                    f"DELETE FROM parent WHERE id = {n}",
                    f"UPDATE parent SET id = {other} WHERE id = {n}",
                    f"UPDATE people SET kept = 1 - kept WHERE id = {n}",
                    f"UPDATE labeled_child SET id = UPPER(id) WHERE a = {n}",
                ]
                try:
                    cursor.execute(chance.choice(statements))
                    session.commit()
                    self.done += 1
                except (pymysql.err.IntegrityError, pymysql.err.OperationalError):
                    session.rollback()  # such as a value too few after a column was added


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["mysql", "mariadb_11"])
def test_all_kinds_of_tables(
    server: str,
    request: pytest.FixtureRequest,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    source: AnyServer = request.getfixturevalue(server)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(source)
    config = write_config(tmp_path, source.url, target, f"{database}.*", more=MORE.format())
    with connect_mysql(source, database) as session, session.cursor() as cursor:
        create(cursor)
        session.commit()
        assert main(["run", str(config), "--until-caught-up"]) == 0
        change_without_log(cursor)
        session.commit()
        assert main(["verify", str(config), "--deadline-seconds", "3", "--no-record"]) == 3
        told = tailrace(0, "backfill", config, f"{database}.*", "--in-place")
        assert "the command is stored" in told
        with Load(source, database) as load:
            with EngineProcess(config) as engine:
                engine.wait_status(
                    lambda it: (
                        any(t["state"] == "live" and t["rows"] for t in it["tables"])
                        and any(t["state"] != "live" for t in it["tables"])
                    )
                )
                cursor.execute("ALTER TABLE computed ADD COLUMN more INT DEFAULT (a + 1)")
                engine.kill()
            with EngineProcess(config) as engine:
                engine.wait_live(120)
                done = load.done
                wait_until(lambda: load.done > done + 20)
                assert engine.terminate() == 0
        cursor.execute("DELETE FROM lettered WHERE id = 1")  # its change waits behind the letter
        session.commit()
    assert main(["run", str(config), "--until-caught-up"]) == 3
    assert main(["dead-letters", str(config), "discard", "--yes"]) == 0
    assert main(["backfill", str(config), f"{database}.lettered", "--in-place"]) == 0
    assert main(["run", str(config), "--until-caught-up"]) == 0
    assert main(["verify", str(config)]) == 0
    with psycopg.connect(target) as there:
        unique = there.execute(
            "SELECT count(*) FROM pg_index WHERE indisunique AND indrelid = %s::regclass",
            (f"{database}.lettered",),
        ).fetchone()
        twins = there.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE 'tailrace\\_twin\\_%'"
        ).fetchall()
    assert (unique, twins) == ((2,), [])
