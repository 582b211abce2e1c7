"""
The sandbox: servers of each kind start, stop, restart and are killed, and leave nothing behind.

The tests start servers of their own, because they stop and kill them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from engine.sandbox import SandboxUnavailable, Server, start_mariadb, start_mysql, start_postgres
from engine.sandbox.artifact import Artifact
from engine.sandbox.cache import entry
from engine.sandbox.debian import archive
from engine.sandbox.process import children, is_alive
from engine.sandbox.server import sweep_abandoned
from tests.support.old_servers import OLD_SERVERS
from tests.support.servers import (
    connect_mysql,
    mysql_version,
    obtain,
    obtain_old,
    postgres_version,
)
from tests.support.waiting import wait_until

KINDS: dict[str, tuple[Callable[[], Server], str]] = {
    "mysql": (start_mysql, "9."),
    "mariadb-10.11": (lambda: start_mariadb("10.11"), "10.11."),
    "mariadb-11.8": (lambda: start_mariadb("11.8"), "11.8."),
    "postgres-15": (lambda: start_postgres("15"), "15."),
    "postgres-18": (lambda: start_postgres("18"), "18."),
}


@pytest.fixture(
    params=[
        *("mysql", "mariadb-10.11", "mariadb-11.8", "postgres-15"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgres-18", *OLD_SERVERS)),
    ]
)
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    if request.param in OLD_SERVERS:
        version = request.param.split("-")[1] + "."
        with obtain_old(OLD_SERVERS[request.param]) as server:
            yield server, version
        return
    start, version = KINDS[request.param]
    with obtain(start) as server:
        yield server, version


def run_sql(server: Server, *statements: str) -> list[tuple[object, ...]]:
    """Run statements. Returns the rows of the last one."""
    rows: list[tuple[object, ...]] = []
    if server.kind == "postgres":
        with psycopg.connect(server.url, autocommit=True) as session:
            for statement in statements:
                answer = session.execute(statement.encode())
                rows = answer.fetchall() if answer.description else []
    else:
        with connect_mysql(server) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
    return rows


def test_a_server_keeps_its_data_until_it_is_stopped(started: tuple[Server, str]) -> None:
    server, version = started
    said = postgres_version(server.url) if server.kind == "postgres" else mysql_version(server)
    assert said == server.version
    assert said.startswith(version)

    table = "public.kept" if server.kind == "postgres" else "shop.kept"
    if server.kind != "postgres":
        run_sql(server, "CREATE DATABASE shop")
    run_sql(server, f"CREATE TABLE {table} (id int PRIMARY KEY)", f"INSERT INTO {table} VALUES (7)")

    port = server.port
    server.kill()
    assert not server.running
    server.start()
    assert run_sql(server, f"SELECT id FROM {table}") == [(7,)]

    server.restart()
    assert server.port == port
    assert run_sql(server, f"SELECT id FROM {table}") == [(7,)]

    folder = server.layout.folder
    family = [server.process_id, *children(server.process_id)]
    server.stop()
    assert not folder.exists()
    assert not [process for process in family if is_alive(process)]
    with pytest.raises(SandboxUnavailable, match="was stopped"):
        server.start()


def test_source_settings(mysql_family: Server) -> None:
    [(binlog, form, image, metadata)] = run_sql(
        mysql_family,
        "SELECT @@log_bin, @@binlog_format, @@binlog_row_image, @@binlog_row_metadata",
    )
    assert (binlog, form, image, metadata) == (1, "ROW", "FULL", "FULL")


def test_target_settings(postgres_family: Server) -> None:
    [row] = run_sql(
        postgres_family,
        "SELECT current_setting('wal_level'), current_setting('timezone'), "
        "current_setting('server_encoding')",
    )
    assert row == ("logical", "UTC", "UTF8")


def test_copies_of_a_template_have_different_ids() -> None:
    with obtain(start_mysql) as one, obtain(start_mysql) as two:
        assert run_sql(one, "SELECT @@server_uuid") != run_sql(two, "SELECT @@server_uuid")


def test_options_override_and_a_chosen_directory_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    data = tmp_path / "data"
    with obtain(lambda: start_mariadb(options=["--server-id=5"], directory=data)) as server:
        assert run_sql(server, "CREATE DATABASE shop", "SELECT @@server_id") == [(5,)]
    with obtain(lambda: start_mariadb(directory=data)) as server:
        assert ("shop",) in run_sql(server, "SHOW DATABASES")
    assert (data / "shop").is_dir()


def test_clients_do_not_delay_a_restart() -> None:
    with obtain(start_postgres) as server, psycopg.connect(server.url) as client:
        client.execute("SELECT 1")
        server.kill()
        server.start()
        assert run_sql(server, "SELECT 1") == [(1,)]
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_an_unknown_release_names_those_there_are() -> None:
    with pytest.raises(SandboxUnavailable, match=r"mysql 5\.1") as caught:
        start_mysql("5.1")
    assert "5.5" in (caught.value.hint or "")


def test_an_artifact_with_another_checksum_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "npm"
    client.write_text('#!/bin/sh\necho other > "$4/package.tgz"\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TAILRACE_CACHE", str(tmp_path / "cache"))
    artifact = Artifact("a server", "npm", "server@1", "00" * 32, "package", 1)
    with pytest.raises(SandboxUnavailable, match="SHA-256"):
        artifact.root()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(SandboxUnavailable, match="not installed"):
        artifact.root()


def test_a_failed_start_shows_the_servers_log() -> None:
    obtain(start_postgres).stop()
    with pytest.raises(SandboxUnavailable, match="no_such_setting"):
        start_postgres(options=["no_such_setting=1"])


def test_a_server_outlives_the_thread_that_started_it() -> None:
    found: list[Server] = []
    thread = threading.Thread(target=lambda: found.append(start_postgres()))
    obtain(start_postgres).stop()
    thread.start()
    thread.join()
    with found[0] as server:
        assert run_sql(server, "SELECT 1") == [(1,)]
        assert server.running


OWNER = """
import sys
from engine.sandbox import start_mariadb
server = start_mariadb()
print(server.process_id, server.layout.folder, flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_its_killed_owner() -> None:
    obtain(start_mariadb).stop()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        process, folder = owner.stdout.readline().split()
        assert is_alive(int(process))
        sweep_abandoned()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    wait_until(lambda: not is_alive(int(process)), 10, "the server's end")
    os.utime(folder, (0, 0))
    sweep_abandoned()
    assert not Path(folder).exists()


def test_a_folder_in_use_is_not_swept() -> None:
    with obtain(start_postgres) as server:
        os.utime(server.layout.folder, (0, 0))
        sweep_abandoned()
        assert run_sql(server, "SELECT 1") == [(1,)]


def test_a_cache_entry_is_complete_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_CACHE", str(tmp_path))
    path = tmp_path / "things" / "one"
    made: list[Path] = []

    def fail(folder: Path) -> None:
        (folder / "incomplete").touch()
        raise SandboxUnavailable("broken")

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "complete").touch()

    with pytest.raises(SandboxUnavailable, match="broken"):
        entry(path, "one", fail)
    assert list(path.parent.iterdir()) == []

    threads = [threading.Thread(target=entry, args=(path, "one", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert [found.name for found in path.iterdir()] == ["complete"]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (
            "sources.list.d/debian.sources",
            (
                "# Debian\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n"
                "Components: main\nSigned-By: /keys/debian.gpg\n\nTypes: deb\n"
                "URIs: http://mirror.example/debian-security\nSigned-By: /keys/security.gpg\n"
            ),
            ("http://mirror.example/debian", "/keys/debian.gpg"),
        ),
        (
            "sources.list",
            (
                "deb http://mirror.example/debian-security x main\n"
                "deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian/ x main\n"
            ),
            ("http://mirror.example/debian/", "/keys/debian.gpg"),
        ),
    ],
)
def test_the_mirror_comes_from_the_sources_of_apt(
    tmp_path: Path, file: str, text: str, expected: tuple[str, str]
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert archive(tmp_path) == expected


def test_without_a_debian_archive_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror.example/ubuntu noble main\n")
    with pytest.raises(SandboxUnavailable, match="no Debian package archive"):
        archive(tmp_path)
