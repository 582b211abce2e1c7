"""
SIGTERM is obeyed within seconds while the source or the target does not answer.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.sandbox.proxy import Proxy
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer


@pytest.mark.slow
@pytest.mark.parametrize("connected", [True, False], ids=["streaming", "connecting"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_stop_does_not_wait_for_a_server_that_does_not_answer(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    side: str,
    connected: bool,
) -> None:
    database = fresh_mysql_database(mysql)
    writer = Writer(mysql, database)
    writer("CREATE TABLE t (id INT PRIMARY KEY)")
    with Proxy(mysql.host, mysql.port) as source, Proxy(postgres.host, postgres.port) as target:
        config = write_config(
            tmp_path,
            mysql.url.replace(f":{mysql.port}", f":{source.port}"),
            target_database.replace(f":{postgres.port}/", f":{target.port}/"),
            f"{database}.*",
        )
        silent = source if side == "source" else target
        if not connected:
            silent.freeze()
        with EngineProcess(config) as engine:
            if connected:
                engine.wait_status(lambda s: s["state"] == "streaming")
                silent.freeze()
                writer("INSERT INTO t VALUES (1)")
            else:
                engine.wait_status(lambda s: s["state"] == "connecting" and silent.connections)
            started = time.monotonic()
            assert engine.terminate(60) == 0, engine.tail()
            assert time.monotonic() - started < 15
    writer.connection.close()
