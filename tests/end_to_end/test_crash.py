"""
Whatever dies, and whenever: nothing is lost, nothing is repeated.

The engine is a process of its own and really gets SIGKILL; servers are killed and started again;
connections are cut by a proxy in the middle.
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
from tests.support.engine_process import EngineProcess, write_config
from tests.support.proxy import Proxy
from tests.support.servers import AnyServer, obtain
from tests.support.shops import Shop, assert_mirrored, catch_up, load_new_shop
from tests.support.waiting import wait_until

SLOW_COPY = "[backfill]\nchunk_rows = 15\nslice_seconds = 0.05\n"
IMPATIENT = "[retry]\nfirst_seconds = 0.05\nmax_seconds = 0.5\n"


@pytest.fixture(scope="module")
def mysql_by_file() -> Iterator[AnyServer]:
    """A MySQL whose log has places, but no GTIDs."""
    options = ("--gtid-mode=OFF", "--enforce-gtid-consistency=OFF")
    with obtain(lambda: start_mysql(options=options)) as server:
        yield server


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("server", "kills"),
    [("mysql", 30), ("mariadb_11", 12), ("mysql_by_file", 12)],
    ids=["mysql-gtid", "mariadb-gtid", "mysql-file"],
)
def test_kills(
    request: pytest.FixtureRequest,
    server: str,
    kills: int,
    new_shop: Callable[[AnyServer, int], Shop],
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN a shop under load WHEN the engine is killed again and again, at any moment: while it
    connects, in the copy, in COPY, around COMMIT THEN both sides are equal in the end.

    What a chunk of the copy shows is proved in another way on each of these sources.
    """
    shop = new_shop(request.getfixturevalue(server), 12_000)
    config = write_config(tmp_path, shop.server.url, target_database, shop.tables, more=SLOW_COPY)
    dice = random.Random(20)
    kills_in_the_copy = 0
    with ShopWriter(shop.url, 300) as writer:
        for number in range(kills):
            with EngineProcess(config) as engine:
                if number % 5:
                    kills_in_the_copy += await_work(engine, dice)
                else:
                    pass_moments(dice.uniform(0, 1.0))
                engine.kill()
            if number == kills // 2:
                writer.migrate()
        counts = writer.stop()
    assert kills_in_the_copy >= 3
    catch_up(config)
    assert_mirrored(shop, target_database, counts.transactions)


def await_work(engine: EngineProcess, dice: random.Random) -> bool:
    """Let the engine copy some rows, or follow for some moments if all is copied; whether it still
    copies."""
    rows = dice.randrange(500, 2_500)

    def copying(status: dict[str, Any]) -> bool:
        return any(table["state"] != "live" for table in status["tables"] or [{"state": ""}])

    status = engine.wait_status(lambda s: s["backfilled_rows"] >= rows or not copying(s))
    pass_moments(dice.uniform(0, 0.02 if copying(status) else 0.4))
    return copying(status)


def pass_moments(seconds: float) -> None:
    """Let the engine get on: the moment of a kill is random, so nothing can be waited for."""
    moment = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > moment)


@pytest.fixture
def own_servers() -> Iterator[tuple[Shop, Server]]:
    """A shop on a source, and a target, that the test may kill."""
    with obtain(start_mysql) as source, obtain(start_postgres) as target:
        yield load_new_shop(source, 5_000), target


@pytest.mark.timeout(180)
def test_servers_die_and_connections_break(
    own_servers: tuple[Shop, Server], tmp_path: Path
) -> None:
    """GIVEN a running pipeline WHEN the target dies, the source dies, and both connections are cut,
    several times each THEN the engine goes on by itself, and both sides are equal in the end."""
    shop, target = own_servers
    source, transactions = shop.server, 0
    with Proxy(source.host, source.port) as left, Proxy(target.host, target.port) as right:
        config = write_config(
            tmp_path,
            source.url.replace(str(source.port), str(left.port)),
            target.url.replace(str(target.port), str(right.port)),
            shop.tables,
            more=SLOW_COPY + IMPATIENT,
        )
        with EngineProcess(config) as engine:

            def settle() -> None:
                """The engine has reconnected and applied something new."""
                rows = engine.status() or {"rows": 0, "backfilled_rows": 0}
                before = rows["rows"] + rows["backfilled_rows"]
                engine.wait_status(
                    lambda s: (
                        s["state"] != "connecting" and s["rows"] + s["backfilled_rows"] > before
                    ),
                    what="progress after the break",
                )

            for round_number in range(2):
                with ShopWriter(shop.url, 200, seed=round_number) as writer:
                    settle()
                    for cut in (left.cut, right.cut, left.cut, right.cut):
                        assert cut() > 0
                        settle()
                    target.kill()
                    target.start()
                    settle()
                    transactions += writer.stop().transactions
                source.kill()
                source.start()
            assert (engine.status() or {})["reconnects"] >= 10
            assert engine.process.poll() is None
            assert engine.terminate() == 0, engine.tail()
        catch_up(config)
    assert_mirrored(shop, target.url, transactions)
