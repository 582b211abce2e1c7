"""
Partitions are added, dropped, emptied and exchanged under load, and the engine is killed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from tests.support.background import Background
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

SLOW = "[backfill]\nchunk_rows = 20\nslice_seconds = 0.01\n"
#: The number of partitions, each with the ids of one day.
DAYS = 4
#: The server errors of a statement whose partition is gone, or whose row is there already.
EXPECTED = (1205, 1213, 1526, 1062, 1412, 1748)


class Load(Background):
    """Inserts, updates, deletes and moves rows all the time, with whole and partial images."""

    def __init__(self, server: AnyServer, database: str, seed: int) -> None:
        super().__init__(self._write)
        self._server, self._database = server, database
        self._dice = random.Random(seed)
        self.first = 0

    def _write(self, stopping: threading.Event) -> None:
        dice = self._dice
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            while not stopping.wait(0.005):
                if dice.random() < 0.02:
                    image = dice.choice(["FULL", "FULL", "MINIMAL"])
                    cursor.execute(f"SET SESSION binlog_row_image = '{image}'")
                id, day = dice.randrange(400), self.first + dice.randrange(DAYS)
                other = self.first + dice.randrange(DAYS)
                statement = dice.choice(
                    [
                        f"INSERT INTO t VALUES ({id}, {day}, 'i', 0)",
                        f"UPDATE t SET n = n + 1 WHERE id = {id}",
                        f"UPDATE t SET v = 'u' WHERE id = {id} AND day = {day}",
                        f"DELETE FROM t WHERE id = {id} AND day = {day}",
                        f"UPDATE t SET day = {other} WHERE id = {id} AND day = {day}",
                    ]
                )
                try:
                    cursor.execute(statement)
                    session.commit()
                except pymysql.MySQLError as error:
                    if error.args[0] not in EXPECTED:
                        raise
                    session.rollback()


def roll(cursor: Any, load: Load, spare: str, dice: random.Random) -> None:
    """Change the partitions in one of the ways in which tables of this kind are maintained."""
    first = load.first
    day = first + dice.randrange(DAYS)
    exchange = f"ALTER TABLE t EXCHANGE PARTITION p{day} WITH TABLE {spare}.s"
    match dice.randrange(4):
        case 0:
            new = first + DAYS
            statements = [
                f"ALTER TABLE t ADD PARTITION (PARTITION p{new} VALUES IN ({new}))",
                f"ALTER TABLE t DROP PARTITION p{first}",
            ]
            load.first += 1
        case 1:
            statements = [f"ALTER TABLE t TRUNCATE PARTITION p{day}"]
        case 2:
            rows = ", ".join(f"({id}, {day}, 's', -1)" for id in range(0, 400, 3))
            statements = [
                f"DELETE FROM {spare}.s",
                f"INSERT INTO {spare}.s VALUES {rows}",
                exchange,
            ]
        case _:  # the partition is kept elsewhere
            statements = [f"DELETE FROM {spare}.s", exchange, f"DELETE FROM {spare}.s"]
            statements += [f"ALTER TABLE t TRUNCATE PARTITION p{day}"] * dice.randrange(2)
    for statement in statements:
        cursor.execute(statement)


def wait_for(seconds: float) -> None:
    """Return at some moment later, while the engine and the load go on."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("server", "rounds"),
    [
        ("mysql", 4),
        pytest.param("mysql", 30, marks=pytest.mark.slow),
        pytest.param("mariadb_11", 30, marks=pytest.mark.slow),
        pytest.param("mariadb_10", 30, marks=pytest.mark.slow),
    ],
)
def test_rolling_partitions(
    request: pytest.FixtureRequest,
    server: str,
    rounds: int,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a table under load WHEN its partitions are changed and the engine is killed a moment
    later, again and again, from its first backfill on THEN both sides are equal."""
    source_server: AnyServer = request.getfixturevalue(server)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(source_server)
    spare, tables = fresh_mysql_database(source_server), f"{database}.*"
    config = write_config(tmp_path, source_server.url, target, tables, more=SLOW)
    dice = random.Random(rounds)
    columns = "id INT, day INT, v VARCHAR(9), n INT, PRIMARY KEY (id, day)"
    with (
        connect_mysql(source_server, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        days = ", ".join(f"PARTITION p{day} VALUES IN ({day})" for day in range(DAYS))
        cursor.execute(f"CREATE TABLE t ({columns}) PARTITION BY LIST (day) ({days})")
        cursor.execute(f"CREATE TABLE {spare}.s ({columns})")
        rows = ", ".join(f"({id}, {id % DAYS}, 'old', 0)" for id in range(400))
        cursor.execute(f"INSERT INTO t VALUES {rows}")
        source.commit()
        with Load(source_server, database, rounds) as load:
            for _ in range(rounds):
                with EngineProcess(config) as engine:
                    engine.wait_status(lambda status: status["state"] != "connecting")
                    roll(cursor, load, spare, dice)
                    source.commit()
                    wait_for(dice.uniform(0, 1))
                    engine.kill()
        pipeline = make_pipeline(source_server.url, target, [tables])
        catch_up(pipeline)
        assert {it.state for it in pipeline.status().tables} == {"live"}
        assert_equal(source, there, database)
