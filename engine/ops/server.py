"""
The HTTP server of a running engine, over TLS or plain.

``HttpServer`` runs an application (``engine.ops.api``) in the event loop of the caller. It uses
uvicorn's HTTP protocol and configuration but not ``uvicorn.Server``, which replaces the process's
signal handlers, ends the process if the address is taken, and wakes up ten times per second.

``Connection`` adds the limits that uvicorn does not have: a deadline, and a size of the request
head that does not depend on how the head is split into packets. A connection serves one request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from http import HTTPStatus
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from engine.errors import ListenError
from engine.settings.api import parse_listen

__all__ = ["HttpServer"]

log = logging.getLogger("tailrace.server")

REQUEST_BYTES = 8192
REQUEST_SECONDS = 5.0
#: The greatest number of open connections.
CONNECTIONS = 256
CLOSE_SECONDS = 1.0
JSON = "application/json"
#: Headers of every response. uvicorn expects lower case.
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
    (b"x-content-type-options", b"nosniff"),
]


class HttpServer:
    """Serves while it is entered: ``async with HttpServer("127.0.0.1:9187", app) as server``.

    A path in the place of the address is that of a new Unix socket. ``tls`` is None for plain HTTP.
    Raises ConfigError if the address is malformed, ListenError if it is taken or not there yet.
    """

    def __init__(
        self, listen: str | Path, app: Starlette, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._path = listen if isinstance(listen, Path) else None
        self._host, self._port = ("", 0) if isinstance(listen, Path) else parse_listen(listen)
        self._app = app
        self._tls = tls
        self._state = ServerState()
        self._state.default_headers = HEADERS
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also where the configured one is 0."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> HttpServer:
        config = _configure(self._app)
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(config, self._state)

        try:
            if self._path is not None:
                self._server = await loop.create_unix_server(connect, str(self._path))
                return self
            self._server = await loop.create_server(connect, self._host, self._port, ssl=self._tls)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {self._path or f'{self._host}:{self._port}'}:"
                f" {error.strerror or error}",
                hint="choose another address with --listen HOST:PORT",
            ) from error
        scheme = "http" if self._tls is None else "https"
        log.info("listening", extra={"url": f"{scheme}://{self._host or '*'}:{self.port}"})
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, let requests finish for at most CLOSE_SECONDS, drop all connections."""
        assert self._server is not None
        self._server.close()
        self._server = None
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=CLOSE_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.abort()


def _configure(app: Starlette) -> Config:
    """uvicorn's configuration; of its log, only the errors are kept, as Tailrace's own."""
    logger = logging.getLogger("uvicorn.error")
    logger.handlers[:] = [ErrorHandler()]
    logger.propagate = False
    config = Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
    )
    config.load()
    return config


class ErrorHandler(logging.Handler):
    """Passes a record on to Tailrace's log."""

    def emit(self, record: logging.LogRecord) -> None:
        log.error(record.getMessage().strip(), exc_info=record.exc_info)


class Connection(H11Protocol):
    """uvicorn's connection for one request, with a deadline and a maximum size of the head.

    Bad input is always parsed by h11, so that the answer to it does not depend on whether httptools
    is installed.

    The deadline covers the connection as a whole. A handler whose response lasts longer calls
    ``request.state.extend(seconds)``, a stream of events before each one.
    """

    _deadline: asyncio.TimerHandle
    #: What arrived of the request head, at most REQUEST_BYTES.
    _head = b""

    def __init__(self, config: Config, server_state: ServerState) -> None:
        super().__init__(config, server_state, {"extend": self.extend})

    def extend(self, seconds: float) -> None:
        """Set the deadline anew."""
        self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._deadline = self.loop.call_later(REQUEST_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if b"\r\n\r\n" not in self._head:
            self._head = (self._head + data)[:REQUEST_BYTES]
            if len(self._head) == REQUEST_BYTES and b"\r\n\r\n" not in self._head:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request; uvicorn's own answer is plain text."""
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer without the application, which has no request to handle."""
        body = msgspec.json.encode({"error": status.phrase})
        headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", b"%d" % len(body)),
            *HEADERS,
        ]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()))
        self.transport.write(head + b"\r\n" + body)
        self.transport.close()
