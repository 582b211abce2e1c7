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

import psycopg
import pytest

from engine.demo.shop import load_shop
from engine.demo.writer import ShopWriter, WriterCounts
from engine.sandbox import Server, start_mysql, start_postgres
from tests.compare import assert_equal
from tests.engine_process import EngineProcess, write_config
from tests.proxy import Proxy
from tests.servers import AnyServer, connect_mysql, drop_mysql_database, obtain
from tests.waiting import wait_until

DATABASE = "shop"
KILLS = 30
SLOW_COPY = "[snapshot]\nchunk_rows = 200\nround_seconds = 0.05\n"
IMPATIENT = "[retry]\nfirst_seconds = 0.05\nmax_seconds = 0.5\n"


@pytest.fixture
def shop(mysql: AnyServer) -> Iterator[AnyServer]:
    """A source with a loaded shop."""
    drop_mysql_database(mysql, DATABASE)
    load_shop(f"{mysql.url}{DATABASE}", 10_000)
    yield mysql
    drop_mysql_database(mysql, DATABASE)


def finish(config: Path, source: AnyServer, target: str, counts: WriterCounts) -> None:
    """Catch up in peace, then both sides must be equal and the ledger exact."""
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait() == 0, engine.tail()
    with connect_mysql(source) as left, psycopg.connect(target, autocommit=True) as right:
        assert_equal(left, right, DATABASE)
        ledger = right.execute("SELECT count(*), count(DISTINCT number) FROM shop.ledger")
        assert ledger.fetchone() == (counts.transactions, counts.transactions)


@pytest.mark.timeout(240)
def test_thirty_kills(
    shop: AnyServer,
    postgres: AnyServer,
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a shop under load WHEN the engine is killed again and again, at any moment: while it
    connects, in the copy, in COPY, around COMMIT THEN both sides are equal in the end."""
    target = fresh_postgres_database(postgres)
    config = write_config(tmp_path, shop.url, target, "shop.*", more=SLOW_COPY)
    dice = random.Random(20)
    states = set()
    with ShopWriter(f"{shop.url}{DATABASE}", 300) as writer:
        for number in range(KILLS):
            with EngineProcess(config) as engine:
                if number % 5:
                    status = engine.wait_status(lambda s: s["state"] != "connecting")
                    deadline = time.monotonic() + dice.uniform(0, 0.6)
                    wait_until(lambda at=deadline: time.monotonic() > at)
                    states.add((engine.status() or status)["state"])
                else:
                    deadline = time.monotonic() + dice.uniform(0, 1.0)
                    wait_until(lambda at=deadline: time.monotonic() > at)
                engine.kill()
            if number == KILLS // 2:
                writer.migrate()
        counts = writer.stop()
    assert states == {"copying", "streaming"}
    finish(config, shop, target, counts)


@pytest.fixture
def own_servers() -> Iterator[tuple[Server, Server]]:
    """A source and a target that the test may kill."""
    with obtain(start_mysql) as source, obtain(start_postgres) as target:
        load_shop(f"{source.url}{DATABASE}", 5_000)
        yield source, target


@pytest.mark.timeout(180)
def test_servers_die_and_connections_break(
    own_servers: tuple[Server, Server], tmp_path: Path
) -> None:
    """GIVEN a running pipeline WHEN the target dies, the source dies, and both connections are cut,
    several times each THEN the engine goes on by itself, and both sides are equal in the end."""
    source, target = own_servers
    counts = WriterCounts()
    with Proxy(source.host, source.port) as left, Proxy(target.host, target.port) as right:
        config = write_config(
            tmp_path,
            source.url.replace(str(source.port), str(left.port)),
            target.url.replace(str(target.port), str(right.port)),
            "shop.*",
            more=SLOW_COPY + IMPATIENT,
        )
        with EngineProcess(config) as engine:

            def settle() -> None:
                """The engine has reconnected and applied something new."""
                rows = engine.status() or {"rows": 0, "copied_rows": 0}
                before = rows["rows"] + rows["copied_rows"]
                engine.wait_status(
                    lambda s: s["state"] != "connecting" and s["rows"] + s["copied_rows"] > before,
                    what="progress after the break",
                )

            for round_number in range(2):
                with ShopWriter(f"{source.url}{DATABASE}", 200, seed=round_number) as writer:
                    settle()
                    for cut in (left.cut, right.cut, left.cut, right.cut):
                        assert cut() > 0
                        settle()
                    target.kill()
                    target.start()
                    settle()
                    done = writer.stop()
                counts = WriterCounts(counts.transactions + done.transactions)
                source.kill()
                source.start()
            assert (engine.status() or {})["reconnects"] >= 10
            assert engine.process.poll() is None
            assert engine.terminate() == 0, engine.tail()
        finish(config, source, target.url, counts)
