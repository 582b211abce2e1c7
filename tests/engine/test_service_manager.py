"""What systemd is told, over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.ops import service_manager
from engine.ops.service_manager import ServiceManager, as_service
from tests.support.waiting import wait_until_async


class Systemd:
    """The socket of NOTIFY_SOCKET, and what was received."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.received: list[str] = []

    def take(self) -> list[str]:
        while True:
            try:
                self.received += self._socket.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self.received

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    path = str(tmp_path / "notify") if request.param == "path" else f"@tailrace-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    made = Systemd(path.replace("@", "\0") if path.startswith("@") else path)
    yield made
    made.close()


def test_a_service_is_ready_works_and_stops(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    words = ["Connecting."]

    async def work() -> None:
        async with as_service(lambda: words[-1]):
            assert systemd.take() == ["READY=1", "STATUS=Connecting."]
            words.append("Following.\nREADY=0")
            await wait_until_async(lambda: "WATCHDOG=1" in systemd.take(), timeout=5)
            assert "STATUS=Following.\\nREADY=0" in systemd.take()
        assert "STOPPING=1" in systemd.take()

    asyncio.run(work())


def test_the_watchdog_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert ServiceManager().watchdog_seconds is None
    monkeypatch.delenv("WATCHDOG_PID")
    assert ServiceManager().watchdog_seconds == 30.0


def test_no_manager_or_one_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager, "STATUS_SECONDS", 0.01)

    async def work() -> None:
        async with as_service(lambda: "Following."):
            await asyncio.sleep(0)

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    asyncio.run(work())
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    asyncio.run(work())
