"""
A continuous comparison waits while its source is busy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.busy_source import at_work
from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

CONTINUOUS = "[verify]\ncontinuous = true\nevery_seconds = 0.2\nbudget = 1.0\nbusy_threads = {}\n"
#: More than the threads of the server itself.
MOST = 4


def looks_at(writer: Writer) -> Callable[[], int]:
    """A function that returns how often others have asked for the load of the server since now."""
    statement = "SHOW GLOBAL STATUS LIKE 'Com_show_status'"
    own, before = 0, int(writer.one(statement)[1])

    def looks() -> int:
        nonlocal own
        own += 1
        return int(writer.one(statement)[1]) - before - own

    return looks


@pytest.mark.slow
def test_a_comparison_waits_for_a_busy_source(
    mysql_family: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN sessions with long statements THEN the table is not compared until they end; nor while
    they are there again, until `tailrace reload` takes a configuration without a limit."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")

    def configured(threads: int) -> Path:
        return write_config(
            *(tmp_path, mysql_family.url, target_database, f"{writer.database}.*"),
            more=CONTINUOUS.format(threads),
        )

    config = configured(MOST)
    with EngineProcess(config) as engine:

        def proof() -> tuple[str, float]:
            status = engine.status()
            assert status is not None
            (table,) = status["tables"]
            found = table["proof"]
            return ("", 0.0) if found is None else (found["outcome"], found["started_at"])

        def compared_after(at: float) -> bool:
            return proof() > ("equal", at)

        with at_work(mysql_family, 2 * MOST):
            engine.wait_status(lambda status: status["state"] == "streaming")
            looks = looks_at(writer)
            wait_until(lambda: looks() >= 3, what="questions for the load")
            assert proof() == ("", 0.0)
        wait_until(lambda: compared_after(0.0))
        with at_work(mysql_family, 2 * MOST):
            looks = looks_at(writer)
            wait_until(lambda: looks() >= 3, what="questions for the load")
            _, before = proof()
            wait_until(lambda: looks() >= 5, what="questions for the load")
            assert proof() == ("equal", before)
            configured(0)
            assert "read again" in tailrace(0, "reload", config)
            wait_until(lambda: compared_after(before), 60)
