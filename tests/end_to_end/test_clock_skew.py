"""
The lag is right while the clocks of the source and of the engine differ by minutes.
"""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.fake_time import clock_ahead
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer


def assert_the_lag_is_right(
    server: AnyServer, database: str, target: str, folder: Path, ahead: float
) -> Path:
    """``ahead``: by how many seconds the source's clock is ahead of the engine's. Returns the path
    of the configuration; the source then has one more row than the target.
    """
    writer = Writer(server, database)
    writer("CREATE TABLE t (id INT PRIMARY KEY)")
    config = write_config(folder, server.url, target, f"{database}.*")
    config.write_text(config.read_text().replace("[sink]", "heartbeat_seconds = 1\n[sink]"))
    clock = clock_ahead(-ahead)
    with (
        EngineProcess(config, environment=clock) as engine,
        closing(psycopg.connect(target)) as holder,
    ):
        found = engine.wait_status(lambda it: it["state"] == "streaming" and it["lag_seconds"] == 0)
        assert abs(found["clock_ahead_seconds"] - ahead) < 2
        # A lock on the target delays a commit by a known time.
        holder.execute(f'LOCK TABLE "{database}".t'.encode())
        started = time.time()
        writer("INSERT INTO t VALUES (1)")
        found = engine.wait_status(lambda it: it["lag_seconds"] >= 2)
        assert found["lag_seconds"] < time.time() - started + 2  # MariaDB logs whole seconds
        holder.rollback()
        engine.wait_status(lambda it: it["rows"] == 1 and it["lag_seconds"] == 0)
        metrics = f"http://127.0.0.1:{engine.port}/metrics"
        with urllib.request.urlopen(metrics, timeout=10) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines())
        latency = float(lines['tailrace_latency_seconds_sum{pipeline="mirror"}'])
        assert 1 < latency < time.time() - started + 2
        skew = float(lines['tailrace_source_clock_ahead_seconds{pipeline="mirror"}'])
        assert abs(skew - ahead) < 2
        assert engine.terminate() == 0
    writer("INSERT INTO t VALUES (2)")
    writer.connection.close()
    return config


def test_the_clock_of_the_source_is_ahead(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    assert_the_lag_is_right(mysql, source_database, target_database, tmp_path, 600)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [600, -600])
def test_the_clock_of_each_source_differs(
    mysql_family: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    ahead: float,
) -> None:
    started = time.time()
    config = assert_the_lag_is_right(
        mysql_family, fresh_mysql_database(mysql_family), target_database, tmp_path, ahead
    )
    clock = clock_ahead(-ahead)
    stored = json.loads(tailrace(1, "status", config, "--json", environment=clock))
    assert 0 < stored["lag_seconds"] < time.time() - started
    assert "the source's clock is 10 min" in tailrace(1, "status", config, environment=clock)
    assert "MY028" in tailrace(0, "check", config, environment=clock)
    assert "MY028" not in tailrace(0, "check", config)
