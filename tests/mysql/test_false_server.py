"""A server in the place of the source gets neither the password nor a file of this machine."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from engine.databases.mysql.connect import connect, query
from engine.errors import SourceError, SourceLost
from sources.mysql.settings import MySQLSettings

PASSWORD = "clear-text-secret"
#: CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH; no CLIENT_SSL.
CAPABILITIES = 0x200 | 0x8000 | 0x80000
OK = b"\x00\x00\x00\x02\x00\x00\x00"
#: Every address of this machine: it leads here, and does not look like it.
ELSEWHERE = "0.0.0.0"


class Hostile:
    """Speaks the server's part of the protocol, and keeps all that it is sent."""

    def __init__(self, method: bytes = b"", answer: bytes = OK) -> None:
        self._method, self._answer = method, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            with client:
                client.settimeout(10)
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        low, high = struct.unpack("<HH", struct.pack("<I", CAPABILITIES))
        head = struct.pack("<BHBHHB", 0, low, 45, 2, high, 21) + bytes(10)
        greeting = b"\n9.7.0\0" + bytes(4) + b"a" * 8 + head + b"b" * 12 + b"\0"
        self._send(client, 0, greeting + b"mysql_native_password\0")
        number = self._receive(client)
        if self._method:
            self._send(client, number + 1, b"\xfe" + self._method + b"\0\x04Password: ")
            number = self._receive(client)
        self._send(client, number + 1, OK)
        answer = OK  # to SET autocommit and the session's variables
        while True:
            number = self._receive(client)
            if b"SELECT" in self.received:
                answer = self._answer
            self._send(client, number + 1, answer)

    def _send(self, client: socket.socket, number: int, payload: bytes) -> None:
        client.sendall(struct.pack("<I", len(payload))[:3] + bytes([number % 256]) + payload)

    def _receive(self, client: socket.socket) -> int:
        """Keep one packet; returns its number."""
        head = self._exactly(client, 4)
        self.received += self._exactly(client, int.from_bytes(head[:3], "little"))
        return head[3]

    def _exactly(self, client: socket.socket, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = client.recv(size - len(found))
            if not part:
                raise OSError("the client has left")
            found += part
        return found


@pytest.fixture
def servers() -> Iterator[list[Hostile]]:
    made: list[Hostile] = []
    yield made
    for server in made:
        server.close()


def settings(server: Hostile, host: str) -> MySQLSettings:
    return MySQLSettings(url=f"mysql://u:{PASSWORD}@{host}:{server.port}/", timeout_seconds=5.0)


@pytest.mark.parametrize("method", [b"mysql_clear_password", b"dialog"])
def test_a_password_is_not_sent_as_clear_text(servers: list[Hostile], method: bytes) -> None:
    """GIVEN a server without TLS that asks for the password itself WHEN it is not on this machine
    THEN the login is refused."""
    servers.append(server := Hostile(method))
    with pytest.raises(SourceError, match="clear text") as refused:
        connect(settings(server, ELSEWHERE))
    assert not refused.value.retryable
    assert "verify-full" in refused.value.hint
    assert PASSWORD not in f"{refused.value} {refused.value.hint}"
    server.close()
    assert b"u\0" in server.received
    assert PASSWORD.encode() not in server.received


def test_on_this_machine_the_server_may_ask_for_it(servers: list[Hostile]) -> None:
    servers.append(server := Hostile(b"mysql_clear_password"))
    connect(settings(server, "127.0.0.1")).close()
    server.close()
    assert PASSWORD.encode() in server.received


def test_a_server_cannot_fetch_a_file(servers: list[Hostile]) -> None:
    """The answer to a query may be a request for a file (LOAD DATA LOCAL)."""
    servers.append(server := Hostile(answer=b"\xfb/etc/passwd"))
    session = connect(settings(server, "127.0.0.1"))
    with closing(session), pytest.raises(SourceLost, match="damaged"):
        query(session, "SELECT 1")
    server.close()
    assert b"root" not in server.received
