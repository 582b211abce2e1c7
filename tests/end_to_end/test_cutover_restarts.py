"""
A cutover that was killed at the switch, and a source that takes writes again, as after a restart.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.main import main
from engine.databases.mysql.connect import query
from tests.support.cutovers import become_ready, killed_at, record, thawed_at_the_end
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase
from tests.support.servers import AnyServer, connect_mysql

SETTINGS = """
[cutover]
quiet_seconds = 0.3
switch = {{ command = ["sh", "-c", "cat >> {called}"] }}
"""


def restarted(server: AnyServer, database: str, *, written: bool) -> None:
    """The source has a new log file, and takes writes."""
    with connect_mysql(server, database) as connection:
        query(connection, "SET GLOBAL read_only = OFF")
        query(connection, "FLUSH BINARY LOGS")
        if written:
            query(connection, "INSERT INTO ledger VALUES (2)")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("source", ["mysql", "mariadb_10"])
def test_a_source_that_was_restarted_at_the_switch(
    source: str,
    written: bool,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a restart that changed no row THEN the cutover goes on; else it names the table, and
    goes on when a person says that the applications are switched."""
    server: AnyServer = request.getfixturevalue(source)
    database = fresh_mysql_database(server)
    with connect_mysql(server, database) as connection:
        query(connection, "CREATE TABLE ledger (id INT PRIMARY KEY)")
        query(connection, "INSERT INTO ledger VALUES (1)")
    called = tmp_path / "called"
    more = SETTINGS.format(called=called)
    config = write_config(tmp_path, server.url, target_database, f"{database}.*", more=more)
    run = ["cutover", str(config)]
    with thawed_at_the_end(server) as writes, EngineProcess(config) as engine:
        become_ready(engine, config)
        killed_at(config, "switch")
        restarted(server, database, written=written)
        capsys.readouterr()
        assert main(run) == int(written)
        if written:
            assert f"{database}.ledger" in capsys.readouterr().err
            assert writes()["read_only"] == "ON"
            assert main([*run, "--switched"]) == 0
        assert engine.wait() == 0
        assert writes()["read_only"] == "ON"
        done = record(target_database)
        assert done["state"] == "done"
        assert (f"{database}.ledger" in "".join(done["warnings"])) == written
