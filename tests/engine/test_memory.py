"""
The engine's memory is bounded, whatever the size of a transaction or a table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql

TEN = "(SELECT 0 n UNION ALL " + " UNION ALL ".join(f"SELECT {n}" for n in range(1, 10)) + ")"


def peak_megabytes(engine: EngineProcess) -> float:
    """The largest resident size of the process so far."""
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def insert_at_once(server: AnyServer, database: str, powers: int, times: int = 1) -> None:
    """Insert ``times`` · 10 ** ``powers`` rows in one transaction."""
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
    """GIVEN one transaction of many rows WHEN it is streamed, and then backfilled by a new pipeline
    THEN all rows arrive both times, and the engine's memory stays small."""
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
    second = fresh_postgres_database(postgres)
    config = write_config(tmp_path, mysql.url, second, f"{database}.*", name="second")
    with EngineProcess(config) as engine:
        engine.wait_status(lambda status: status["backfilled_rows"] >= rows, timeout=300)
        assert peak_megabytes(engine) < 300
        assert engine.terminate() == 0
    check(second, database, rows)


WIDE = (
    *(f"d{n} decimal(12,3) NOT NULL DEFAULT {n}.125" for n in range(20)),
    *(f"s{n} varchar(20) NOT NULL DEFAULT 'text {n}'" for n in range(10)),
    *(f"t{n} datetime NOT NULL DEFAULT '2024-01-0{n + 1} 10:20:30'" for n in range(5)),
)


def test_a_blocked_target_does_not_fill_the_memory(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a wide table that is locked in the target WHEN much more is written than the queue
    holds THEN the engine stops reading, and resumes when the lock is gone."""
    database, target = fresh_mysql_database(mysql), fresh_postgres_database(postgres)
    with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(WIDE)})")
    config = write_config(tmp_path, mysql.url, target, f"{database}.*")
    with EngineProcess(config) as engine, psycopg.connect(target) as locker:
        engine.wait_status(lambda status: status["state"] == "streaming")
        locker.execute(f"LOCK TABLE {database}.wide IN ACCESS EXCLUSIVE MODE".encode())
        with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
            for start in range(0, 200_000, 10_000):
                numbers = ", ".join(f"({n})" for n in range(start, start + 10_000))
                cursor.execute(f"INSERT INTO wide (id) VALUES {numbers}")
        engine.wait_status(lambda status: status["lag_seconds"] > 4, what="a lag")
        locker.rollback()
        engine.wait_status(lambda status: status["rows"] >= 200_000, what="all rows")
        assert peak_megabytes(engine) < 300
        assert engine.terminate() == 0


def check(target: str, database: str, rows: int) -> None:
    """Fail unless each row is in the target once."""
    with psycopg.connect(target) as connection:
        found = connection.execute(
            f"SELECT count(*), count(DISTINCT id), sum(id::bigint) FROM {database}.big".encode()
        ).fetchone()
    assert found == (rows, rows, rows * (rows - 1) // 2)
