"""
Rows of 200 MB: they arrive, and the engine's memory stays bounded.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.sandbox import start_mysql
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import MIB, Writer
from tests.support.servers import obtain
from tests.support.waiting import wait_until

ROW = 200_000_000
#: As text, two hexadecimal digits a byte, it is larger than 1 GiB.
TOO_LARGE = 540_000_000
REASON = "larger than PostgreSQL can receive"


@pytest.fixture
def writer() -> Iterator[Writer]:
    with obtain(lambda: start_mysql(options=["--max-allowed-packet=1G"])) as server:
        writer = Writer(server, "mysql")
        writer("CREATE DATABASE shop", "CREATE TABLE shop.file (id INT PRIMARY KEY, v LONGBLOB)")
        yield writer
        writer.connection.close()


def peak(process: int) -> int:
    """The largest resident memory that a process had, in bytes."""
    return memory(process, "VmHWM")


def memory(process: int, field: str = "VmRSS") -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["on", "off", "compressed"])
def test_a_huge_row_arrives_in_bounded_memory(
    writer: Writer, target_database: str, tmp_path: Path, variant: str
) -> None:
    """With and without the accelerator, and in a compressed transaction."""
    accelerator = "off" if variant == "off" else "on"
    if variant == "compressed":
        writer("SET SESSION binlog_transaction_compression = ON")
    config = write_config(tmp_path, writer.server.url, target_database, "shop.*")
    with (
        EngineProcess(config, environment={"TAILRACE_ACCELERATOR": accelerator}) as engine,
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
        assert peak(engine.process.pid) < ROW + 150 * MIB
        writer("UPDATE shop.file SET id = 2", "INSERT INTO shop.file VALUES (3, 'small')")
        wait_until(lambda: [row[:2] for row in stored()] == expected(), 240, "the update")
        # The log has the value twice.
        assert peak(engine.process.pid) < 2 * ROW + 150 * MIB
        writer(f"UPDATE shop.file SET v = REPEAT('y', {ROW}) WHERE id = 2")
        md5 = hashlib.md5(b"y" * ROW, usedforsecurity=False).hexdigest()
        wait_until(lambda: (2, ROW, md5) in stored(), 240, "the other value")
        assert peak(engine.process.pid) < 2 * ROW + 150 * MIB
        wait_until(lambda: memory(engine.process.pid) < ROW, 30, "memory without the row")
        assert (engine.status() or {})["reconnects"] == 0
        assert engine.terminate() == 0


@pytest.mark.slow
def test_a_row_that_postgresql_cannot_hold_quarantines_its_table(
    writer: Writer, target_database: str, tmp_path: Path
) -> None:
    """Whether the row comes by the log or by a backfill. The other tables go on. The row is too
    large for a dead letter, too.
    """
    writer("CREATE TABLE shop.other (id INT PRIMARY KEY)")
    policy = '[errors]\non_error = "dead_letter"\n'
    config = write_config(tmp_path, writer.server.url, target_database, "shop.*", more=policy)

    def quarantined(status: dict[str, Any]) -> bool:
        shown = {it["table"]: (it["state"], it["reason"]) for it in status["tables"]}
        state, reason = shown.get("shop.file", ("", ""))
        return state == "quarantined" and REASON in reason

    with (
        EngineProcess(config) as engine,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        engine.wait_status(lambda s: s["state"] == "streaming")
        writer(f"INSERT INTO shop.file VALUES (1, REPEAT('x', {TOO_LARGE}))")
        engine.wait_status(quarantined, 120)
        again = [sys.executable, "-m", "engine.cli", "backfill", str(config), "shop.file"]
        subprocess.run(again, check=True, timeout=60)
        wait_until(lambda: engine.log.read_text().count(REASON) >= 2, 120, "the backfill")
        engine.wait_status(quarantined, 120)
        writer("INSERT INTO shop.other VALUES (1)")
        query = "SELECT count(*) FROM shop.other"
        wait_until(lambda: target.execute(query).fetchall() == [(1,)], 60, "the other table")
        assert peak(engine.process.pid) < 3 * TOO_LARGE + 150 * MIB
        assert (engine.status() or {})["reconnects"] == 0
        # Its event would have the value twice. No server sends an event of more than 1 GiB.
        writer("UPDATE shop.file SET id = 2")
        assert engine.process.wait(180) == 1
        assert f"backfill {config} --all" in engine.tail()
        # The way on.
        everything = [*again[:-1], "--all"]
        subprocess.run(everything, check=True, timeout=60)
        with EngineProcess(config) as engine:
            engine.wait_status(quarantined, 120)
            writer("INSERT INTO shop.other VALUES (2)")
            wait_until(lambda: target.execute(query).fetchall() == [(2,)], 60, "a new row")
            assert engine.terminate() == 0


@pytest.mark.slow
@pytest.mark.parametrize("one_transaction", [True, False])
def test_huge_rows_are_not_in_memory_together(
    writer: Writer, target_database: str, tmp_path: Path, one_transaction: bool
) -> None:
    """Neither those of one transaction, nor those of several ones, nor those of a backfill."""
    size, ids = 100_000_000, range(1, 6)
    config = write_config(tmp_path, writer.server.url, target_database, "shop.*")
    with (
        EngineProcess(config) as engine,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        engine.wait_status(lambda s: s["state"] == "streaming")

        def stored(letter: str) -> bool:
            md5 = hashlib.md5(letter.encode() * size, usedforsecurity=False).hexdigest()
            rows = target.execute("SELECT id, md5(v) FROM shop.file ORDER BY id").fetchall()
            return rows == [(id, md5) for id in ids]

        writer(*["BEGIN"] * one_transaction)
        writer(*(f"INSERT INTO shop.file VALUES ({id}, REPEAT('x', {size}))" for id in ids))
        writer("COMMIT")
        wait_until(lambda: stored("x"), 120, "the rows")
        assert peak(engine.process.pid) < 2 * size + 150 * MIB
        writer(*["BEGIN"] * one_transaction)
        writer(*(f"UPDATE shop.file SET v = REPEAT('y', {size}) WHERE id = {id}" for id in ids))
        writer("COMMIT")
        wait_until(lambda: stored("y"), 120, "the other values")
        assert peak(engine.process.pid) < 3 * size + 150 * MIB
        again = [sys.executable, "-m", "engine.cli", "backfill", str(config), "shop.file"]
        subprocess.run(again, check=True, timeout=60)
        engine.wait_status(lambda s: s["backfilled_rows"] == len(ids), 120)
        wait_until(lambda: stored("y"), 120, "the rows that were read again")
        assert peak(engine.process.pid) < 3 * size + 200 * MIB
        assert (engine.status() or {})["reconnects"] == 0
        assert engine.terminate() == 0
