"""
After a crash at any moment no change is lost, and none is applied twice.

The engine is a process and gets SIGKILL. Servers are killed and started again. A proxy cuts the
connections.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.demo.writer import ShopWriter
from engine.sandbox import Server, start_mysql, start_postgres
from engine.sandbox.proxy import Proxy
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, obtain
from tests.support.shops import Shop, assert_mirrored, catch_up, load_new_shop
from tests.support.waiting import wait_until

SLOW_BACKFILL = "[backfill]\nchunk_rows = 15\nslice_seconds = 0.05\n"
SHORT_PAUSES = "[retry]\nfirst_seconds = 0.05\nmax_seconds = 0.5\n"

SLOW = (pytest.mark.slow, pytest.mark.timeout(300))


@pytest.fixture(scope="module")
def mysql_without_gtids() -> Iterator[AnyServer]:
    """A MySQL without GTIDs, so positions are files and offsets."""
    options = ("--gtid-mode=OFF", "--enforce-gtid-consistency=OFF")
    with obtain(lambda: start_mysql(options=options)) as server:
        yield server


@pytest.mark.parametrize(
    "kills", [pytest.param(6, id="some"), pytest.param(40, id="many", marks=SLOW)]
)
@pytest.mark.parametrize(
    "server",
    [
        pytest.param("mysql", id="mysql-gtid"),
        pytest.param("mariadb_11", id="mariadb-gtid"),
        pytest.param("mysql_without_gtids", id="mysql-file", marks=pytest.mark.slow),
    ],
)
def test_kills_at_random_moments(
    request: pytest.FixtureRequest,
    server: str,
    kills: int,
    new_shop: Callable[[AnyServer, int], Shop],
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN a shop under load WHEN the engine is killed many times at random moments: while it
    connects, during the backfill, during COPY, around COMMIT THEN both sides are equal at the end.

    Each of these sources proves the watermarks of a chunk in another way.
    """
    shop = new_shop(request.getfixturevalue(server), 6_000)
    urls = (shop.server.url, target_database)
    config = write_config(tmp_path, *urls, shop.tables, more=SLOW_BACKFILL)
    dice = random.Random(20)
    kills_in_backfill = 0
    with ShopWriter(shop.url, 300) as writer:
        for number in range(kills):
            with EngineProcess(config) as engine:
                if number % 5:
                    kills_in_backfill += await_work(engine, dice)
                else:
                    pass_time(dice.uniform(0, 1.0))
                engine.kill()
            if number == kills // 2:
                writer.migrate()
        counts = writer.stop()
    assert kills_in_backfill >= 3
    catch_up(write_config(tmp_path, *urls, shop.tables))
    assert_mirrored(shop, target_database, counts.transactions)


def await_work(engine: EngineProcess, dice: random.Random) -> bool:
    """Let the engine backfill some rows, or stream for a short time if all tables are live. Returns
    whether it still backfills.
    """
    rows = dice.randrange(200, 1_000)

    def backfilling(status: dict[str, Any]) -> bool:
        return any(table["state"] != "live" for table in status["tables"] or [{"state": ""}])

    status = engine.wait_status(lambda s: s["backfilled_rows"] >= rows or not backfilling(s))
    pass_time(dice.uniform(0, 0.02 if backfilling(status) else 0.4))
    return backfilling(status)


def pass_time(seconds: float) -> None:
    """Let time pass: the moment of a kill is random, so there is no condition to wait for."""
    moment = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > moment)


@pytest.fixture
def private_servers() -> Iterator[tuple[Shop, Server]]:
    """A shop, and a target, on servers that the test may kill."""
    with obtain(start_mysql) as source, obtain(start_postgres) as target:
        yield load_new_shop(source, 5_000), target


@pytest.mark.parametrize(
    "rounds", [pytest.param(1, id="once"), pytest.param(4, id="again", marks=SLOW)]
)
def test_servers_die_and_connections_break(
    private_servers: tuple[Shop, Server], rounds: int, tmp_path: Path
) -> None:
    """GIVEN a running pipeline WHEN both connections are cut, and the target and the source die
    THEN the engine resumes by itself, and both sides are equal at the end."""
    shop, target = private_servers
    source, transactions = shop.server, 0
    with Proxy(source.host, source.port) as left, Proxy(target.host, target.port) as right:
        urls = (
            source.url.replace(str(source.port), str(left.port)),
            target.url.replace(str(target.port), str(right.port)),
        )
        config = write_config(tmp_path, *urls, shop.tables, more=SLOW_BACKFILL + SHORT_PAUSES)
        with EngineProcess(config) as engine:

            def await_progress() -> None:
                """Wait until the engine is connected and has applied something new."""
                rows = engine.status() or {"rows": 0, "backfilled_rows": 0}
                before = rows["rows"] + rows["backfilled_rows"]
                engine.wait_status(
                    lambda s: (
                        s["state"] != "connecting" and s["rows"] + s["backfilled_rows"] > before
                    ),
                    what="progress after the break",
                )

            for round_number in range(rounds):
                with ShopWriter(shop.url, 200, seed=round_number) as writer:
                    await_progress()
                    for cut in (left.cut, right.cut, left.cut, right.cut):
                        assert cut() > 0
                        await_progress()
                    target.kill()
                    target.start()
                    await_progress()
                    transactions += writer.stop().transactions
                source.kill()
                source.start()
            assert (engine.status() or {})["reconnects"] >= 5 * rounds
            assert engine.process.poll() is None
            assert engine.terminate() == 0, engine.tail()
        catch_up(write_config(tmp_path, *urls, shop.tables))
    assert_mirrored(shop, target.url, transactions)
