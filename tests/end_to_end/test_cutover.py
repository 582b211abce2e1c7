"""
The cutover, with real servers, a running engine, and a writer that stops only when it is refused.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from engine.cli.main import main
from engine.cli.wiring import load_settings, make_sink
from engine.databases.mysql.connect import error_code, query
from engine.errors import TailraceError
from engine.handover import Cutover, KeepsCutovers
from tests.support.cutovers import RECORDED, become_ready, killed_at, record, thawed_at_the_end
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

#: The server refuses a statement because it is read only.
READ_ONLY = (1290, 1836)
#: The hook appends a line each time that it is called.
CUTOVER = """
[cutover]
quiet_seconds = {quiet}
freeze_seconds = 2.0
sequence_margin = 500
switch = {{ command = ["sh", "-c", "cat >> {called}"] }}
"""


class Application:
    """Writes to the ledger, one row in each transaction, until the server refuses it."""

    def __init__(self, server: AnyServer, database: str, user: str = "") -> None:
        self.connection = pymysql.connect(
            host=server.host,
            port=server.port,
            user=user or server.user,
            password=user or server.password,
            database=database,
            autocommit=True,
        )
        self.written = 0
        self.refused = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        while not self._ended.is_set():
            try:
                query(self.connection, "INSERT INTO ledger (note) VALUES ('old side')")
            except TailraceError as error:
                self.refused = error_code(error) in READ_ONLY
                return
            self.written += 1

    def wait_refused(self) -> bool:
        """Whether the server has refused a row, for lack of which it ends."""
        self._thread.join(10)
        return self.refused

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
        self.connection.close()


def prepare(
    server: AnyServer, database: str, target: str, folder: Path, quiet: float = 0.3
) -> tuple[Path, Path]:
    """A table for the application; the configuration, and the file that the hook writes."""
    with connect_mysql(server, database) as connection:
        query(
            connection,
            "CREATE TABLE ledger (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(20))",
        )
        query(connection, "INSERT INTO ledger (note) VALUES ('one'), ('two')")
    called = folder / "called"
    more = CUTOVER.format(quiet=quiet, called=called)
    return write_config(folder, server.url, target, f"{database}.*", more=more), called


def sides(server: AnyServer, database: str, target: str) -> tuple[list[Any], list[Any]]:
    """The numbers in the ledger on both sides."""
    with connect_mysql(server, database) as connection:
        source = [row[0] for row in query(connection, "SELECT id FROM ledger ORDER BY id")]
    with psycopg.connect(target) as there:
        rows = there.execute(f"SELECT id FROM {database}.ledger ORDER BY id".encode()).fetchall()
    return source, [row[0] for row in rows]


def assert_complete(done: dict[str, Any], table: str) -> None:
    """The record tells what a report needs, after a rehearsal."""
    assert all(it["will"] and it["undo"] and it["did"] for it in done["steps"])
    assert list(done["predicted"]) == ["freeze", "drain", "verify", "finish", "arm"]
    assert done["frozen_at"] < done["switched_at"] <= done["ended_at"]
    assert "MySQL" in done["sides"]["source"]
    assert "PostgreSQL" in done["sides"]["target"]
    assert "" != done["start"] != done["end"] != ""
    ((name, rows),) = ((it["table"], it["rows"]) for it in done["proofs"])
    assert (name, rows > 2) == (table, True)


def assert_ended(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cutover that is done is neither aborted nor begun again, and no engine writes the source's
    changes over those of the applications."""
    assert main(["cutover", str(config), "--abort"]) == 1
    assert main(["cutover", str(config)]) == 1
    assert "switched to the target already" in capsys.readouterr().out
    assert main(["run", str(config), "--until-caught-up", "--no-progress"]) == 2
    assert "a cutover has switched the applications" in capsys.readouterr().err


def outcome(report: Path) -> str:
    """What a report tells, which is as it was written."""
    assert main(["report", "verify", str(report)]) == 0
    found: str = json.loads(report.read_text())["content"]["outcome"]
    return found


