"""
A log that is purged, or reset under a running engine: `run`, `check` and `status` agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.sandbox import Server, start_mysql
from tests.support.commands import run_tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import Writer
from tests.support.servers import obtain


@pytest.fixture
def writer() -> Iterator[Writer]:
    """A session on a server whose log the test may reset."""
    with obtain(start_mysql) as server:
        assert isinstance(server, Server)
        writer = Writer(server, "mysql")
        writer("CREATE DATABASE shop", "CREATE TABLE shop.item (id INT PRIMARY KEY)")
        yield writer
        writer.connection.close()


def tailrace(*words: str | Path) -> tuple[int, str]:
    """The exit status of a command, and all that it prints."""
    done = run_tailrace(*words)
    return done.returncode, done.stdout + done.stderr


def assert_refused(config: Path, reason: str) -> None:
    for words in (("run", config), ("check", config), ("status", config)):
        status, text = tailrace(*words)
        assert status == 1, words
        assert reason in " ".join(text.split()), words
        assert "`tailrace backfill CONFIG" not in text, words


def test_a_log_that_is_gone_is_told_by_each_command(
    writer: Writer, target_database: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, writer.server.url, target_database, "shop.*")
    with EngineProcess(config, "--log-format", "json") as engine:
        engine.wait_status(lambda s: s["state"] == "streaming")
        status, text = tailrace("status", config, "--json")
        assert (status, json.loads(text)["running"]) == (0, True)
        writer("RESET BINARY LOGS AND GTIDS")
        assert engine.wait(30) == 1
        assert "reset or restored" in engine.tail()
    assert_refused(config, "the source's log was reset or restored")

    other = write_config(tmp_path, writer.server.url, target_database, "shop.*", name="other")
    text = other.read_text().replace("[sink]", '[sink]\nschema = "second"')
    other.write_text(text)
    assert tailrace("run", other, "--until-caught-up")[0] == 0
    assert tailrace("check", other)[0] == 0
    writer(
        "INSERT INTO shop.item VALUES (1)", "FLUSH BINARY LOGS", "INSERT INTO shop.item VALUES (2)"
    )
    ((newest, *_),) = [writer.one("SHOW BINARY LOG STATUS")]
    writer(f"PURGE BINARY LOGS TO '{newest}'")
    assert_refused(other, "the source has purged transactions that are not applied yet")
