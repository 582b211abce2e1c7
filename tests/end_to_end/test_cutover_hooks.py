"""
The hooks of a cutover and what its steps find out: with real servers and a running engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pymysql
import pytest
from standardwebhooks.webhooks import Webhook

from engine.cli.main import main
from engine.databases.mysql.connect import query
from engine.handover import Cutover
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.support.cutovers import (
    application_of,
    become_ready,
    killed_at,
    record,
    session_of,
    thawed_at_the_end,
)
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_client import put_client
from tests.support.mysql_sessions import FreshDatabase
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until
from tests.support.web_hooks import SECRET, Hook

GUIDE = Path(__file__).parents[2] / "docs" / "cutover.md"
COMMON = """
[cutover]
quiet_seconds = 0.3
freeze_seconds = 5.0
"""
#: Takes the right to write from the application, and ends its sessions if {ends}, or gives the
#: right back, and notes that.
RIGHTS = """
import json, os, pymysql, sys
action = os.environ["TAILRACE_CUTOVER_ACTION"]
told = json.load(sys.stdin)
assert told["action"] == action and told["cutover"] == os.environ["TAILRACE_CUTOVER_ID"]
words = "REVOKE INSERT ON {database}.* FROM" if action == "freeze" else (
  "GRANT INSERT ON {database}.* TO")
with pymysql.connect(host="{host}", port={port}, user="{user}", password="{password}") as server:
    with server.cursor() as cursor:
        cursor.execute(words + " {application}@'%'")
        if {ends} and action == "freeze":
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s",
                ("{application}",))
            for number, in cursor.fetchall():
                cursor.execute("KILL %s", (number,))
with open("{called}", "a") as file:
    print(action, told["cutover"], file=file)
"""


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


def make_ready(server: AnyServer, database: str) -> None:
    """Two tables."""
    with connect_mysql(server, database) as connection:
        for name in ("ledger", "quiet"):
            query(connection, f"CREATE TABLE {name} (id INT PRIMARY KEY AUTO_INCREMENT, note TEXT)")
            query(connection, f"INSERT INTO {name} (note) VALUES ('one'), ('two')")


def insert(server: AnyServer, database: str, note: str) -> None:
    with connect_mysql(server, database) as connection:
        query(connection, "INSERT INTO ledger (note) VALUES (%s)", (note,))


def notes(target: str, database: str) -> list[str]:
    """What the ledger of the target has."""
    with psycopg.connect(target) as there:
        rows = there.execute(f"SELECT note FROM {database}.ledger ORDER BY id".encode()).fetchall()
    return [note for (note,) in rows]


def may_write(server: AnyServer, database: str, user: str) -> bool:
    with (
        pymysql.connect(
            host=server.host, port=server.port, user=user, password=user, database=database
        ) as connection,
        suppress(pymysql.err.OperationalError),
        connection.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO ledger (note) VALUES ('application')")
        connection.rollback()
        return True
    return False


def rights_hook(
    server: AnyServer, database: str, user: str, folder: Path, *, ends: bool = True
) -> str:
    """The configuration of a hook that takes the rights of a user, or gives them back."""
    names = {"database": database, "application": user, "called": folder / "called", "ends": ends}
    of_server = {key: getattr(server, key) for key in ("host", "port", "user", "password")}
    script = folder / "rights.py"
    script.write_text(RIGHTS.format(**names, **of_server))
    return f'{{ command = ["{sys.executable}", "{script}"] }}'


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["mysql", "mariadb_10"])
def test_a_session_keeps_its_rights_until_it_ends(
    source: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a pool with an open session WHEN a hook only revokes rights THEN a warning names the
    user, and the session can write; WHEN the hook ends sessions, too THEN nobody can."""
    server: AnyServer = request.getfixturevalue(source)
    database = fresh_mysql_database(server)
    make_ready(server, database)
    config = write_config(tmp_path, server.url, target_database, f"{database}.*", more=COMMON)
    plain = f'{config.read_text()}switch = {{ command = ["false"] }}\n'
    run = ["cutover", str(config)]
    with application_of(server, database) as user, EngineProcess(config) as engine:
        become_ready(engine, config)
        for ends in (False, True):
            hook = rights_hook(server, database, user, tmp_path, ends=ends)
            config.write_text(f"{plain}freeze = {hook}\nthaw = {hook}\n")
            with session_of(server, database, user) as session:
                assert write(session)
                capsys.readouterr()
                assert main(run) == 1
                told = capsys.readouterr()
                assert "the hook switch failed" in told.err
                named = f"connected to the source since before the freeze: {user} (1)" in told.out
                assert (named, write(session)) == (not ends, not ends)
                assert not may_write(server, database, user)
            assert main([*run, "--abort", "--force"]) == 0
            assert main(["verify", str(config)]) == 0
        assert engine.terminate() == 0


