"""
The main job on every pair of servers: copy under a running writer, then follow, then be equal.
"""

from __future__ import annotations

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
ROWS = 8_000
SMALL_CHUNKS = "[snapshot]\nchunk_rows = 300\nround_seconds = 0.1\n"


@pytest.fixture
def shop(mysql_family: AnyServer) -> Iterator[AnyServer]:
    """A source with a loaded shop."""
    drop_mysql_database(mysql_family, DATABASE)
    load_shop(f"{mysql_family.url}{DATABASE}", ROWS)
    yield mysql_family
    drop_mysql_database(mysql_family, DATABASE)


def test_copy_and_follow(
    shop: AnyServer,
    postgres_family: AnyServer,
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a shop that is written to all the time, and altered WHEN it is copied and followed
    THEN both sides are equal, column by column, and every transaction arrived exactly once."""
    target = fresh_postgres_database(postgres_family)
    config = write_config(tmp_path, shop.url, target, "shop.*", more=SMALL_CHUNKS)
    with ShopWriter(f"{shop.url}{DATABASE}", 200) as writer, EngineProcess(config) as engine:
        engine.wait_status(lambda status: status["copied_rows"] > ROWS / 3, what="some chunks")
        writer.migrate()
        engine.wait_status(
            lambda status: (
                status["state"] == "streaming"
                and status["rows"] > 500
                and all(table["state"] == "live" for table in status["tables"])
            ),
            what="the copy's end",
        )
        counts = writer.stop()
        assert counts.schema_changes > 0
        assert engine.terminate() == 0, engine.tail()
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait() == 0, engine.tail()
    with connect_mysql(shop) as source, psycopg.connect(target, autocommit=True) as there:
        assert_equal(source, there, DATABASE)
        ledger = there.execute("SELECT count(*), count(DISTINCT number) FROM shop.ledger")
        assert ledger.fetchone() == (counts.transactions, counts.transactions)
        indexes = there.execute("SELECT count(*) FROM pg_indexes WHERE schemaname = 'shop'")
        assert indexes.fetchone() > (12,)
