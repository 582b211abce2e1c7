"""
What a running engine answers over HTTP: GET /metrics, /health and /status.

The idea: it shows what it is given and knows nothing else. It speaks as little HTTP as that needs:
one request per connection, a request of at most a few kilobytes, a deadline on each.

    /metrics   OpenMetrics text, for Prometheus
    /health    200 {"status": "ok", …} or 503 {"status": "failing", "reason": …}
    /status    the status as one JSON object, as `tailrace status --json` prints it
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from engine.errors import ConfigError

__all__ = ["Rendered", "StatusServer", "parse_listen"]

log = logging.getLogger("tailrace.server")

REQUEST_BYTES = 8192
REQUEST_SECONDS = 5.0
JSON = "application/json"


class Rendered(Protocol):
    """Metrics as text: ``engine.ops.metrics.Metrics``."""

    CONTENT_TYPE: str

    def render(self) -> bytes: ...


Answer = tuple[HTTPStatus, str, bytes]


class StatusServer:
    """Serves while it is entered: ``async with StatusServer("127.0.0.1:9187", …) as server``.

    ``status`` gives the status at the moment of the call; of it /health reads ``state`` and
    ``lag_seconds``. Healthy is who copies tables, or is at most ``max_lag_seconds`` behind; a side
    that is away counts as lag. Raises ConfigError if the address is wrong or taken.
    """

    def __init__(
        self,
        listen: str,
        metrics: Rendered,
        status: Callable[[], Mapping[str, Any]],
        *,
        max_lag_seconds: float = 300.0,
    ) -> None:
        self._host, self._port = parse_listen(listen)
        self._metrics = metrics
        self._status = status
        self._max_lag_seconds = max_lag_seconds
        self._started_at = time.monotonic()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also where the configured one was 0."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> StatusServer:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=REQUEST_BYTES
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                hint="choose another address with --metrics-listen HOST:PORT",
            ) from error
        log.info("listening", extra={"host": self._host, "port": self.port})
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, answer it, hang up."""
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(REQUEST_SECONDS):
                    status, kind, body = await self._respond(reader)
                    writer.write(_head(status, kind, len(body)) + body)
                    await writer.drain()
        finally:
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader) -> Answer:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _problem(HTTPStatus.BAD_REQUEST)
        if words[0] != "GET":
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED)
        return self._page(words[1].partition("?")[0])

    def _page(self, path: str) -> Answer:
        if path == "/metrics":
            return HTTPStatus.OK, self._metrics.CONTENT_TYPE, self._metrics.render()
        if path == "/status":
            return HTTPStatus.OK, JSON, msgspec.json.encode(self._status())
        if path == "/health":
            return self._health()
        return _problem(HTTPStatus.NOT_FOUND)

    def _health(self) -> Answer:
        status = self._status()
        reason = self._unhealthy(status.get("state"), status.get("lag_seconds"))
        shown = {name: status.get(name) for name in ("pipeline", "state", "lag_seconds")}
        if reason:
            body = msgspec.json.encode({"status": "failing", "reason": reason, **shown})
            return HTTPStatus.SERVICE_UNAVAILABLE, JSON, body
        return HTTPStatus.OK, JSON, msgspec.json.encode({"status": "ok", **shown})

    def _unhealthy(self, state: str | None, lag_seconds: float | None) -> str:
        """What is wrong; empty if nothing is."""
        if state == "backfilling":
            return ""
        behind = lag_seconds
        if behind is None:
            behind = time.monotonic() - self._started_at
        if behind <= self._max_lag_seconds:
            return ""
        if state == "connecting":
            return f"a side has been away for {behind:.0f} seconds"
        return f"the target is {behind:.0f} seconds behind the source"


def parse_listen(listen: str) -> tuple[str, int]:
    """``host:port`` as its parts; ``[::1]:9187`` for IPv6. ConfigError if it is neither."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise ConfigError(
            f"'{listen}' is no address to listen on", hint="write HOST:PORT, e.g. 127.0.0.1:9187"
        )
    return host.strip("[]"), int(port)


def _head(status: HTTPStatus, kind: str, length: int) -> bytes:
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _problem(status: HTTPStatus) -> Answer:
    return status, JSON, msgspec.json.encode({"error": status.phrase})
