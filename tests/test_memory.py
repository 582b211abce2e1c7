"""
How much memory the engine needs: bounded, whatever the size of a transaction or a table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.engine_process import EngineProcess, write_config
from tests.servers import AnyServer, connect_mysql

TEN = "(SELECT 0 n UNION ALL " + " UNION ALL ".join(f"SELECT {n}" for n in range(1, 10)) + ")"


def peak_megabytes(engine: EngineProcess) -> float:
    """The most that the process had resident so far."""
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def insert_at_once(server: AnyServer, database: str, powers: int, times: int = 1) -> None:
    """``times`` · 10 ** ``powers`` rows in one transaction."""
    with connect_mysql(server, database) as connection, connection.cursor() as cursor:
        digits = " + ".join(f"t{n}.n * {10**n}" for n in range(powers))
        tables = ", ".join(f"{TEN} t{n}" for n in range(powers))
        cursor.execute("BEGIN")
        for offset in range(times):
            cursor.execute(
                f"INSERT INTO big SELECT {digits} + {offset * 10**powers},"
                f" {digits} % 1000, concat('row ', {digits}, repeat('-', 20)) FROM {tables}"
            )
        cursor.execute("COMMIT")


@pytest.mark.parametrize(
    ("powers", "times", "limit_megabytes"),
    [
        pytest.param(5, 4, 300, id="400,000 rows"),
        pytest.param(6, 5, 400, id="5,000,000 rows", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(600)
def test_a_large_transaction_streams_through_bounded_memory(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
    powers: int,
    times: int,
    limit_megabytes: int,
) -> None:
    """GIVEN one transaction of many rows WHEN it is streamed, and then copied by a new pipeline
    THEN both arrive whole, and the engine's memory stays small."""
    database, target = fresh_mysql_database(mysql), fresh_postgres_database(postgres)
    rows = times * 10**powers
    with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE big (id int PRIMARY KEY, n int, text varchar(60))")
    config = write_config(tmp_path, mysql.url, target, f"{database}.*")
    with EngineProcess(config) as engine:
        engine.wait_status(lambda status: status["state"] == "streaming")
        insert_at_once(mysql, database, powers, times)
        engine.wait_status(
            lambda status: status["rows"] >= rows and status["lag_seconds"] < 1, timeout=300
        )
        assert peak_megabytes(engine) < limit_megabytes
        assert engine.terminate() == 0
    check(target, database, rows)
    copy = fresh_postgres_database(postgres)
    config = write_config(tmp_path, mysql.url, copy, f"{database}.*", name="copy")
    with EngineProcess(config) as engine:
        engine.wait_status(lambda status: status["copied_rows"] >= rows, timeout=300)
        assert peak_megabytes(engine) < 300
        assert engine.terminate() == 0
    check(copy, database, rows)


def check(target: str, database: str, rows: int) -> None:
    """All rows are there, each once."""
    with psycopg.connect(target) as connection:
        found = connection.execute(
            f"SELECT count(*), count(DISTINCT id), sum(id::bigint) FROM {database}.big".encode()
        ).fetchone()
    assert found == (rows, rows, rows * (rows - 1) // 2)
