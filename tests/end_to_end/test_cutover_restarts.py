"""
A source that is restarted during a cutover, and takes writes again.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from engine.cli.main import main
from engine.databases.mysql.connect import query
from engine.sandbox import Server, start_mariadb, start_mysql
from tests.support.background import Background
from tests.support.cutovers import become_ready, killed_at, record
from tests.support.engine_process import EngineProcess, write_config
from tests.support.global_variables import variables
from tests.support.servers import connect_mysql, obtain
from tests.support.waiting import wait_until

SETTINGS = """
[cutover]
quiet_seconds = 0.3
switch = {{ command = ["sh", "-c", "cat >> {called}"] }}
switch_back = {{ command = ["true"] }}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(params=["mysql", "mariadb"])
def source(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a table, which the test may restart, and a user without rights beyond that."""
    with obtain(start_mysql if request.param == "mysql" else start_mariadb) as server:
        with connect_mysql(server) as connection:
            query(connection, "CREATE DATABASE shop")
            query(connection, "CREATE TABLE shop.ledger (id INT PRIMARY KEY AUTO_INCREMENT)")
            query(connection, "INSERT INTO shop.ledger VALUES (1)")
            query(connection, "CREATE USER app@'%' IDENTIFIED BY 'app'")
            query(connection, "GRANT SELECT, INSERT ON shop.* TO app@'%'")
        yield server


@pytest.fixture
def config(source: Server, target_database: str, tmp_path: Path) -> Path:
    """The configuration. Its hook adds a line to the file ``called``."""
    more = SETTINGS.format(called=tmp_path / "called")
    return write_config(tmp_path, source.url, target_database, "shop.*", more=more)


class Application(Background):
    """Writes rows, and goes on whenever the server lets it: it knows neither of a restart nor of a
    cutover. ``written`` has the numbers of its rows.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(self._run)
        self._server = server
        self.written: list[int] = []

    def _run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                self._write(ended)
            except pymysql.MySQLError:  # the server is away, or read only
                ended.wait(0.01)

    def _write(self, ended: threading.Event) -> None:
        at = self._server
        with (
            pymysql.connect(
                host=at.host, port=at.port, user="app", password="app", autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            while not ended.is_set():
                cursor.execute("INSERT INTO shop.ledger VALUES ()")
                self.written.append(cursor.lastrowid)
                ended.wait(0.002)

    def wait_more(self) -> None:
        """Wait until it has written another row."""
        before = len(self.written)
        wait_until(lambda: len(self.written) > before, what="another row")


def restart(server: Server, how: str) -> None:
    """Restart a server. What SET GLOBAL has set is lost."""
    if how == "kill":
        server.kill()
    else:
        server.shutdown()
    server.start()
    assert read_only(server) == "OFF"


def read_only(server: Server) -> str:
    with connect_mysql(server) as connection:
        return variables(connection, "GLOBAL")["read_only"]


def numbers(server: Server, target: str) -> tuple[list[int], list[int]]:
    """The rows of both sides."""
    with connect_mysql(server) as connection:
        there = [row[0] for row in query(connection, "SELECT id FROM shop.ledger ORDER BY id")]
    with psycopg.connect(target) as connection:
        rows = connection.execute("SELECT id FROM shop.ledger ORDER BY id").fetchall()
    return there, [row[0] for row in rows]


#: The sessions that wait for a lock on the table.
WAITING = "SELECT count(*) FROM pg_locks WHERE relation = 'shop.ledger'::regclass AND NOT granted"


def restarted_after_the_freeze(
    config: Path, server: Server, how: str, application: Application, target: str
) -> str:
    """The step finish waits for a lock on the table until the server has been restarted, and is
    written. Returns the error of the command.
    """
    command = [sys.executable, "-P", "-m", "engine.cli", "cutover", str(config)]
    with (
        psycopg.connect(target) as holder,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        holder.execute("LOCK TABLE shop.ledger IN SHARE UPDATE EXCLUSIVE MODE")
        wait_until(lambda: holder.execute(WAITING).fetchone() == (1,), 60, "the step finish")
        restart(server, how)
        application.wait_more()
        holder.rollback()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1, said
    return said


@pytest.mark.parametrize("how", ["kill", "shutdown"])
def test_a_source_that_is_restarted_after_the_freeze(
    source: Server, how: str, config: Path, target_database: str
) -> None:
    """GIVEN a source that is restarted after the freeze, and written at once WHEN the command runs
    on THEN it aborts; WHEN it was killed and is typed again THEN it freezes, drains and compares
    again. The target has each row."""
    with EngineProcess(config) as engine, Application(source) as application:
        become_ready(engine, config)
        said = restarted_after_the_freeze(config, source, how, application, target_database)
        assert "the source takes writes as before" in said
        aborted = record(target_database)
        assert (aborted["state"], read_only(source)) == ("aborted", "OFF")
        application.wait_more()

        killed_at(config, "drain")
        wait_until(lambda: read_only(source) == "ON")
        restart(source, how)
        application.wait_more()
        engine.wait_status(lambda it: it["state"] == "streaming")
        assert main(["cutover", str(config)]) == 0
        assert engine.wait() == 0
        assert read_only(source) == "ON"
        there, here = numbers(source, target_database)
    assert there == here
    assert set(application.written) <= set(here)
    done = record(target_database)
    steps = [it["step"] for it in done["steps"]]
    assert steps[:3] == ["check", "freeze", "drain"]
    assert (done["state"], done["warnings"], done["id"] == aborted["id"]) == ("done", [], False)


def restarted_at_the_switch(server: Server, *, written: bool) -> None:
    restart(server, "kill")
    if written:
        with connect_mysql(server) as connection:
            query(connection, "INSERT INTO shop.ledger VALUES (2)")


@pytest.mark.parametrize("written", [False, True])
def test_a_source_that_is_restarted_at_the_switch(
    source: Server,
    written: bool,
    config: Path,
    target_database: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a restart that changed no row THEN the cutover goes on; else it names the table, and
    goes on when a person says that the applications are switched."""
    run = ["cutover", str(config)]
    with EngineProcess(config) as engine:
        become_ready(engine, config)
        killed_at(config, "switch")
        restarted_at_the_switch(source, written=written)
        engine.wait_status(lambda it: it["state"] == "streaming")
        capsys.readouterr()
        assert main(run) == int(written)
        if written:
            assert "shop.ledger" in capsys.readouterr().err
            assert read_only(source) == "ON"
            assert main([*run, "--switched"]) == 0
        assert engine.wait() == 0
        assert read_only(source) == "ON"
        done: dict[str, Any] = record(target_database)
        assert done["state"] == "done"
        assert ("shop.ledger" in "".join(done["warnings"])) == written


def test_a_source_that_is_restarted_by_the_hook(
    source: Server, config: Path, target_database: str, tmp_path: Path
) -> None:
    """GIVEN a source that is restarted while the hook switches the applications THEN the source is
    frozen again."""
    go, waits = tmp_path / "go", tmp_path / "waits"
    wait = f"touch {waits}; while [ ! -e {go} ]; do sleep 0.05; done"
    config.write_text(config.read_text().replace(f"cat >> {tmp_path / 'called'}", wait))
    with EngineProcess(config) as engine:
        become_ready(engine, config)
        with subprocess.Popen([sys.executable, "-m", "engine.cli", "cutover", str(config)]) as one:
            wait_until(waits.exists, 60, "the hook switch")
            restart(source, "shutdown")
            go.touch()
            assert one.wait(60) == 0
        assert engine.wait() == 0
        assert read_only(source) == "ON"
        assert record(target_database)["warnings"] == []


RESETS = {"mysql": "RESET BINARY LOGS AND GTIDS", "mariadb": "RESET MASTER"}


@pytest.mark.parametrize("step", ["arm", "switch"])
def test_a_log_that_is_reset_while_the_cutover_is_left(
    source: Server,
    step: str,
    config: Path,
    target_database: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a log that begins again, with a row that the target lacks, and has fewer GTIDs than the
    frozen one WHEN the cutover goes on THEN it is aborted, or a person decides and is warned."""
    run = ["cutover", str(config)]
    with EngineProcess(config) as engine:
        become_ready(engine, config)
        killed_at(config, step)
        with connect_mysql(source) as connection:
            query(connection, "SET GLOBAL read_only = OFF")
            query(connection, RESETS[source.kind])
            query(connection, "INSERT INTO shop.ledger VALUES (2)")
        capsys.readouterr()
        assert main(run) == 1
        assert "log has less than when it was frozen" in capsys.readouterr().err
        found = record(target_database)
        if step == "arm":
            assert (found["state"], read_only(source)) == ("aborted", "OFF")
            return
        assert (found["state"], read_only(source)) == ("switch", "ON")
        assert main([*run, "--switched"]) == 0
        done = record(target_database)
        assert done["state"] == "done"
        assert "log has less than when it was frozen" in done["warnings"][-1]