def test_a_cutover_loses_nothing(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN an application that writes WHEN the cutover is refused, aborted after SIGKILL, and
    killed again in the middle THEN the source is as before until the cutover succeeds; then the
    target has every row once, and takes new ones."""
    database = fresh_mysql_database(mysql)
    config, called = prepare(mysql, database, target_database, tmp_path)
    report = tmp_path / "report.json"
    with thawed_at_the_end(mysql) as writes, EngineProcess(config) as engine:
        before = writes()
        engine.wait_live()
        assert main(["cutover", str(config), "--report", str(report)]) == 1
        assert not report.exists()
        refused = capsys.readouterr().out
        assert "not found equal within" in refused
        assert "schema not complete: missing identity id" in refused
        assert f"tailrace schema apply {config}" in refused
        assert main(["schema", "apply", str(config), "--yes"]) == 0
        assert main(["verify", str(config)]) == 0
        with Application(mysql, database) as application:
            capsys.readouterr()
            words = ["--rehearse", "--json", "--report", str(report)]
            assert main(["cutover", str(config), *words]) == 0
            rehearsed = json.loads(capsys.readouterr().out)
            assert outcome(report) == "rehearsed"
            assert rehearsed["state"] == record(target_database)["state"] == "rehearsed"
            assert rehearsed["predicted_seconds"] == sum(rehearsed["predicted"].values())
            assert (writes(), called.exists(), application.refused) == (before, False, False)
            killed_at(config, "drain")
            assert application.wait_refused()
            assert record(target_database)["state"] == "drain"
        assert main(["cutover", str(config), "--abort"]) == 0
        assert (writes(), record(target_database)["state"]) == (before, "aborted")
        assert json.loads(record(target_database)["before"]) == before
        with Application(mysql, database) as application:
            killed_at(config, "verify")
            capsys.readouterr()
            assert main(["cutover", str(config)]) == 0, capsys.readouterr()
            assert application.wait_refused()
            assert application.written
        assert engine.wait() == 0
        assert writes()["super_read_only"] == "ON"
        done = record(target_database)
        assert [it["step"] for it in done["steps"]] == list(RECORDED)
        assert_complete(done, f"{database}.ledger")
        assert main(["cutover", str(config), "--status", "--report", str(report)]) == 0
        assert outcome(report) == "switched"
        (call,) = called.read_text().splitlines()
        assert json.loads(call)["cutover"] == done["id"]
        source, target = sides(mysql, database, target_database)
        assert source == target
        with psycopg.connect(target_database) as there:
            insert = f"INSERT INTO {database}.ledger (note) VALUES ('new side') RETURNING id"
            assert there.execute(insert.encode()).fetchall() == [(max(source) + 500 + 1,)]
        assert_ended(config, capsys)


def test_a_reset_tells_of_a_cutover_that_is_under_way(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = fresh_mysql_database(mysql)
    config, _ = prepare(mysql, database, target_database, tmp_path)
    assert main(["run", str(config), "--until-caught-up", "--no-progress"]) == 0
    sink = make_sink(load_settings(config))
    assert isinstance(sink, KeepsCutovers)

    async def begin() -> None:
        async with sink.cutover_store() as store:
            await store.save(Cutover("cutover_1", "switch", 1.0, "a person"))

    asyncio.run(begin())
    capsys.readouterr()
    assert main(["reset", str(config), "--drop"]) == 2  # there is nobody to ask
    asked = capsys.readouterr().out
    assert "A cutover is under way, which stands at switch, and the source may be frozen" in asked
    assert f"tailrace cutover {config} --status" in asked


def killed_while_it_waits(server: AnyServer, database: str, run: list[str]) -> None:
    """SIGKILL while the freeze waits for a lock; the abort ends the statement that waits."""
    with connect_mysql(server, database) as holder, connect_mysql(server) as watcher:
        query(holder, "LOCK TABLES ledger WRITE")
        process = subprocess.Popen([sys.executable, "-m", "engine.cli", *run])
        pending = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SET GL%'"
        wait_until(lambda: query(watcher, pending) == [(1,)])
        process.kill()
        process.wait(10)
        assert main([*run, "--abort"]) == 0
        assert query(watcher, pending) == [(0,)]
        query(holder, "UNLOCK TABLES")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["mysql", "mariadb_10"])
def test_what_fails_puts_the_source_back(
    source: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a user who passes read_only, a row that differs, a freeze that waits for a lock, or a
    hook that fails WHEN the cutover runs THEN the source is as before; after the hook was called,
    only if a person says so."""
    server: AnyServer = request.getfixturevalue(source)
    database = fresh_mysql_database(server)
    config, called = prepare(server, database, target_database, tmp_path)
    run = ["cutover", str(config)]
    with thawed_at_the_end(server) as writes, EngineProcess(config) as engine:
        before = writes()
        become_ready(engine, config)
        if source != "mysql":
            with Application(server, database):
                assert main(run) == 1
            assert "still written after it was frozen" in capsys.readouterr().err
            assert (writes(), record(target_database)["state"]) == (before, "aborted")
        with psycopg.connect(target_database, autocommit=True) as there:
            there.execute(f"UPDATE {database}.ledger SET note = 'x' WHERE id = 1".encode())
            report = tmp_path / "report.json"
            assert main([*run, "--report", str(report)]) == 1
            assert "not proven equal" in capsys.readouterr().err
            assert outcome(report) == "aborted"
            assert (writes(), record(target_database)["state"]) == (before, "aborted")
            there.execute(f"UPDATE {database}.ledger SET note = 'one' WHERE id = 1".encode())
        assert main(["verify", str(config)]) == 0

        killed_while_it_waits(server, database, run)
        assert writes() == before

        config.write_text(
            config.read_text().replace(f"cat >> {called}", f"echo >> {called}; false")
        )
        capsys.readouterr()
        assert main(run) == 1
        assert "the hook switch failed" in capsys.readouterr().err
        assert record(target_database)["state"] == "switch"
        assert writes()["read_only"] == "ON"
        assert main([*run, "--abort"]) == 1
        assert main([*run, "--rehearse"]) == 1
        assert main([*run, "--abort", "--force"]) == 0
        assert writes() == before
        assert len(called.read_text().splitlines()) == 1
        assert engine.process.poll() is None
