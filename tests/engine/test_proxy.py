"""
The proxy of the tests and of the benchmarks: what it delays, and that a delay costs no throughput.
"""

from __future__ import annotations

import random
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from benchmarks.harness.far import far_away
from engine.sandbox.proxy import Proxy
from tests.support.waiting import wait_until

DELAY_SECONDS = 0.01
ROUND_TRIP_SECONDS = 2 * DELAY_SECONDS
PIECE = bytes(1 << 16)
#: More than may be on its way, so that receiving has to wait for sending.
MANY_BYTES = 48 << 20
HEAD_BYTES = 8


@contextmanager
def counting_server() -> Iterator[int]:
    """The port of a server that takes a number, then so many bytes, and answers their checksum."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client:
        while len(head := client.recv(HEAD_BYTES, socket.MSG_WAITALL)) == HEAD_BYTES:
            left = int.from_bytes(head, "big")
            checksum = 0
            while left:
                data = client.recv(min(left, 1 << 20))
                checksum = zlib.crc32(data, checksum)
                left -= len(data)
            client.sendall(checksum.to_bytes(HEAD_BYTES, "big"))


def seconds_of(client: socket.socket, pieces: list[bytes]) -> float:
    """Send ``pieces`` and check the answer. How long it took."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    expected = zlib.crc32(b"".join(pieces)).to_bytes(HEAD_BYTES, "big")
    started = time.perf_counter()
    client.sendall(sum(map(len, pieces)).to_bytes(HEAD_BYTES, "big"))
    for piece in pieces:
        client.sendall(piece)
    assert client.recv(HEAD_BYTES, socket.MSG_WAITALL) == expected
    return time.perf_counter() - started


def test_what_is_sent_arrives_as_it_was() -> None:
    draw = random.Random(1)
    small = [draw.randbytes(draw.randrange(1, 20_000)) for _ in range(500)]
    with counting_server() as port:
        for delay_seconds in (0.0, DELAY_SECONDS):
            with (
                Proxy("127.0.0.1", port, delay_seconds=delay_seconds) as proxy,
                closing(socket.create_connection(("127.0.0.1", proxy.port))) as client,
            ):
                seconds_of(client, small)
                seconds_of(client, [PIECE] * (MANY_BYTES // len(PIECE)))


def test_a_round_trip_takes_twice_the_delay() -> None:
    with (
        counting_server() as port,
        Proxy("127.0.0.1", port, delay_seconds=DELAY_SECONDS) as proxy,
        closing(socket.create_connection(("127.0.0.1", proxy.port))) as client,
    ):
        found: list[float] = []

        def prompt() -> bool:
            found.append(seconds_of(client, []))
            return min(found) < ROUND_TRIP_SECONDS * 1.1

        wait_until(prompt, what="a round trip of about 20 ms")
        assert min(found) >= ROUND_TRIP_SECONDS


def test_a_delay_does_not_limit_the_throughput() -> None:
    """The median of some transfers, without the round trip, which a transfer needs once. The pieces
    are as small as those of a COPY.
    """
    pieces = [bytes(1 << 13)] * 1000
    taken: dict[float, list[float]] = {0.0: [], ROUND_TRIP_SECONDS: []}
    with counting_server() as port:
        url = f"mysql://root@127.0.0.1:{port}"
        with (
            far_away(url, 0.0) as near,
            far_away(url, ROUND_TRIP_SECONDS) as far,
            closing(socket.create_connection(("127.0.0.1", urlsplit(near).port))) as without,
            closing(socket.create_connection(("127.0.0.1", urlsplit(far).port))) as delayed,
        ):
            clients = {0.0: without, ROUND_TRIP_SECONDS: delayed}

            def equal() -> bool:
                for round_trip, client in clients.items():
                    taken[round_trip].append(seconds_of(client, pieces) - round_trip)
                near_seconds, far_seconds = map(statistics.median, taken.values())
                return len(taken[0.0]) > 2 and far_seconds < 1.2 * near_seconds

            wait_until(equal, what="the throughput with a delay")


def test_a_connection_ends_after_what_was_sent_before() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy("127.0.0.1", listener.getsockname()[1], delay_seconds=DELAY_SECONDS) as proxy,
    ):
        with closing(socket.create_connection(("127.0.0.1", proxy.port))) as client:
            server, _ = listener.accept()
            client.sendall(b"the last words")
        with server:
            server.settimeout(10)
            assert server.recv(100, socket.MSG_WAITALL) == b"the last words"
