"""
A TCP proxy in front of a server, which does what networks do: break, stall, delay and damage.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Link", "Proxy"]

_Send = Callable[[bytes], None]

RECEIVE_BYTES = 1 << 18
CONNECT_SECONDS = 5
#: How many pieces may be on their way in one direction of one connection.
PIECES_ON_THE_WAY = 1024


class Link:
    """The two sockets of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.lost = False

    @staticmethod
    def receive(each: socket.socket) -> bytes:
        """What has arrived; nothing at the end of the connection."""
        try:
            return each.recv(RECEIVE_BYTES)
        except OSError:
            return b""

    @staticmethod
    def reset(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            # With linger 0, buffered data is discarded, as when a host dies.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.shutdown(socket.SHUT_RDWR)
        each.close()


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
        delayed = self._delayed(there) if self._delay_seconds else None
        send = delayed or there.sendall
        while data := link.receive(here):
            self._flowing.wait()
            if link.lost:
                continue
            try:
                send(self._damaged(data) if here is link.server else data)
            except OSError:
                if not link.lost:
                    break
        if delayed is not None:
            delayed(b"")
            return
        if link.lost:
            return
        with self._lock:
            self._links.discard(link)
        for each in (here, there):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _delayed(self, there: socket.socket) -> _Send:
        """A function that sends later, in order, on a thread of its own. Sending nothing ends the
        connection.
        """
        waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(PIECES_ON_THE_WAY)

        def run() -> None:
            with contextlib.suppress(OSError):
                while (piece := waiting.get())[1]:
                    time.sleep(max(0.0, piece[0] - time.monotonic()))
                    there.sendall(piece[1])
                there.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=run, daemon=True).start()
        return lambda data: waiting.put((time.monotonic() + self._delay_seconds, data))

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
