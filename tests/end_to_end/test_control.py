"""
An engine is paused, resumed, given another configuration and stopped, by command line and API.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import psycopg

from tests.support.commands import tailrace
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until


def post(engine: EngineProcess, command: str, **more: object) -> str:
    """Give a command through the API, wait until it is concluded, and return its outcome. After a
    stop there is nobody to ask.
    """
    base = f"http://127.0.0.1:{engine.port}"
    request = urllib.request.Request(
        f"{base}/commands",
        json.dumps({"command": command, **more}).encode(),
        {"Content-Type": "application/json", "Tailrace-User": "ada"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        href = json.load(answer)["href"]
    if command == "stop":
        return ""
    found: dict[str, Any] = {}

    def concluded() -> bool:
        with urllib.request.urlopen(base + href, timeout=10) as answer:
            found.update(json.load(answer))
        return found["outcome"] is not None

    wait_until(concluded, timeout=30, what=f"the outcome of {command}")
    return str(found["outcome"])


def assert_mistakes_are_refused(engine: EngineProcess, config: Path, good: str) -> None:
    """A wrong file is refused. One that turns out not to work is given up for the one before."""
    config.write_text(good.replace("tables", "tabels"))
    assert "did you mean" in tailrace(2, "reload", config)
    assert "the key is unknown" in post(engine, "reload")
    config.write_text(good + '[mapping."*.orders"]\nselect = "id, none"\n')
    assert "read again" in tailrace(0, "reload", config)
    wait_until(lambda: "the one before is used" in engine.log.read_text(), what="the way back")


def notified(config: Path) -> Path:
    """Have the engine write its notifications to this file."""
    told = config.with_name("told")
    command = f'command = ["/bin/sh", "-c", "cat >> {told}"]'
    config.write_text(config.read_text() + f"[notify.file]\n{command}\n")
    return told


def assert_told(told: Path) -> None:
    """The engine has told of the pause, and last of its end."""
    types = [json.loads(line)["type"] for line in told.read_text().splitlines()]
    assert "state.paused" in types
    assert types[-1] == "state.stopped"


def test_an_engine_is_controlled(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    told = notified(
        config := write_config(tmp_path, mysql.url, target_database, f"{source_database}.orders")
    )
    with (
        connect_mysql(mysql, source_database) as source,
        source.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as there,
    ):

        def change() -> None:
            for name in ("orders", "other"):
                cursor.execute(f"INSERT INTO {name} VALUES ()")
            source.commit()

        def count() -> int:
            row = there.execute(
                f'SELECT count(*) FROM "{source_database}".orders'.encode()
            ).fetchone()
            return int(row[0]) if row else 0

        for name in ("orders", "other"):
            cursor.execute(f"CREATE TABLE {name} (id INT AUTO_INCREMENT PRIMARY KEY)")
        change()
        with EngineProcess(config) as engine:
            engine.wait_status(lambda it: it["state"] == "streaming")
            # Paused: nothing is applied, and a restart changes nothing.
            tailrace(0, "pause", config)
            change()
            engine.wait_status(lambda it: it["state"] == "paused" and it["lag_seconds"] > 1)
            assert "paused" in tailrace(1, "status", config)
            engine.kill()
        with EngineProcess(config) as engine:
            engine.wait_status(lambda it: it["state"] == "paused")
            assert count() == 1
            assert post(engine, "resume") == "resumed"
            wait_until(lambda: count() == 2, what="the change")

            good = config.read_text()
            assert_mistakes_are_refused(engine, config, good)
            change()
            wait_until(lambda: count() == 3, what="the change")
            config.write_text(good.replace(f"{source_database}.orders", f"{source_database}.*"))
            assert "read again" in post(engine, "reload")
            engine.wait_status(lambda it: [t["state"] for t in it["tables"]] == ["live", "live"])
            change()

            wait_until(lambda: count() == 4, what="the change")
            post(engine, "stop")
            assert engine.wait() == 0
        assert_told(told)
        assert "there is none to stop" in tailrace(1, "stop", config)
        assert "ada through the API (127.0.0.1)" in tailrace(0, "commands", config)
        with EngineProcess(config) as engine:  # which is not connected yet
            assert "the engine ends" in tailrace(0, "stop", config)
            assert engine.wait() == 0
        assert_equal(source, there, source_database)
