"""
Two supervisors of the same directory, under load: the newer one takes over, and nothing is lost.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.demo.writer import ShopWriter
from engine.sandbox.process import is_alive
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer
from tests.support.shops import Shop, assert_mirrored, catch_up
from tests.support.supervised import SupervisorServer
from tests.support.waiting import wait_until

NAME = "mirror"
SMALL_CHUNKS = "[backfill]\nchunk_rows = 300\nslice_seconds = 0.1\n"


@pytest.fixture
def shop(mysql: AnyServer, new_shop: Callable[[AnyServer, int], Shop]) -> Shop:
    """A shop whose backfill takes some time."""
    return new_shop(mysql, 3_000)


@pytest.fixture
def directory(tmp_path: Path, shop: Shop, target_database: str) -> Path:
    """A directory with the pipeline of the shop."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    url = shop.server.url
    write_config(folder, url, target_database, shop.tables, name=NAME, more=SMALL_CHUNKS)
    return folder


def wait_applies(server: SupervisorServer, rows: int = 50) -> int:
    """Wait until the engine has applied changes since its start. Returns its process id."""
    found = server.wait(NAME, lambda it: it["status"] and it["status"]["rows"] > rows)
    return int(found["pid"])


def wait_stands_by(server: SupervisorServer) -> None:
    """Wait until the engine is fenced. It lives, and is not ready."""
    server.wait(NAME, lambda it: it["process"] == "standing by")
    assert server.ask("/health/live")[0] == 200
    code, body = server.ask("/health/ready")
    assert (code, b"mirror: standing by" in body) == (503, True)


def received(manager: socket.socket) -> list[str]:
    """What the service manager was told."""
    found: list[str] = []
    while True:
        try:
            found += manager.recv(65536).decode().splitlines()
        except BlockingIOError:
            return found


@pytest.mark.slow
def test_a_rolling_restart(
    shop: Shop,
    directory: Path,
    target_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        ShopWriter(shop.url, 200) as writer,
        EngineProcess(directory) as older,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        before = SupervisorServer(older)
        wait_applies(before)
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with EngineProcess(directory) as newer:
            after = SupervisorServer(newer)
            pid = wait_applies(after)
            assert received(manager)[:2] == ["READY=1", "STATUS=1 running."]
            wait_stands_by(before)
            assert after.ask("/health/ready")[0] == 200
            assert older.terminate() == 0, older.tail()
            counts = writer.stop()
            # A supervisor is killed: its engine commits and stops by itself.
            newer.kill()
            wait_until(lambda: not is_alive(pid), what="the end of the engine")
    catch_up(directory / f"{NAME}.toml")
    assert_mirrored(shop, target_database, counts.transactions)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_many_rolling_restarts(shop: Shop, directory: Path, target_database: str) -> None:
    """Supervisors take over from each other; one that stands by goes on when the newer is gone."""
    with ShopWriter(shop.url, 400) as writer, EngineProcess(directory) as first:
        standing_by, server = first, SupervisorServer(first)
        wait_applies(server)
        for number in range(6):
            newer = EngineProcess(directory)
            wait_applies(SupervisorServer(newer))
            wait_stands_by(server)
            if number % 2:
                standing_by.kill()
            else:
                assert standing_by.terminate() == 0, standing_by.tail()
            standing_by, server = newer, SupervisorServer(newer)
        with EngineProcess(directory) as newest:
            pid = wait_applies(SupervisorServer(newest))
            wait_stands_by(server)
            newest.process.send_signal(signal.SIGKILL)
            newest.wait()
            wait_until(lambda: not is_alive(pid), what="the end of the engine")
        wait_until(
            lambda: server.pipelines()[NAME]["process"] == "running",
            timeout=60,
            what="the start of the engine that stood by",
        )
        wait_applies(server)
        counts = writer.stop()
        assert standing_by.terminate() == 0, standing_by.tail()
    catch_up(directory / f"{NAME}.toml")
    assert_mirrored(shop, target_database, counts.transactions)
