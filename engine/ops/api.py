"""
The HTTP API of a running engine, as a Starlette application.

    GET  /metrics         for Prometheus: its text format, or OpenMetrics if the client asks for it
    GET  /health/live     200 while the process serves requests
    GET  /health/ready    200 {"status": "ok", …} or 503 {"status": "failing", "reason": …}
    GET  /status          the status as one JSON object, as `tailrace status --json` prints it
    POST /commands        a ``WholeCommand`` as JSON; 202 {"id": …, "href": "/commands/…"}
    GET  /commands        the last commands, the latest first
    GET  /commands/ID     a command with its outcome, which is null while it waits
    DELETE /commands/ID   cancels a command that waits; 409 if it does not
    GET  /openapi.json    this list for machines (``engine.ops.openapi``)
    GET  /                the dashboard, with what it needs (``engine.ops.dashboard``):
                          /assets/NAME, /history and /events
    GET  /runbook         the runbook, without data (``engine.ops.runbook``)

A command takes the way of `tailrace backfill`: it is stored in the target, the engine executes it
at a commit, and the table ``tailrace.command`` keeps who gave it and what became of it.

/health needs no token, so that a balancer can ask. Everything else but pages needs a role
(``engine.ops.access``). An error is a JSON object with ``error``, ``detail`` and ``hint``.

Handlers are coroutine functions, since Starlette runs all others in a thread.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from engine.commands import (
    CommandClient,
    CommandStore,
    PipelineCommand,
    RepairRows,
    StoredCommand,
    WholeCommand,
)
from engine.errors import TailraceError
from engine.ops.access import Access, Role
from engine.ops.dashboard import Dashboard
from engine.ops.log import printable
from engine.ops.openapi import openapi_document
from engine.ops.runbook import get_runbook, get_runbook_style
from engine.ops.status import Status
from engine.remedies import rendered

__all__ = [
    "CLIENT_HEADER",
    "Api",
    "Rendered",
    "json_response",
    "origin_of",
    "problem",
    "read_body",
]

JSON = "application/json"
#: How long the target may take to store or find a command.
STORE_SECONDS = 15.0
#: The number of connections to the target that requests use at the same time.
CONNECTIONS = 4
#: The greatest size of a command.
COMMAND_BYTES = 64 * 1024
#: The digits of the greatest number that a command has in PostgreSQL (bigint) have this length,
#: less one, so that none is greater.
NUMBER_DIGITS = 18
#: How many of the last commands GET /commands returns.
LISTED_COMMANDS = 100
#: Where a command comes from, as a supervisor tells it to an engine.
CLIENT_HEADER = "tailrace-client"
#: The length to which the name that a client gives is cut.
NAME_CHARACTERS = 64


class Rendered(Protocol):
    """Metrics as text: ``engine.ops.monitor.Monitor``."""

    def render(self, accept: str) -> tuple[bytes, str]: ...


class Api:
    """The API of one pipeline.

    ``status`` returns the status at the moment of the call; ``refresh`` is awaited before /metrics
    and /status are answered. ``commands`` returns the store of the target, if it keeps commands.
    ``config`` is the configuration's path, for command lines in hints.

    A pipeline is ready while it backfills, drains or is paused, or is at most ``max_lag_seconds``
    behind; the time without a connection to the source or the target counts as lag.
    """

    def __init__(
        self,
        access: Access,
        metrics: Rendered,
        status: Callable[[], Status],
        *,
        max_lag_seconds: float = 300.0,
        refresh: Callable[[], Awaitable[None]] | None = None,
        commands: Callable[[], CommandStore | None] | None = None,
        dashboard: Dashboard | None = None,
        config: str = "",
    ) -> None:
        self._access = access
        self._metrics = metrics
        self._status = status
        self._max_lag_seconds = max_lag_seconds
        self._refresh = refresh
        self._commands = commands
        self._dashboard = dashboard
        self._config = config
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._started_at = time.monotonic()

    def app(self) -> Starlette:
        """The application."""
        app = Starlette(
            routes=[
                *self._dashboard_routes(),
                Route("/metrics", self._may("read", self._get_metrics)),
                Route("/health/live", self._get_live),
                Route("/health/ready", self._get_ready),
                Route("/status", self._may("read", self._get_status)),
                Route("/commands", self._may("control", self._post_command), methods=["POST"]),
                Route("/commands", self._may("read", self._get_commands)),
                Route("/commands/{id}", self._may("control", self._cancel), methods=["DELETE"]),
                Route("/commands/{id}", self._may("read", self._get_command)),
                Route("/openapi.json", self._may("read", self._get_openapi)),
                Route("/runbook", get_runbook),
                Route("/runbook.css", get_runbook_style),
            ],
            exception_handlers={
                HTTPException: problem,
                TailraceError: self._failed,
                Exception: problem,
            },
        )
        # An unknown path is 404, also /metrics/.
        app.router.redirect_slashes = False
        return app

    def _dashboard_routes(self) -> list[Route]:
        if (dashboard := self._dashboard) is None:
            return []
        return [
            Route("/", dashboard.get_page),
            Route("/assets/{name}", dashboard.get_asset),
            Route("/history", self._may("read", dashboard.get_history)),
            Route("/events", self._may("read", dashboard.get_events)),
        ]

    def _may(
        self, role: Role, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The handler, for clients that have a role."""

        async def guarded(request: Request) -> Response:
            self._access.require(request, role)
            return await handler(request)

        return guarded

    async def _get_metrics(self, request: Request) -> Response:
        if self._refresh is not None:
            await self._refresh()
        text, content_type = self._metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def _get_status(self, _: Request) -> Response:
        if self._refresh is not None:
            await self._refresh()
        return json_response(self._status())

    async def _get_live(self, _: Request) -> Response:
        return json_response({"status": "ok"})

    async def _get_ready(self, _: Request) -> Response:
        now = self._status()
        shown = {name: getattr(now, name) for name in ("pipeline", "state", "lag_seconds")}
        since_start = time.monotonic() - self._started_at
        if reason := _unready(now, since_start, self._max_lag_seconds):
            failing = {"status": "failing", "reason": reason, **shown}
            return json_response(failing, HTTPStatus.SERVICE_UNAVAILABLE)
        return json_response({"status": "ok", **shown})

    async def _get_openapi(self, _: Request) -> Response:
        return json_response(openapi_document())

    async def _post_command(self, request: Request) -> Response:
        text = msgspec.json.encode(await _read_command(request)).decode()
        async with self._commands_of(request) as client:
            id = await client.submit(text, self._client(request))
        href = f"/commands/{id}"
        return json_response({"id": id, "href": href}, HTTPStatus.ACCEPTED, {"location": href})

    async def _get_commands(self, request: Request) -> Response:
        async with self._commands_of(request) as client:
            found = await client.newest(LISTED_COMMANDS)
        return json_response([_record(it) for it in reversed(found)])

    async def _get_command(self, request: Request) -> Response:
        async with self._commands_of(request) as client:
            return json_response(_record(await _find(client, request)))

    async def _cancel(self, request: Request) -> Response:
        outcome = f"cancelled by {self._client(request)}"
        async with self._commands_of(request) as client:
            id = (await _find(client, request)).id
            cancelled = await client.cancel(id, outcome)
            found = await _find(client, request)
        if not cancelled:
            raise HTTPException(HTTPStatus.CONFLICT, f"it was concluded: {found.outcome}")
        return json_response(_record(found))

    @asynccontextmanager
    async def _commands_of(self, request: Request) -> AsyncGenerator[CommandClient, None]:
        """The commands of the target, over a connection of its own. There are few at a time, and
        each request has a deadline.
        """
        store = None if self._commands is None else self._commands()
        if store is None:
            raise HTTPException(
                HTTPStatus.NOT_IMPLEMENTED, "this target keeps no commands; PostgreSQL does"
            )
        request.state.extend(2 * STORE_SECONDS)
        try:
            async with (
                asyncio.timeout(STORE_SECONDS),
                self._connections,
                store.command_client() as client,
            ):
                yield client
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the target does not answer; GET /commands tells later whether it has the command",
            ) from None

    def _client(self, request: Request) -> str:
        """Who gives a command: the name that the client claims, and what is known about it."""
        name = printable(request.headers.get("tailrace-user", "").strip())[:NAME_CHARACTERS]
        return f"{name or 'somebody'} through the API ({origin_of(request, self._access)})"

    async def _failed(self, _: Request, error: Exception) -> Response:
        """The target cannot be reached, or refuses."""
        assert isinstance(error, TailraceError)
        hint = rendered(error.hint, config=self._config, table=error.table or "")
        content = {"error": "Service Unavailable", "detail": error.message, "hint": hint}
        return json_response(content, HTTPStatus.SERVICE_UNAVAILABLE)


