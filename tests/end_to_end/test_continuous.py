"""An engine that compares its tables by itself, while they change."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tests.support.background import Background
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer

#: How long an engine may take to stop while a read waits for a lock.
STOP_SECONDS = 20.0

CONTINUOUS = "[verify]\ncontinuous = true\nevery_seconds = 0.2\nbudget = 1.0\n"


def written(server: AnyServer, database: str) -> Background:
    """Meanwhile, rows of ``moving`` are inserted, changed and deleted."""

    def write(ended: threading.Event) -> None:
        writer = Writer(server, database)
        number = 0
        while not ended.is_set():
            number += 1
            writer(
                f"INSERT INTO moving VALUES ({number}, 'new')",
                f"UPDATE moving SET note = '{number}' WHERE id % 7 = {number % 7}",
                f"DELETE FROM moving WHERE id < {number - 50}",
            )

    return Background(write)


def outcomes(status: dict[str, Any]) -> dict[str, str | None]:
    """The outcome of the last comparison, by the name of the table."""
    proofs = {it["table"].partition(".")[2]: it["proof"] for it in status["tables"]}
    return {name: proof and proof["outcome"] for name, proof in proofs.items()}


def compared_after(at: float, **expected: str) -> Callable[[dict[str, Any]], bool]:
    """Whether comparisons that began after this time have these outcomes."""

    def fulfilled(status: dict[str, Any]) -> bool:
        found = {it["table"].partition(".")[2]: it["proof"] for it in status["tables"]}
        proofs = [(found.get(name), outcome) for name, outcome in expected.items()]
        return all(it and it["started_at"] > at and it["outcome"] == what for it, what in proofs)

    return fulfilled


def assert_stops(engine: EngineProcess) -> None:
    """The process ends soon, and well."""
    started = time.monotonic()
    assert engine.terminate(60) == 0, engine.tail()
    assert time.monotonic() - started < STOP_SECONDS


def waits_for_lock(writer: Writer) -> bool:
    """Whether a session of the server waits for a lock on a table."""
    where = "WHERE state LIKE '%metadata lock%'"
    return bool(writer.one(f"SELECT COUNT(*) FROM information_schema.processlist {where}")[0])


def test_an_engine_compares_its_tables_again_and_again(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN tables, one of them written all the time WHEN a row of the target is changed THEN the
    status says so, of this table alone, until the row is right again; a restart goes on."""
    database = fresh_mysql_database(mysql)
    writer = Writer(mysql, database)
    writer(
        "CREATE TABLE still (id INT PRIMARY KEY, note VARCHAR(20))",
        "CREATE TABLE keyless (note VARCHAR(20))",
        "CREATE TABLE moving (id INT PRIMARY KEY, note VARCHAR(20))",
        "INSERT INTO still VALUES (1, 'one'), (2, 'two')",
        "INSERT INTO keyless VALUES ('a'), ('a')",
    )
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=CONTINUOUS)
    with psycopg.connect(target_database, autocommit=True) as there:
        with EngineProcess(config) as engine, written(mysql, database):
            engine.wait_status(compared_after(0.0, still="equal", keyless="equal"))
            there.execute(f"UPDATE {database}.still SET note = 'wrong' WHERE id = 2".encode())
            changed = time.time()
            status = engine.wait_status(compared_after(changed, still="different", keyless="equal"))
            assert outcomes(status)["moving"] != "different"
            (still,) = (it for it in status["tables"] if it["table"].endswith(".still"))
            assert (still["proof"]["differences"], still["proof"]["rows"]) == (1, 2)
            assert still["proof"]["equal_at"] < changed
            assert f"--table {database}.still" in still["remedy"]
            there.execute(f"UPDATE {database}.still SET note = 'two' WHERE id = 2".encode())
            engine.wait_status(compared_after(time.time(), still="equal"))
            assert engine.terminate() == 0
        with EngineProcess(config) as engine:
            engine.wait_status(compared_after(time.time(), still="equal", moving="equal"))
            # A read that waits for a lock does not keep the engine from stopping.
            with there.transaction():
                there.execute(f"LOCK TABLE {database}.still".encode())
                waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                engine.wait_status(lambda _: there.execute(waits).fetchone() != (0,))
                assert_stops(engine)
        # Nor does one of the source.
        with EngineProcess(config) as engine:
            engine.wait_status(lambda status: status["state"] == "streaming")
            writer("LOCK TABLES still WRITE")
            engine.wait_status(lambda _: waits_for_lock(writer))
            assert_stops(engine)
    lines = [json.loads(line) for line in engine.log.read_text().splitlines()]
    different = [it for it in lines if it["message"] == "rows of the table differ from the source"]
    assert {it["table"] for it in different} == {f"{database}.still"}
    assert different[0]["count"] == 1
    assert re.fullmatch(r"[^{]+\.\d+:\d+", different[0]["position"])
