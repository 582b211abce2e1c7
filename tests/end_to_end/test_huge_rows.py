"""
One row of 200 MB: it arrives, and the engine's memory stays bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from engine.sandbox import start_mysql
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import MIB, Writer
from tests.support.servers import obtain
from tests.support.waiting import wait_until

ROW = 200_000_000


@pytest.fixture
def writer() -> Iterator[Writer]:
    with obtain(lambda: start_mysql(options=["--max-allowed-packet=1G"])) as server:
        writer = Writer(server, "mysql")
        writer("CREATE DATABASE shop", "CREATE TABLE shop.file (id INT PRIMARY KEY, v LONGBLOB)")
        yield writer
        writer.connection.close()


def peak(process: int) -> int:
    """The largest resident memory that a process had, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.slow
def test_a_huge_row_arrives_in_bounded_memory(
    writer: Writer, target_database: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, writer.server.url, target_database, "shop.*")
    with (
        EngineProcess(config) as engine,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        engine.wait_status(lambda s: s["state"] == "streaming")

        def stored() -> list[tuple[object, ...]]:
            query = "SELECT id, length(v), md5(v) FROM shop.file ORDER BY id"
            return target.execute(query).fetchall()

        def expected() -> list[tuple[object, ...]]:
            with writer.connection.cursor() as cursor:
                cursor.execute("SELECT id, LENGTH(v) FROM shop.file ORDER BY id")
                return list(cursor.fetchall())

        writer(f"INSERT INTO shop.file VALUES (1, REPEAT('x', {ROW}))")
        wait_until(lambda: [row[:2] for row in stored()] == expected(), 120, "the row")
        assert peak(engine.process.pid) < 3 * ROW + 150 * MIB
        writer("UPDATE shop.file SET id = 2", "INSERT INTO shop.file VALUES (3, 'small')")
        wait_until(lambda: [row[:2] for row in stored()] == expected(), 240, "the update")
        assert peak(engine.process.pid) < 3 * ROW + 150 * MIB
        # The log has the value as it was, too, which is another one.
        writer(f"UPDATE shop.file SET v = REPEAT('y', {ROW}) WHERE id = 2")
        md5 = hashlib.md5(b"y" * ROW, usedforsecurity=False).hexdigest()
        wait_until(lambda: (2, ROW, md5) in stored(), 240, "the other value")
        assert peak(engine.process.pid) < 4 * ROW + 150 * MIB
        assert (engine.status() or {})["reconnects"] == 0
        assert engine.terminate() == 0
