"""
The engine as a process: two of them on one pipeline, and how it stops.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from engine.demo.shop import load_shop
from engine.demo.writer import ShopWriter
from tests.compare import assert_equal
from tests.engine_process import EngineProcess, write_config
from tests.servers import AnyServer, connect_mysql, drop_mysql_database

DATABASE = "shop"
SMALL_CHUNKS = "[snapshot]\nchunk_rows = 300\nround_seconds = 0.1\n"


@pytest.fixture
def shop(mysql: AnyServer) -> Iterator[str]:
    """The URL of a loaded shop."""
    drop_mysql_database(mysql, DATABASE)
    load_shop(f"{mysql.url}{DATABASE}", 6_000)
    yield f"{mysql.url}{DATABASE}"
    drop_mysql_database(mysql, DATABASE)


@pytest.fixture
def target(postgres: AnyServer, fresh_postgres_database: Callable[[AnyServer], str]) -> str:
    """The URL of an empty database."""
    return fresh_postgres_database(postgres)


def finish(config: Path, source: AnyServer, target: str, transactions: int) -> None:
    """Catch up in peace: both sides are equal and the ledger is exact."""
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait() == 0, engine.tail()
    with connect_mysql(source) as left, psycopg.connect(target, autocommit=True) as right:
        assert_equal(left, right, DATABASE)
        ledger = right.execute("SELECT count(*), count(DISTINCT number) FROM shop.ledger")
        assert ledger.fetchone() == (transactions, transactions)


def test_the_older_of_two_engines_stops(
    mysql: AnyServer, shop: str, target: str, tmp_path: Path
) -> None:
    """GIVEN an engine at work WHEN a second one starts on the same pipeline THEN the first ends
    with an error that says so, the second goes on, and the data stay right."""
    config = write_config(tmp_path, mysql.url, target, "shop.*", more=SMALL_CHUNKS)
    with ShopWriter(shop, 200) as writer, EngineProcess(config) as older:
        older.wait_status(lambda status: status["copied_rows"] > 500)
        with EngineProcess(config) as newer:
            assert older.wait(30) == 1
            assert "newer" in older.tail()
            newer.wait_status(lambda status: status["state"] == "streaming" and status["rows"] > 50)
            counts = writer.stop()
            assert newer.terminate() == 0, newer.tail()
    finish(config, mysql, target, counts.transactions)


def test_a_frozen_engine_that_wakes_after_its_successor_changes_nothing(
    mysql: AnyServer, shop: str, target: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, mysql.url, target, "shop.*", more=SMALL_CHUNKS)
    with ShopWriter(shop, 200) as writer, EngineProcess(config) as older:
        older.wait_status(lambda status: status["rows"] > 50)
        older.process.send_signal(signal.SIGSTOP)
        with EngineProcess(config) as newer:
            newer.wait_status(lambda status: status["rows"] > 50)
            older.process.send_signal(signal.SIGCONT)
            assert older.wait(30) == 1
            counts = writer.stop()
            assert newer.terminate() == 0, newer.tail()
    finish(config, mysql, target, counts.transactions)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_drains_and_a_second_one_stops_at_once(
    mysql: AnyServer, shop: str, target: str, tmp_path: Path, interrupts: int
) -> None:
    config = write_config(tmp_path, mysql.url, target, "shop.*", more=SMALL_CHUNKS)
    with ShopWriter(shop, 200) as writer:
        with EngineProcess(config) as engine:
            engine.wait_status(lambda status: status["copied_rows"] > 500)
            for _ in range(interrupts):
                engine.process.send_signal(signal.SIGINT)
            assert engine.wait(20) in ((0,) if interrupts == 1 else (0, 1)), engine.tail()
        counts = writer.stop()
    finish(config, mysql, target, counts.transactions)
