"""
A continuous comparison goes on inside of a table after its engine was killed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

ROWS = 60_000
#: About 15 seconds for the whole table.
CONTINUOUS = "[verify]\ncontinuous = true\nbudget = 1.0\nrows_per_second = 4000.0\n"


def unfinished(there: psycopg.Connection[Any]) -> dict[str, Any] | None:
    """How far the comparison of the table has got."""
    row = there.execute("SELECT unfinished FROM tailrace.comparison").fetchone()
    return None if row is None else json.loads(row[0])


@pytest.mark.slow
def test_a_comparison_goes_on_inside_of_a_table(
    mysql: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str, tmp_path: Path
) -> None:
    """GIVEN an engine that is killed in the middle of a table WHEN it starts again THEN the rows
    before are not read again, so that a fault that was made in them since then is left to the next
    comparison, and a fault behind them is found."""
    database = fresh_mysql_database(mysql)
    writer = Writer(mysql, database)
    digits = " UNION ALL ".join(f"SELECT {n} AS d" for n in range(10))
    tables = ", ".join(f"({digits}) AS t{n}" for n in range(5))
    number = " + ".join(f"t{n}.d * {10**n}" for n in range(5))
    writer(
        "CREATE TABLE big (id INT PRIMARY KEY, note VARCHAR(20))",
        f"INSERT INTO big SELECT n, 'x' FROM (SELECT {number} AS n FROM {tables}) AS s"
        f" WHERE n < {ROWS}",
    )
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=CONTINUOUS)
    with psycopg.connect(target_database, autocommit=True) as there:
        with EngineProcess(config) as engine:
            engine.wait_status(lambda status: status["state"] == "streaming")
            wait_until(lambda: unfinished(there) is not None, 60)
            engine.kill()
        before = unfinished(there)
        assert before is not None
        (after,) = map(int, before["after"])
        assert 0 < after < ROWS - 10
        assert before["rows"] == after + 1
        there.execute(f"UPDATE {database}.big SET note = 'y' WHERE id IN (0, {ROWS - 5})".encode())
        with EngineProcess(config) as engine:

            def proven(status: dict[str, Any]) -> bool:
                return any(it["proof"] for it in status["tables"])

            (table,) = engine.wait_status(proven, 60)["tables"]
            proof = table["proof"]
            assert (proof["outcome"], proof["rows"], proof["differences"]) == ("different", ROWS, 1)
            assert proof["started_at"] == pytest.approx(before["started_at"], abs=1e-5)
            assert proof["position"] == before["position"]
            wait_until(lambda: unfinished(there) is None)
