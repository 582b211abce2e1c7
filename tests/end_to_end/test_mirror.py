"""
Backfill and stream on pairs of servers, while an application writes. At the end both sides are
equal.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from engine.demo.writer import ShopWriter
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer
from tests.support.shops import Shop, assert_mirrored, catch_up

ROWS = 8_000
#: Each source and each target; all pairs are slow tests.
PAIRS = [
    ("mysql", "postgres_18"),
    ("mariadb_10", "postgres_15"),
    ("mariadb_11", "postgres_18"),
    pytest.param("mysql", "postgres_15", marks=pytest.mark.slow),
    pytest.param("mariadb_10", "postgres_18", marks=pytest.mark.slow),
    pytest.param("mariadb_11", "postgres_15", marks=pytest.mark.slow),
]
SMALL_CHUNKS = "[backfill]\nchunk_rows = 300\nslice_seconds = 0.1\n"


@pytest.mark.parametrize(("source", "target_server"), PAIRS)
def test_backfill_and_stream(
    request: pytest.FixtureRequest,
    source: str,
    target_server: str,
    new_shop: Callable[[AnyServer, int], Shop],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a shop that is written to all the time, and altered WHEN it is backfilled and streamed
    THEN both sides are equal, column by column, and every transaction arrived exactly once."""
    server, target_server = map(request.getfixturevalue, (source, target_server))
    shop, target = new_shop(server, ROWS), fresh_postgres_database(target_server)
    config = write_config(tmp_path, server.url, target, shop.tables, more=SMALL_CHUNKS)
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
