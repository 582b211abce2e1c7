"""
``tailrace run DIRECTORY``: several pipelines, each in a process of its own, behind one server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from engine.cli.api_address import ApiAddress
from engine.cli.directory import pipelines_of
from engine.sandbox.process import children
from tests.support.browser import open_page
from tests.support.commands import tailrace
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.supervised import CONTROL, READ, SupervisorServer, follows
from tests.support.waiting import wait_until

TOKENS = f'[api]\nread_token = "{READ}"\ncontrol_token = "{CONTROL}"\n'


class Shops:
    """Source databases with one table each, and one target for all."""

    def __init__(self, mysql: AnyServer, target: str, new: Callable[[AnyServer], str]) -> None:
        self.mysql, self.target, self._new = mysql, target, new
        self.databases: dict[str, str] = {}

    def add(self, directory: Path, name: str) -> None:
        """A database, and the configuration of its pipeline."""
        self.databases[name] = database = self._new(self.mysql)
        with connect_mysql(self.mysql, database) as source, source.cursor() as cursor:
            cursor.execute("CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY)")
        write_config(directory, self.mysql.url, self.target, f"{database}.*", name=name)

    def change(self, count: int = 50) -> None:
        """Commit rows in each database."""
        for database in self.databases.values():
            with connect_mysql(self.mysql, database) as source, source.cursor() as cursor:
                for _ in range(count):
                    cursor.execute("INSERT INTO orders VALUES ()")
                    source.commit()

    def assert_arrived(self, *names: str) -> None:
        """Wait until the target has all rows of these, and compare."""
        with connect_mysql(self.mysql) as source, psycopg.connect(self.target) as there:
            there.autocommit = True
            for database in (self.databases[name] for name in names):
                with source.cursor() as cursor:
                    cursor.execute(f"SELECT count(*) FROM {database}.orders")
                    wanted = cursor.fetchone()
                query = f'SELECT count(*) FROM "{database}".orders'.encode()
                wait_until(
                    lambda query=query, wanted=wanted: there.execute(query).fetchone() == wanted,
                    what=f"the rows of {database}",
                )
                assert_equal(source, there, database)


def assert_roles(server: SupervisorServer) -> None:
    """The supervisor protects its own paths, and those of each pipeline."""
    for path in ("/status", "/metrics", "/pipelines/one/status", "/pipelines/one/events"):
        assert server.ask(path, token="")[0] == 401, path
    # A path that only begins like that of a public page is none.
    assert server.ask("/pipelines/one/health/../status", token="")[0] == 401
    assert server.ask("/pipelines/one/health/../status")[0] == 404
    assert server.ask("/pipelines/one/health/live", token="")[0] == 200
    for path in ("/reload", "/stop", "/pipelines/one/commands"):
        assert server.ask(path, {"command": "pause"})[0] == 403, path
    for path in ("/", "/pipelines/one/", "/pipelines/one/assets/dashboard.js", "/health/ready"):
        assert server.ask(path, token="")[0] == 200, path
    assert server.ask("/pipelines/none/status")[0] == 404
    assert server.ask("/commands", {"command": "pause"}, CONTROL)[0] == 404


def assert_control(server: SupervisorServer) -> None:
    """A pipeline is controlled through the supervisor, which tells the engine who does it."""
    code, body = server.ask("/pipelines/one/commands", {"command": "pause"}, CONTROL)
    assert code == 202
    server.wait("one", lambda it: it["status"] and it["status"]["state"] == "paused")
    assert follows(server.pipelines()["three"])
    found = json.loads(server.ask(f"/pipelines/one{json.loads(body)['href']}")[1])
    assert found["by"] == "ada through the API (127.0.0.1, control token)"
    server.ask("/pipelines/one/commands", {"command": "resume"}, CONTROL)
    server.wait("one", follows)


def assert_a_killed_engine_goes_on(shops: Shops, server: SupervisorServer) -> None:
    """One engine is killed: it starts again, and loses nothing. The other one does not notice."""
    shops.change()
    before = {name: it["pid"] for name, it in server.pipelines().items()}
    os.kill(before["one"], signal.SIGKILL)
    shops.change()
    killed = server.wait("one", lambda it: it["pid"] not in (None, before["one"]))
    assert (killed["restarts"], killed["message"]) == (1, "the process was killed by SIGKILL")
    server.wait("one", follows)
    shops.assert_arrived("one", "two")
    assert server.pipelines()["two"]["pid"] == before["two"]


def assert_reloads(
    shops: Shops, directory: Path, server: SupervisorServer, engine: EngineProcess
) -> None:
    """A new file, one that is gone, and one with a mistake that is gone."""
    (directory / "two.toml").unlink()
    (directory / "broken.toml").unlink()
    shops.add(directory, "three")
    outcome = tailrace(0, "reload", directory)
    assert outcome.startswith("started: three; stopped: broken, two; supervisor.toml has changed")
    server.wait("three", follows)
    shops.change()
    shops.assert_arrived("one", "three")
    assert set(server.pipelines()) == {"one", "three"}
    assert server.pipelines()["one"]["restarts"] == 1
    shops.add(directory, "four")
    engine.process.send_signal(signal.SIGHUP)
    server.wait("four", follows)


def test_the_pipelines_of_a_directory(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    shops = Shops(mysql, fresh_postgres_database(postgres), fresh_mysql_database)
    directory = tmp_path / "pipelines"
    directory.mkdir()
    for name in ("one", "two"):
        shops.add(directory, name)
    (directory / "broken.toml").write_text("[sorce]\n")
    (directory / "supervisor.toml").write_text(TOKENS)
    with EngineProcess(directory) as engine:
        server = SupervisorServer(engine)
        listen = f'listen = "127.0.0.1:{engine.port}"\n'
        server.wait("one", follows)
        server.wait("two", follows)
        (directory / "supervisor.toml").write_text(TOKENS + listen)
        shown = tailrace(1, "status", directory)
        assert "configuration error" in shown
        checked = json.loads(tailrace(2, "check", directory, "--json"))
        errors = [
            (it["pipeline"], found["code"])
            for it in checked
            for found in it["findings"]
            if found["level"] == "error"
        ]
        assert errors == [("broken", "CK010")]
        assert [it["pipeline"] for it in checked] == ["broken", "one", "two", None]
        assert f"127.0.0.1:{engine.port} can be used" in json.dumps(checked[-1])
        code, body = server.ask("/health/ready", token="")
        assert (code, json.loads(body)["reason"]) == (503, "broken: configuration error")
        assert "the table is missing" in server.pipelines()["broken"]["message"]
        assert server.ask("/health/ready")[0] == 503
        for child in children(engine.process.pid):
            words = Path(f"/proc/{child}/cmdline").read_text()
            assert READ not in words
            assert CONTROL not in words

        assert_a_killed_engine_goes_on(shops, server)
        assert_reloads(shops, directory, server, engine)
        assert_roles(server)
        assert_control(server)
        assert b'tailrace_up{pipeline="three"} 1.0' in server.ask("/metrics")[1]
        assert "Following" in tailrace(0, "status", directory)

        # The command to one pipeline ends it, and only it.
        assert "the engine ends" in tailrace(0, "stop", directory / "three.toml")
        server.wait("three", lambda it: it["process"] == "ended")
        assert "stop" in tailrace(0, "stop", directory)
        assert engine.wait(30) == 0, engine.tail()


@pytest.mark.slow
def test_one_source_into_several_targets(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    first, second = (fresh_postgres_database(postgres) for _ in range(2))
    shops = Shops(mysql, first, fresh_mysql_database)
    directory = tmp_path / "pipelines"
    directory.mkdir()
    shops.add(directory, "first")
    write_config(directory, mysql.url, second, f"{shops.databases['first']}.*", name="second")
    (directory / "supervisor.toml").write_text(TOKENS)
    with EngineProcess(directory) as engine:
        server = SupervisorServer(engine)
        for name in ("first", "second"):
            server.wait(name, follows)
        shops.change()
        for shops.target in (first, second):
            shops.assert_arrived("first")
        # Neither takes the connection of the other one.
        assert {it["status"]["reconnects"] for it in server.pipelines().values()} == {0}
        # The address is that of the supervisor, which also runs without engines.
        listen = f'listen = "127.0.0.1:{engine.port}"\n'
        (directory / "supervisor.toml").write_text(TOKENS + listen)
        for name in ("first", "second"):
            tailrace(0, "stop", directory / f"{name}.toml")
            server.wait(name, lambda it: it["process"] == "ended")
        assert f"127.0.0.1:{engine.port} can be used" in tailrace(0, "check", directory)
        assert engine.terminate() == 0, engine.tail()


@pytest.mark.slow
def test_the_pages_of_a_supervisor(tmp_path: Path) -> None:
    """The index shows each pipeline in words, and leads to its dashboard."""
    directory = tmp_path / "pipelines"
    directory.mkdir()
    away = "127.0.0.1:9/shop"  # nobody listens on the discard port
    write_config(directory, f"mysql://u@{away}", f"postgresql://u@{away}", "shop.*", name="a b")
    (directory / "broken.toml").write_text("[sorce]\n")
    (directory / "supervisor.toml").write_text(TOKENS)
    with EngineProcess(directory) as engine:
        server = SupervisorServer(engine)
        server.wait("a b", lambda it: it["status"] and it["status"]["errors"])
        with open_page(f"http://127.0.0.1:{engine.port}/", tmp_path) as page:
            page.wait_text("#login-title", "A token is needed")
            page.driver.find_element("id", "token").send_keys(CONTROL + "\n")
            page.wait_text("#connection", "live")
            shown = page.text("#pipelines")
            assert "a b" in shown
            assert "Connecting: no connection to PostgreSQL" in shown
            assert "source: the table is missing" in shown
            page.driver.find_element("link text", "a b").click()
            page.wait_text("#connection", "live")
            assert page.driver.current_url.endswith("/pipelines/a%20b/")
            assert page.text("#headline").startswith("Connecting: no connection to PostgreSQL")
            assert page.text("#pipeline") == "a b"
            page.driver.back()
            page.wait_text("#connection", "live")
        address = f"127.0.0.1:{engine.port}"
        (directory / "supervisor.toml").write_text(f'{TOKENS}listen = "{address}"\n')
        options = argparse.Namespace(token_file=None, tls_ca=None)
        shown_by_top = pipelines_of(directory, options)
        url = f"http://{address}/pipelines/a%20b"
        config = str(directory / "a b.toml")
        assert ("a b", config, ApiAddress(url, CONTROL)) in shown_by_top
        token = tmp_path / "token"
        token.write_text(READ)
        shown = tailrace(1, "status", "--api", url, "--token-file", token)
        assert "no connection to PostgreSQL" in shown
        url = f"http://{address}"
        shown = tailrace(1, "status", "--api", url, "--token-file", token)
        assert "is a supervisor of several pipelines" in shown
