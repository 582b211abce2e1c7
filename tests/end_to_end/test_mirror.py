"""
Backfill and stream on every pair of servers, while an application writes. At the end both sides are
equal.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg

from engine.demo.writer import ShopWriter
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer
from tests.support.shops import Shop, assert_mirrored, catch_up

ROWS = 8_000
SMALL_CHUNKS = "[backfill]\nchunk_rows = 300\nslice_seconds = 0.1\n"


def test_backfill_and_stream(
    mysql_family: AnyServer,
    postgres_family: AnyServer,
    new_shop: Callable[[AnyServer, int], Shop],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a shop that is written to all the time, and altered WHEN it is backfilled and streamed
    THEN both sides are equal, column by column, and every transaction arrived exactly once."""
    shop, target = new_shop(mysql_family, ROWS), fresh_postgres_database(postgres_family)
    config = write_config(tmp_path, mysql_family.url, target, shop.tables, more=SMALL_CHUNKS)
    with ShopWriter(shop.url, 200) as writer, EngineProcess(config) as engine:
        engine.wait_status(lambda status: status["backfilled_rows"] > ROWS / 3, what="some chunks")
        writer.migrate()
        engine.wait_status(
            lambda status: (
                status["state"] == "streaming"
                and status["rows"] > 500
                and all(table["state"] == "live" for table in status["tables"])
            ),
            what="the end of the backfill",
        )
        counts = writer.stop()
        assert counts.schema_changes > 0
        assert engine.terminate() == 0, engine.tail()
    catch_up(config)
    assert_mirrored(shop, target, counts.transactions)
    with psycopg.connect(target) as there:
        indexes = there.execute(
            "SELECT count(*) FROM pg_indexes WHERE schemaname = %s", (shop.database,)
        )
        (number,) = indexes.fetchone() or (0,)
    assert number > 12
