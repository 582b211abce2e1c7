"""
What watches an engine: a monitoring system that scrapes its metrics every second, an open
dashboard, and a receiver of OpenTelemetry. Each runs on a thread of the benchmark's process.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from engine.errors import TailraceError

__all__ = ["free_port", "receiver", "watching"]

SCRAPE_SECONDS = 1.0
RETRY_SECONDS = 0.05
ANSWER_SECONDS = 10.0
HOST = "127.0.0.1"


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class _Watchers:
    """The threads, and what they have read."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self.scrapes = self.events = 0
        self._threads = [threading.Thread(target=run) for run in (self._scrape, self._follow)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _scrape(self) -> None:
        while not self._ended.wait(SCRAPE_SECONDS if self.scrapes else RETRY_SECONDS):
            with suppress(OSError, http.client.HTTPException), self._open("/metrics") as answer:
                answer.read()
                self.scrapes += 1

    def _follow(self) -> None:
        """Read the events of a dashboard until the engine ends."""
        while not self._ended.wait(RETRY_SECONDS):
            with suppress(OSError, http.client.HTTPException), self._open("/events") as answer:
                while line := answer.readline():
                    self.events += line.startswith(b"event:")

    @contextmanager
    def _open(self, path: str) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path)
            yield connection.getresponse()
        finally:
            connection.close()


@contextmanager
def watching(port: int | None) -> Iterator[None]:
    """Watch the engine whose API has this port; none if it is None. Raises TailraceError if it was
    not watched.
    """
    if port is None:
        yield
        return
    watchers = _Watchers(port)
    try:
        yield
    finally:
        watchers.end()
    if not (watchers.scrapes and watchers.events):
        raise TailraceError("the engine ended before it was watched", hint="measure more rows")


class _Receiver(BaseHTTPRequestHandler):
    """Takes what is sent, and decodes nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read one request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""


@contextmanager
def receiver(wanted: bool) -> Iterator[str]:
    """The base URL of a receiver of OpenTelemetry; empty if none is ``wanted``."""
    if not wanted:
        yield ""
        return
    with ThreadingHTTPServer((HOST, 0), _Receiver) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