def script_of_the_guide(server: AnyServer, user: str, folder: Path) -> Path:
    """The hook of docs/cutover.md, for this server and this user."""
    found = re.search(r"```sh\n(.*?TAILRACE_CUTOVER_ACTION.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    text = textwrap.dedent(" " * 3 + found[1].lstrip())
    names = {"app@": f"{user}@", "'app'": f"'{user}'", "of app ": f"of {user} "}
    options = {"/etc/tailrace/admin.cnf": str(put_client(server, folder))}
    for name, here in (names | options).items():
        assert name in text
        text = text.replace(name, here)
    script = folder / "freeze.sh"
    script.write_text(text)
    script.chmod(0o755)
    return script


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_hook_of_the_guide_fails_if_it_ends_no_session(
    mysql: AnyServer, fresh_mysql_database: FreshDatabase, tmp_path: Path
) -> None:
    """GIVEN a user that may lock the account, and may not end its session."""
    database = fresh_mysql_database(mysql)
    make_ready(mysql, database)
    with application_of(mysql, database) as user, application_of(mysql, database) as locks:
        script, options = script_of_the_guide(mysql, user, tmp_path), tmp_path / "admin.cnf"
        with connect_mysql(mysql) as connection:
            query(connection, f"GRANT CREATE USER, PROCESS ON *.* TO {locks}@'%'")
        at = f"[client]\nhost = {mysql.host}\nport = {mysql.port}\n"
        options.write_text(f"{at}user = {locks}\npassword = {locks}\n")
        variables = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "TAILRACE_CUTOVER_ACTION": "freeze",
        }
        with session_of(mysql, database, user) as session:
            done = subprocess.run(
                [script], env=variables, capture_output=True, text=True, timeout=90
            )
            assert write(session)
    assert done.returncode == 1
    assert f"sessions of {user} could not be ended" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["mysql", "mariadb_10"])
