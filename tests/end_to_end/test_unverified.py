"""A run says which of its connections are not encrypted, or not verified."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

#: Every address of this machine: it leads here, and does not look like it.
ELSEWHERE = "0.0.0.0"


def test_a_run_warns_of_connections_that_anybody_could_read(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    """GIVEN servers on other machines WHEN nothing asks for TLS to the target, and the source's
    certificate is not verified THEN the log says so, with what to set."""
    with connect_mysql(mysql, source_database) as source, source.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    config = write_config(
        tmp_path,
        mysql.url.replace("127.0.0.1", ELSEWHERE),
        target_database.replace("127.0.0.1", ELSEWHERE),
        f"{source_database}.*",
    )
    with EngineProcess(config) as engine:
        wait_until(lambda: {"MY018", "PG007"} <= codes(engine).keys(), what="the warnings")
        assert "verify-full" in codes(engine)["MY018"]
        assert "sslmode=verify-full" in codes(engine)["PG007"]
        engine.terminate()


def codes(engine: EngineProcess) -> dict[str, str]:
    """The hints of the warnings so far, by code."""
    lines = engine.log.read_text().splitlines()
    warnings = [json.loads(line) for line in lines if line.endswith("}")]
    return {it["code"]: it["hint"] for it in warnings if "code" in it}