async def _read_command(request: Request) -> WholeCommand:
    """The command in a request's body."""
    try:
        command: PipelineCommand = msgspec.json.decode(
            await read_body(request), type=PipelineCommand
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = re.sub("Invalid value '.*' - at", "Invalid value at", str(error), flags=re.DOTALL)
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"not a command: {problem}") from None
    except RecursionError:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "not a command: it is nested") from None
    if isinstance(command, RepairRows):
        raise HTTPException(
            HTTPStatus.BAD_REQUEST,
            "not a command by itself: the keys of rows to repair are stored beside it, by `tailrace"
            " verify CONFIG --repair`",
        )
    return command


async def read_body(request: Request) -> bytes:
    """The body of a request, which is at most that of a command."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > COMMAND_BYTES:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST) from None
    return bytes(body)


def origin_of(request: Request, access: Access) -> str:
    """Where a request comes from, and whether it had a token. A supervisor, whose connection has no
    address, says it of its client.
    """
    if request.client is None:
        return printable(request.headers.get(CLIENT_HEADER, "")) or "unknown address"
    return request.client.host if access.open else f"{request.client.host}, control token"


async def _find(client: CommandClient, request: Request) -> StoredCommand:
    """The command that the path names."""
    text = request.path_params["id"]
    known = text.isascii() and text.isdecimal() and len(text) <= NUMBER_DIGITS
    found = await client.find(int(text)) if known else None
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "the pipeline has no command of this number")
    return found


def _record(stored: StoredCommand) -> dict[str, Any]:
    """A command as ``CommandRecord`` of the OpenAPI document describes it."""
    record: dict[str, Any] = msgspec.structs.asdict(stored)
    return {**record, "command": msgspec.Raw(stored.command.encode())}


def json_response(
    content: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with an object as JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type=JSON)


async def problem(_: Request, error: Exception) -> Response:
    """An error as JSON. An unexpected one shows nothing of itself."""
    if not isinstance(error, HTTPException):
        error = HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR)
    phrase = HTTPStatus(error.status_code).phrase
    content: dict[str, Any] = {"error": phrase}
    if error.detail != phrase:
        content["detail"] = error.detail
    return json_response(content, error.status_code, error.headers)


def _unready(status: Status, since_start: float, max_lag_seconds: float) -> str:
    """The reason why the pipeline is not ready; empty if it is. Until the lag is known, it is the
    time since the start.
    """
    state, lag_seconds = status.state, status.lag_seconds
    if state == "connecting" and lag_seconds is None:
        return "source and target are not connected yet"
    lag_seconds = since_start if lag_seconds is None else lag_seconds
    if state in ("backfilling", "draining", "paused") or lag_seconds <= max_lag_seconds:
        return ""
    if state == "connecting":
        return f"source or target has been unreachable for {lag_seconds:.0f} seconds"
    return f"the target is {lag_seconds:.0f} seconds behind the source"