def test_the_hook_of_the_guide(
    source: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN the hook that locks the account WHEN the cutover is killed at the switch, and in the
    step stop THEN it goes on, and warns of nothing; proofs hold, and the user's session has
    ended."""
    server: AnyServer = request.getfixturevalue(source)
    database = fresh_mysql_database(server)
    make_ready(server, database)
    config = write_config(tmp_path, server.url, target_database, f"{database}.*", more=COMMON)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with application_of(server, database) as user, EngineProcess(config) as engine:
        become_ready(engine, config)
        script = script_of_the_guide(server, user, tmp_path)
        hook = f'{{ command = ["{script}"] }}'
        switches = 'switch = { command = ["true"] }\nswitch_back = { command = ["true"] }\n'
        hooks = f'freeze = {hook}\nthaw = {hook}\nverify = "changed"\n'
        config.write_text(f"{config.read_text()}{switches}{hooks}")
        with session_of(server, database, user) as session:
            killed_at(config, "switch")
            assert not write(session)
        with pytest.raises(pymysql.err.OperationalError, match="lock"):
            may_write(server, database, user)
        killed_at(config, "stop")
        assert main(["cutover", str(config)]) == 0
        assert engine.wait() == 0
    done = record(target_database)
    assert (done["state"], done["warnings"], done["freezes"]) == ("done", [], 3)
    assert {it["table"]: it["compared"] for it in done["proofs"]} == {
        f"{database}.ledger": False,
        f"{database}.quiet": False,
    }


#: Switches the applications, which fails, or back, which waits.
BACK_AND_FORTH = """
echo "$TAILRACE_CUTOVER_ACTION" >> {called}
[ "$TAILRACE_CUTOVER_ACTION" = switch_back ] || exit 1
touch {waits}; while [ ! -e {go} ]; do sleep 0.05; done
echo "back on the old side" >> {called}
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["mysql", "mariadb_10"])
def test_sigkill_while_the_applications_are_switched_back(
    source: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a switch that has failed WHEN the abort is killed during the hook switch_back THEN the
    hook ends with it, and the next process calls it again, also if it was not asked to abort."""
    server: AnyServer = request.getfixturevalue(source)
    database = fresh_mysql_database(server)
    make_ready(server, database)
    called, waits, go, script = (tmp_path / it for it in ("called", "waits", "go", "hook.sh"))
    script.write_text(BACK_AND_FORTH.format(called=called, waits=waits, go=go))
    config = write_config(tmp_path, server.url, target_database, f"{database}.*", more=COMMON)
    hook = f'{{ command = ["sh", "{script}"] }}'
    config.write_text(f"{config.read_text()}switch = {hook}\nswitch_back = {hook}\n")
    run = ["cutover", str(config)]
    with thawed_at_the_end(server) as writes, EngineProcess(config) as engine:
        before = writes()
        become_ready(engine, config)
        assert main(run) == 1
        with subprocess.Popen([sys.executable, "-m", "engine.cli", *run, "--abort"]) as process:
            wait_until(waits.exists, 60, "the hook switch_back")
            process.kill()
        assert record(target_database)["state"] == "switch_back"
        assert writes()["read_only"] == "ON"
        capsys.readouterr()
        assert main([*run, "--switched"]) == 1
        assert "no cutover stands at the step switch" in capsys.readouterr().err
        go.touch()
        assert main(run) == 1
        aborted = record(target_database)
        assert (aborted["state"], writes()) == ("aborted", before)
        assert "switched the applications back" in aborted["steps"][-1]["did"]
        expected = ["switch", "switch_back", "switch_back", "back on the old side"]
        assert called.read_text().splitlines() == expected
        insert(server, database, "on the old side")
        wait_until(
            lambda: notes(target_database, database)[-1] == "on the old side", what="the row"
        )
        assert engine.terminate() == 0


def write(session: pymysql.Connection) -> bool:
    """Whether a session can still write."""
    with suppress(pymysql.err.OperationalError), session.cursor() as cursor:
        cursor.execute("INSERT INTO ledger (note) VALUES ('application')")
        return True
    return False


def signed(hook: Hook, action: str) -> list[dict[str, Any]]:
    """The calls of a webhook with this action, each with a valid signature."""
    found = []
    for headers, body in hook.requests:
        told = json.loads(body)
        if told.get("action") == action:
            assert Webhook(SECRET).verify(body, headers) == told
            found.append(told)
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_hooks_freeze_by_rights_and_switch_by_a_signed_webhook(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    hook: Hook,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a hook that takes the application's rights WHEN the webhook refuses, a command does not
    end in time, and the webhook accepts THEN only the last switches; an abort calls switch_back
    before thaw, the rights are back, and receivers are told of each step."""
    database = fresh_mysql_database(mysql)
    make_ready(mysql, database)
    base = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=COMMON)
    plain = base.read_text()
    run = ["cutover", str(base)]
    with application_of(mysql, database) as user, EngineProcess(base) as engine:
        engine.wait_live()
        rights = rights_hook(mysql, database, user, tmp_path)
        web = f'{{ url = "{hook.url}", secret = "{SECRET}" }}'
        receiver = f'\n[notify.team]\nurl = "{hook.url}"\nevents = ["cutover"]\n'
        hooks = f"freeze = {rights}\nthaw = {rights}\nswitch_back = {web}\n"
        base.write_text(f"{plain}{hooks}switch = {web}\n{receiver}")
        assert main(["schema", "apply", str(base), "--yes"]) == 0
        assert main(["verify", str(base)]) == 0
        assert may_write(mysql, database, user)

        hook.refused = {"switch"}
        assert main(run) == 1
        assert "the hook switch failed" in capsys.readouterr().err
        assert record(target_database)["state"] == "switch"
        assert not may_write(mysql, database, user)
        hook.refused = set()
        assert main([*run, "--abort"]) == 0
        assert may_write(mysql, database, user)
        aborted = record(target_database)
        assert (aborted["state"], aborted["before"]) == ("aborted", "hook")
        (switched, back) = (signed(hook, it) for it in ("switch", "switch_back"))
        assert {it["cutover"] for it in (*switched, *back)} == {aborted["id"]}
        assert len(back) == 1
        actions = [line.split() for line in (tmp_path / "called").read_text().splitlines()]
        assert actions == [["freeze", aborted["id"]], ["thaw", aborted["id"]]]

        late = 'switch = { command = ["sleep", "60"] }\nhook_seconds = 5.0\n'
        base.write_text(f"{plain}{hooks}{late}{receiver}")
        assert main(run) == 1
        assert "does not end in time" in capsys.readouterr().err
        assert main([*run, "--abort"]) == 0

        base.write_text(f"{plain}{hooks}switch = {web}\n{receiver}")
        assert main(run) == 0
        assert engine.wait() == 0
        done = record(target_database)
        assert (done["state"], signed(hook, "switch")[-1]["cutover"]) == ("done", done["id"])
        assert not may_write(mysql, database, user)
        told = [json.loads(body) for _, body in hook.requests]
        types = [it["type"] for it in told if "type" in it]
        steps = ("check", "freeze", "drain", "verify", "finish", "arm", "switch", "stop")
        assert types[-len(steps) :] == [f"cutover.{step}" for step in steps]
        assert types.count("cutover.abort") == 2


