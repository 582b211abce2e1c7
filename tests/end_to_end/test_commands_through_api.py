"""
Commands through the API, by somebody who has neither the configuration nor the target's password.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

READ, CONTROL = "read-" * 4, "control-" * 3
TOKENS = f'[api]\nread_token = "{READ}"\ncontrol_token = "{CONTROL}"\n'


def wait_for(engine: EngineProcess, *states: str) -> None:
    """Wait until the pipeline and its tables have these states."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{engine.port}/status", headers={"Authorization": f"Bearer {READ}"}
    )

    def reached() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = json.load(answer)
        except OSError:
            return False
        return (found["state"], *(it["state"] for it in found["tables"])) == states

    wait_until(reached, timeout=60, what=f"the states {states}")


@pytest.mark.slow
def test_each_command(
    mysql: AnyServer,
    source_database: str,
    target_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = f"{source_database}.orders"
    with connect_mysql(mysql, source_database) as source, source.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO orders VALUES (1)")
        source.commit()
    config = write_config(tmp_path, mysql.url, target_database, f"{source_database}.*", more=TOKENS)
    token = tmp_path / "token"
    token.write_text(CONTROL)
    monkeypatch.setenv("TAILRACE_TOKEN", READ)
    with EngineProcess(config) as engine:
        api = ("--api", f"http://127.0.0.1:{engine.port}")

        def give(*words: str, status: int = 0) -> str:
            return tailrace(status, *words, *api, "--token-file", token)

        wait_for(engine, "streaming", "live")
        assert "control_token" in tailrace(1, "pause", *api)
        assert "cannot work through the API" in tailrace(2, "skip", *api)
        assert give("pause").startswith("paused")
        assert "Paused." in tailrace(1, "status", *api)
        assert give("resume").strip() == "resumed"
        wait_for(engine, "streaming", "live")
        assert json.loads(tailrace(0, "status", *api, "--json"))["pipeline"] == "mirror"
        assert "read again" in give("reload")
        assert table in give("quarantine", table)
        wait_for(engine, "streaming", "quarantined")
        assert table in give("backfill", table)
        assert "refused" in give("backfill", "nothing.here", status=1)
        assert "0 of 0" in give("dead-letters", "retry")
        give("dead-letters", "discard", "--yes", "7", status=1)
        assert "values of rows" in give("dead-letters", "list", status=2)
        listed = json.loads(tailrace(0, "commands", *api, "--json"))
        assert [it["outcome"] is None for it in listed] == [False] * 8
        assert "it was concluded" in give("commands", "cancel", str(listed[0]["id"]), status=1)
        give("stop")
        assert engine.wait() == 0
        assert "does not answer" in give("pause", status=1)
    assert CONTROL not in engine.log.read_text()
