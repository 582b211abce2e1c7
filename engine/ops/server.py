"""
The HTTP server of a running engine: GET /metrics, /health and /status.

    /metrics   for Prometheus: its text format, or OpenMetrics if the client asks for it
    /health    200 {"status": "ok", …} or 503 {"status": "failing", "reason": …}
    /status    the status as one JSON object, as `tailrace status --json` prints it

``make_app`` builds the Starlette application; new routes go there. ``StatusServer`` runs it in the
event loop of the caller. It uses uvicorn's HTTP protocol and configuration but not
``uvicorn.Server``, which replaces the process's signal handlers, ends the process if the address is
taken, and wakes up ten times per second.

``Connection`` adds the limits that uvicorn does not have: a deadline, and a size of the request
head that does not depend on how the head is split into packets. A connection serves one request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from engine.errors import ConfigError
from engine.ops.status import Status

__all__ = ["Rendered", "StatusServer", "make_app", "parse_listen"]

log = logging.getLogger("tailrace.server")

REQUEST_BYTES = 8192
REQUEST_SECONDS = 5.0
CLOSE_SECONDS = 1.0
JSON = "application/json"
#: Headers of every response. uvicorn expects lower case.
HEADERS = [(b"cache-control", b"no-store"), (b"connection", b"close")]


class Rendered(Protocol):
    """Metrics as text: ``engine.ops.metrics.Metrics``."""

    def render(self, accept: str) -> tuple[bytes, str]: ...


def make_app(
    metrics: Rendered,
    status: Callable[[], Status],
    *,
    max_lag_seconds: float = 300.0,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> Starlette:
    """The application; the arguments are those of ``StatusServer``.

    Handlers must be coroutine functions, since Starlette runs all others in a thread.
    """
    started_at = time.monotonic()

    async def get_metrics(request: Request) -> Response:
        text, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def get_status(_: Request) -> Response:
        if refresh is not None:
            await refresh()
        return _json(status())

    async def get_health(_: Request) -> Response:
        now = status()
        shown = {name: getattr(now, name) for name in ("pipeline", "state", "lag_seconds")}
        lag_seconds = now.lag_seconds
        if lag_seconds is None:
            lag_seconds = time.monotonic() - started_at
        if reason := _unhealthy(now.state, lag_seconds, max_lag_seconds):
            failing = {"status": "failing", "reason": reason, **shown}
            return _json(failing, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json({"status": "ok", **shown})

    app = Starlette(
        routes=[
            Route("/metrics", get_metrics),
            Route("/health", get_health),
            Route("/status", get_status),
        ],
        exception_handlers={HTTPException: _problem, Exception: _problem},
    )
    # An unknown path is 404, also /metrics/.
    app.router.redirect_slashes = False
    return app


def _json(
    content: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type=JSON)


async def _problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        error = HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR)
    phrase = HTTPStatus(error.status_code).phrase
    return _json({"error": phrase}, error.status_code, error.headers)


def _unhealthy(state: str | None, lag_seconds: float, max_lag_seconds: float) -> str:
    """The reason why the pipeline is unhealthy; empty if it is healthy."""
    if state in ("backfilling", "draining") or lag_seconds <= max_lag_seconds:
        return ""
    if state == "connecting":
        return f"source or target has been unreachable for {lag_seconds:.0f} seconds"
    return f"the target is {lag_seconds:.0f} seconds behind the source"


class StatusServer:
    """Serves while it is entered: ``async with StatusServer("127.0.0.1:9187", …) as server``.

    ``status`` returns the status at the moment of the call; /health reads its ``state`` and
    ``lag_seconds``. A pipeline is healthy while it backfills or drains, or is at most
    ``max_lag_seconds`` behind; the time without a connection to the source or the target counts as
    lag. ``refresh`` is awaited before /metrics and /status are answered. Raises ConfigError if the
    address is wrong or taken.
    """

    def __init__(
        self,
        listen: str,
        metrics: Rendered,
        status: Callable[[], Status],
        *,
        max_lag_seconds: float = 300.0,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._host, self._port = parse_listen(listen)
        self._app = make_app(metrics, status, max_lag_seconds=max_lag_seconds, refresh=refresh)
        self._state = ServerState()
        self._state.default_headers = HEADERS
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also where the configured one is 0."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> StatusServer:
        config = _configure(self._app)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(config, self._state, {}), self._host, self._port
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                hint="choose another address with --metrics-listen HOST:PORT",
            ) from error
        log.info("listening", extra={"host": self._host, "port": self.port})
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

    The deadline covers the connection as a whole. A response that lasts longer, such as a stream
    of events, would have to cancel it.
    """

    _deadline: asyncio.TimerHandle
    #: What arrived of the request head, at most REQUEST_BYTES.
    _head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
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


def parse_listen(listen: str) -> tuple[str, int]:
    """``host:port`` as its parts; ``[::1]:9187`` for IPv6. ConfigError if it is neither."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise ConfigError(
            f"'{listen}' is not an address to listen on",
            hint="write HOST:PORT, e.g. 127.0.0.1:9187",
        )
    return host.strip("[]"), int(port)
