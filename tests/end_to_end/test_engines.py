"""
The engine as a process: two engines of one pipeline, and how an engine stops.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.demo.writer import ShopWriter
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer
from tests.support.shops import Shop, assert_mirrored, catch_up

SMALL_CHUNKS = "[backfill]\nchunk_rows = 300\nslice_seconds = 0.1\n"


@pytest.fixture
def shop(mysql: AnyServer, new_shop: Callable[[AnyServer, int], Shop]) -> Shop:
    """A shop whose backfill takes some time."""
    return new_shop(mysql, 6_000)


def test_the_older_of_two_engines_stops(shop: Shop, target_database: str, tmp_path: Path) -> None:
    """GIVEN a running engine WHEN a second one starts on the same pipeline THEN the first ends with
    an error that names the reason, the second continues, and both sides are equal."""
    config = write_config(
        tmp_path, shop.server.url, target_database, shop.tables, more=SMALL_CHUNKS
    )
    with ShopWriter(shop.url, 200) as writer, EngineProcess(config) as older:
        older.wait_status(lambda status: status["backfilled_rows"] > 500)
        with EngineProcess(config) as newer:
            assert older.wait(30) == 4
            assert "newer" in older.log.read_text()  # both write to it
            newer.wait_status(lambda status: status["state"] == "streaming" and status["rows"] > 50)
            counts = writer.stop()
            assert newer.terminate() == 0, newer.tail()
    catch_up(config)
    assert_mirrored(shop, target_database, counts.transactions)


def test_an_engine_that_resumes_after_its_successor_started_changes_nothing(
    shop: Shop, target_database: str, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path, shop.server.url, target_database, shop.tables, more=SMALL_CHUNKS
    )
    with ShopWriter(shop.url, 200) as writer, EngineProcess(config) as older:
        older.wait_status(lambda status: status["rows"] > 50)
        older.process.send_signal(signal.SIGSTOP)
        with EngineProcess(config) as newer:
            newer.wait_status(lambda status: status["rows"] > 50)
            older.process.send_signal(signal.SIGCONT)
            assert older.wait(30) == 4
            counts = writer.stop()
            assert newer.terminate() == 0, newer.tail()
    catch_up(config)
    assert_mirrored(shop, target_database, counts.transactions)


@pytest.mark.parametrize(("interrupts", "statuses", "seconds"), [(1, {0}, 10), (2, {0, 1}, 5)])
def test_an_interrupt_drains_and_a_second_one_stops_at_once(
    shop: Shop,
    target_database: str,
    tmp_path: Path,
    interrupts: int,
    statuses: set[int],
    seconds: float,
) -> None:
    config = write_config(
        tmp_path, shop.server.url, target_database, shop.tables, more=SMALL_CHUNKS
    )
    with ShopWriter(shop.url, 200) as writer:
        with EngineProcess(config) as engine:
            engine.wait_status(lambda status: status["backfilled_rows"] > 500)
            for _ in range(interrupts):
                engine.process.send_signal(signal.SIGINT)
            assert engine.wait(seconds) in statuses, engine.tail()
        counts = writer.stop()
    catch_up(config)
    assert_mirrored(shop, target_database, counts.transactions)
