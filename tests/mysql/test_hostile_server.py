"""
A server that sends larger packets than a server may: the engine's memory stays bounded.

The server is a real one up to the command that asks for the log, or for rows. From then on a relay
in front of it answers in its place, without end.
"""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from pymysql.constants import COMMAND

from engine.errors import DecodeError, TableUnreadable, TailraceError
from sources.mysql.binlog.packets import Packets
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import MIB, FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer

DUMPS = (bytes([COMMAND.COM_BINLOG_DUMP]), bytes([COMMAND.COM_BINLOG_DUMP_GTID]))
FULL = b"\xff\xff\xff"
#: What is received and not joined yet, besides the event itself.
ROOM = 96 * MIB


def event_head(size: int) -> bytes:
    """The status and the header of an event that says to have this size."""
    return bytes(1 + 4 + 1 + 4) + size.to_bytes(4, "little") + bytes(6)


def packets_without_end(first: bytes) -> Iterator[bytes]:
    """Packets of full size, of which the first begins with these bytes."""
    number = 1
    while True:
        yield FULL + bytes([number % 256]) + first.ljust(0xFFFFFF, b"x")
        first, number = b"", number + 1


class Relay:
    """Forwards to a server, until ``hijacks`` is true of a client's command; then it sends what
    ``answer`` yields, until the client has had enough.
    """

    def __init__(
        self,
        server: AnyServer,
        hijacks: Callable[[bytes], bool],
        answer: Callable[[], Iterator[bytes]],
    ) -> None:
        self._upstream = (server.host, server.port)
        self._hijacks = hijacks
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._back, args=(server, client), daemon=True)
        back.start()
        with client, server:
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    if self._hijacks(data[4:]):
                        for packet in self._answer():
                            client.sendall(packet)
                    server.sendall(data)
            with suppress(OSError):  # a socket that another thread reads is not closed without it
                server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """A block with a function that tells the largest memory of Python's objects since its start."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def hostile(
    writer: Writer, hijacks: Callable[[bytes], bool], answer: Callable[[], Iterator[bytes]]
) -> Iterator[MySQLSource]:
    """A source on the server behind a relay."""
    relay = Relay(writer.server, hijacks, answer)
    url = writer.server.url.replace(f":{writer.server.port}", f":{relay.port}")
    source = source_of(writer.server, writer.database, url=url, tls="disable")
    try:
        yield source
    finally:
        source.close()
        relay.close()


@pytest.fixture
def mysql_writer(mysql: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    yield writer
    writer.connection.close()


@pytest.mark.parametrize(
    ("size", "message"),
    [(64 * MIB, "larger than its header says"), (0xFFFFFFFF, "larger than 1 GiB")],
)
def test_an_event_without_end_is_refused(mysql_writer: Writer, size: int, message: str) -> None:
    error = failure_of_events(mysql_writer, size)
    assert isinstance(error, DecodeError)
    assert message in str(error)


@pytest.mark.slow
def test_an_event_of_the_largest_size_is_refused_after_it(mysql_writer: Writer) -> None:
    error = failure_of_events(mysql_writer, 1 << 30)
    assert isinstance(error, DecodeError)
    assert "larger than its header says" in str(error)


def failure_of_events(writer: Writer, size: int) -> TailraceError:
    """What follows an event without end, whose header says this size."""
    with hostile(
        writer,
        lambda command: command.startswith(DUMPS),
        lambda: packets_without_end(event_head(size)),
    ) as source:
        start = source.position()
        with peak_memory() as peak, Following(source, start, ()) as following:
            error = following.failure()
            assert peak() < (size if size <= 1 << 30 else 0) * 9 / 8 + ROOM
    return error


@pytest.mark.slow
def test_a_row_without_end_is_refused(mysql_writer: Writer) -> None:
    mysql_writer("INSERT INTO t VALUES (1, 'x')")
    with hostile(
        mysql_writer,
        lambda command: b" ORDER BY " in command and b"`v`" in command,
        rows_without_end,
    ) as source:
        (table,) = source.catalog()
        with (
            peak_memory() as peak,
            pytest.raises(TableUnreadable, match="more than 1 GiB") as caught,
        ):
            list(source.chunks(table, None, source.position(), rows=10, readers=1))
        assert caught.value.table == str(table.id)
        assert peak() < (1 << 30) * 9 / 8 + 2 * ROOM


def rows_without_end() -> Iterator[bytes]:
    """The head of a result with two columns, and a row that does not end."""
    head = [b"\2", bytes(20), bytes(20), b"\xfe\0\0\2\0"]
    for number, packet in enumerate(head, 1):
        yield len(packet).to_bytes(3, "little") + bytes([number]) + packet
    yield from packets_without_end(b"\1")


def test_a_large_event_is_in_memory_once() -> None:
    size = 100 * MIB
    event = event_head(size) + bytes(size - 19)
    parts = [event[at : at + 0xFFFFFF] for at in range(0, len(event), 0xFFFFFF)]
    sent = b"".join(len(part).to_bytes(3, "little") + b"\0" + part for part in parts)
    packets, found = Packets(), list[bytes]()
    with peak_memory() as peak:
        for at in range(0, len(sent), MIB):
            found += packets.cut(sent[at : at + MIB])
        assert peak() < size * 9 / 8 + ROOM
    assert found == [event[1:]]
    assert not packets.partial