def assert_aborted_in_time(run: list[str], target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The cutover is aborted when the step after the freeze should begin."""
    capsys.readouterr()
    assert main(run) == 1
    assert "the source has been frozen for" in capsys.readouterr().err
    found = record(target)
    assert found["state"] == "aborted"
    assert [it["step"] for it in found["steps"]] == ["check", "freeze", "abort"]
    assert main([*run, "--back"]) == 1
    assert "there is nothing to switch back" in capsys.readouterr().err
    back = Cutover("cutover_back", "drain", time.time(), "test", direction="back")
    store(target, back)
    for words in (run, [*run, "--abort"]):
        assert main(words) == 1
        assert "this version cannot go on with it" in capsys.readouterr().err
    assert msgspec.convert(record(target), Cutover) == back
    store(target, msgspec.structs.replace(back, state="aborted"))


def store(target: str, cutover: Cutover) -> None:
    """Store a record, as another version may have."""

    async def save() -> None:
        async with PostgresSink(PostgresSettings(target), "mirror").cutover_store() as kept:
            await kept.save(cutover)

    asyncio.run(save())


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["mysql", "mariadb_10"])
def test_what_happens_while_a_cutover_is_left(
    source: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a cutover whose time is over, one that is killed while the source is then written, and
    one that another process works on THEN the first is aborted, the second drains and compares
    again, and the third is left alone. Tables without a change are not compared again, if asked."""
    server: AnyServer = request.getfixturevalue(source)
    database = fresh_mysql_database(server)
    make_ready(server, database)
    go, waits = tmp_path / "go", tmp_path / "waits"
    config = write_config(tmp_path, server.url, target_database, f"{database}.*", more=COMMON)
    wait = f"touch {waits}; while [ ! -e {go} ]; do sleep 0.05; done"
    plain = f'{config.read_text()}switch = {{ command = ["sh", "-c", "{wait}"] }}\n'
    run = ["cutover", str(config)]
    with thawed_at_the_end(server) as writes, EngineProcess(config) as engine:
        before = writes()
        become_ready(engine, config)
        config.write_text(plain + "max_downtime_seconds = 0.1\n")
        assert_aborted_in_time(run, target_database, capsys)
        assert writes() == before

        config.write_text(plain + 'verify = "changed"\n')
        insert(server, database, "after the proof")
        assert main([*run, "--rehearse", "--json"]) == 0
        rehearsed = json.loads(capsys.readouterr().out)
        tables = {it["table"]: it["compared"] for it in rehearsed["proofs"]}
        assert tables == {f"{database}.ledger": True, f"{database}.quiet": False}
        assert "the log has no change of them" in rehearsed["steps"][2]["did"]

        killed_at(config, "finish")
        with connect_mysql(server) as connection:
            query(connection, "SET GLOBAL read_only = OFF")
        insert(server, database, "slipped in")
        with subprocess.Popen([sys.executable, "-m", "engine.cli", *run]) as process:
            wait_until(waits.exists, 60, "the hook switch")
            assert main(run) == 1
            assert "another process works on the cutover" in capsys.readouterr().err
            assert main([*run, "--abort"]) == 1
            capsys.readouterr()
            assert main([*run, "--status", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["state"] == "switch"
            go.touch()
            assert process.wait(60) == 0
        assert engine.wait() == 0
        done = record(target_database)
        steps = [it["step"] for it in done["steps"]]
        again = ["drain", "verify", "finish", "arm", "switch", "stop"]
        assert steps == ["check", "freeze", "drain", "verify", *again]
        assert {it["table"]: it["compared"] for it in done["proofs"]} == tables
        assert notes(target_database, database)[-1] == "slipped in"
        assert writes()["read_only"] == "ON"
        assert_begins_anew(config, capsys)


def assert_begins_anew(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a cutover an engine of the pipeline runs only if its state was reset."""
    assert main(["cutover", str(config), "--back"]) == 1
    assert "there is no way back" in capsys.readouterr().err
    again = ["run", str(config), "--until-caught-up", "--no-progress"]
    assert main(again) == 2
    assert main(["reset", str(config), "--drop", "--yes"]) == 0
    assert "that applications have written since the cutover" in capsys.readouterr().out
    assert [main(again), main(again)] == [0, 0]
    assert main(["cutover", str(config), "--status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reset_at"] is not None
