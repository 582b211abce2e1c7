"""
A TCP proxy in front of a server, which does what networks do: break, stall, delay and damage.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from types import TracebackType

__all__ = ["Link", "Proxy"]

RECEIVE_BYTES = 1 << 18
CONNECT_SECONDS = 5
#: How much may be on its way in one direction of one connection, so that a delay does not limit
#: the throughput: this much per 10 ms is more than a process forwards.
WINDOW_BYTES = 1 << 25


class Link:
    """The two sockets of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.lost = False

    @staticmethod
    def reset(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            # With linger 0, buffered data is discarded, as when a host dies.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.shutdown(socket.SHUT_RDWR)
        each.close()


class _Direction:
    """One direction of a connection: each piece is sent ``delay_seconds`` after it was received.

    One thread receives and sends, so that a delay costs no thread. Sending does not block, so a
    slow receiver does not change when the next pieces are received.
    """

    def __init__(self, here: socket.socket, there: socket.socket, delay_seconds: float) -> None:
        self._here = here
        self._there = there
        self._delay_seconds = delay_seconds
        self._window_bytes = WINDOW_BYTES if delay_seconds else RECEIVE_BYTES
        self._open = True
        self._readable = False
        self._stuffed = False
        #: When each piece is to be sent, and what is left of it.
        self._pieces: deque[tuple[float, memoryview]] = deque()
        self._bytes = 0

    def wait(self) -> bool:
        """Wait until there is something to receive or to send. False: nothing will come any more
        and all is sent.
        """
        if not self._open and not self._pieces:
            return False
        timeout = None
        if self._pieces and not self._stuffed:
            timeout = max(0.0, self._pieces[0][0] - time.monotonic())
        readers = [self._here] if self._open and self._bytes < self._window_bytes else []
        writers = [self._there] if self._stuffed else []
        self._readable = bool(select.select(readers, writers, (), timeout)[0])
        return True

    def receive(self) -> bytes:
        """What has arrived, possibly nothing."""
        if not self._readable:
            return b""
        try:
            data = self._here.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        self._open = bool(data)
        return data

    def put(self, data: bytes) -> None:
        """Send ``data`` when its time has come."""
        if data:
            self._pieces.append((time.monotonic() + self._delay_seconds, memoryview(data)))
            self._bytes += len(data)

    def send(self) -> None:
        """Send what is due, as far as the receiver takes it."""
        self._stuffed = False
        now = time.monotonic()
        while self._pieces and self._pieces[0][0] <= now:
            due, piece = self._pieces[0]
            try:
                sent = self._there.send(piece, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            self._bytes -= sent
            if sent < len(piece):
                self._pieces[0] = due, piece[sent:]
                self._stuffed = True
                return
            self._pieces.popleft()

    def discard(self) -> None:
        """Forget what is on its way."""
        self._pieces.clear()
        self._bytes = 0
        self._stuffed = False


class Proxy:
    """Listens on a free loopback port and forwards to ``host:port`` until closed. Each direction
    takes ``delay_seconds``.
    """

    def __init__(self, host: str, port: int, *, delay_seconds: float = 0.0) -> None:
        self._upstream = (host, port)
        self._delay_seconds = delay_seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._lost: list[Link] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._flips = 0
        self._closed = False
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """The port to connect to."""
        port: int = self._listener.getsockname()[1]
        return port

    def cut(self) -> int:
        """Reset all connections. Returns the number of closed sockets."""
        links = self._take_links()
        for link in links:
            link.reset(link.client)
            link.reset(link.server)
        return 2 * len(links)

    def half_open(self) -> int:
        """Close the server's side of all connections. The client's side stays open, and gets no
        answer any more. Returns the number of connections.
        """
        links = self._lose()
        for link in links:
            link.reset(link.server)
        return len(links)

    def lose(self) -> int:
        """Discard what is sent over the present connections. Both sides stay open. Returns the
        number of connections.
        """
        return len(self._lose())

    def freeze(self) -> None:
        """Forward nothing, in all present and future connections, until ``thaw``."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward what was held back, and all that follows."""
        self._flowing.set()

    def flip(self, times: int = 1) -> None:
        """Flip one bit in each of the next ``times`` pieces that a server sends and that are large
        enough to hold more than a head.
        """
        with self._lock:
            self._flips += times

    @property
    def flips_left(self) -> int:
        """How many pieces are still to be damaged."""
        return self._flips

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        self._closed = True
        self._listener.close()
        self.thaw()
        self.cut()
        for link in self._lost:
            link.reset(link.client)
            link.reset(link.server)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take_links(self) -> list[Link]:
        with self._lock:
            links = list(self._links)
            self._links.clear()
        return links

    def _lose(self) -> list[Link]:
        links = self._take_links()
        self._lost += links
        for link in links:
            link.lost = True
        return links

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            try:
                server = socket.create_connection(self._upstream, timeout=CONNECT_SECONDS)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            link = Link(client, server)
            with self._lock:
                self._links.add(link)
            for here, there in ((client, server), (server, client)):
                threading.Thread(
                    target=self._forward, args=(link, here, there), daemon=True
                ).start()

    def _forward(self, link: Link, here: socket.socket, there: socket.socket) -> None:
        direction = _Direction(here, there, self._delay_seconds)
        # ValueError: another thread has closed a socket, which has no file descriptor any more.
        with contextlib.suppress(OSError, ValueError):
            while direction.wait():
                self._flowing.wait()
                data = direction.receive()
                if link.lost:
                    direction.discard()
                    continue
                direction.put(self._damaged(data) if here is link.server else data)
                direction.send()
        if link.lost:
            return
        with self._lock:
            self._links.discard(link)
        for each in (here, there):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _damaged(self, data: bytes) -> bytes:
        """``data``, with a bit flipped in the middle if that was asked for."""
        if not self._flips or len(data) < 100:
            return data
        with self._lock:
            if not self._flips:
                return data
            self._flips -= 1
        middle = len(data) // 2
        return data[:middle] + bytes((data[middle] ^ 0x10,)) + data[middle + 1 :]
