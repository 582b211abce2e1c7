"""
The HTTP server of a supervisor, as a Starlette application.

    GET  /                     the index: the state of each pipeline in words
    GET  /status               the same as one JSON object (``SupervisorStatus``)
    GET  /metrics              the metrics of all engines
    GET  /health/live          200 while the process serves requests
    GET  /health/ready         200 if each pipeline is ready or has ended, else 503 with the reasons
    GET  /openapi.json         this list for machines (``engine.ops.supervisor.openapi``)
    POST /reload               reads the directory again; 200 {"outcome": …}
    POST /stop                 has all engines commit and end, and then the supervisor
         /pipelines/NAME/…     the API of one pipeline (``engine.ops.api``), with its dashboard

Who may do what is decided here, by the same rules as for one engine (``engine.ops.access``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engine.errors import TailraceError
from engine.ops.access import Access, Role
from engine.ops.api import CLIENT_HEADER, json_response, origin_of, problem, read_body
from engine.ops.dashboard import asset, page
from engine.ops.openapi import Health
from engine.ops.runbook import get_runbook, get_runbook_style
from engine.ops.status import Status
from engine.ops.supervisor.engines import EngineApis
from engine.ops.supervisor.merging import merged
from engine.ops.supervisor.openapi import supervisor_document
from engine.ops.supervisor.processes import RELOAD_SECONDS, Supervisor
from engine.ops.supervisor.status import (
    ProcessStatus,
    SupervisedStatus,
    SupervisorStatus,
    without_answer,
)
from engine.ops.words import headline

__all__ = ["SupervisorApi"]

#: How long an engine may take to begin a response, or to send the next piece.
PROXY_SECONDS = 35.0
#: The paths of an engine that need no role, beside those of pages.
PUBLIC = ("health/live", "health/ready")
#: The headers of a request and of a response that are passed on.
REQUEST_HEADERS = ("accept", "content-type", "tailrace-user")
RESPONSE_HEADERS = ("content-type", "content-length", "content-security-policy")
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class SupervisorApi:
    """The API of a supervisor. ``reload`` reads the directory again and returns the outcome;
    ``stop`` has the supervisor end.
    """

    def __init__(
        self,
        access: Access,
        supervisor: Supervisor,
        engines: EngineApis,
        reload: Callable[[], Awaitable[str]],
        stop: Callable[[], None],
    ) -> None:
        self._access = access
        self._supervisor = supervisor
        self._engines = engines
        self._reload = reload
        self._stop = stop

    def app(self) -> Starlette:
        """The application."""
        methods = ["GET", "POST", "DELETE"]
        app = Starlette(
            routes=[
                Route("/", _get_index),
                Route("/assets/{name}", _get_asset),
                Route("/runbook", get_runbook),
                Route("/runbook.css", get_runbook_style),
                Route("/status", self._get_status),
                Route("/metrics", self._get_metrics),
                Route("/health/live", _get_live),
                Route("/health/ready", self._get_ready),
                Route("/openapi.json", self._get_openapi),
                Route("/reload", self._post_reload, methods=["POST"]),
                Route("/stop", self._post_stop, methods=["POST"]),
                Route("/commands", _no_pipeline, methods=methods),
                Route("/pipelines/{pipeline}", _to_dashboard),
                Route("/pipelines/{pipeline}/", _get_dashboard),
                Route("/pipelines/{pipeline}/assets/{name}", _get_asset),
                Route("/pipelines/{pipeline}/runbook", get_runbook),
                Route("/pipelines/{pipeline}/runbook.css", get_runbook_style),
                Route("/pipelines/{pipeline}/{path:path}", self._pass_on, methods=methods),
            ],
            exception_handlers={
                HTTPException: problem,
                TailraceError: _failed,
                Exception: problem,
            },
        )
        app.router.redirect_slashes = False
        return app

    async def status(self) -> SupervisorStatus:
        """All pipelines now."""
        processes = self._supervisor.statuses()
        found = await asyncio.gather(*(self._status_of(it) for it in processes))
        now = datetime.now(UTC)
        shown = (_shown(*it, now) for it in zip(processes, found, strict=True))
        return SupervisorStatus(pipelines=tuple(shown))

    async def _status_of(self, process: ProcessStatus) -> Status | None:
        api = self._api_of(process)
        return None if api is None else await self._engines.status(api)

    def _api_of(self, process: ProcessStatus) -> Path | None:
        return None if process.pid is None else self._supervisor.api_of(process.pipeline)

    async def _get_status(self, request: Request) -> Response:
        self._access.require(request, "read")
        request.state.extend(PROXY_SECONDS)
        return json_response(await self.status())

    async def _get_metrics(self, request: Request) -> Response:
        self._access.require(request, "read")
        request.state.extend(PROXY_SECONDS)
        accept = request.headers.get("accept", "")
        # The supervisor whose engine runs has the metrics of a pipeline that stands by here.
        processes = [it for it in self._supervisor.statuses() if it.process != "standing by"]
        found = await asyncio.gather(*(self._ask(it, "/metrics", accept) for it in processes))
        answers = {it.pipeline: found for it, found in zip(processes, found, strict=True)}
        good = {name: it for name, it in answers.items() if it is not None and it.is_success}
        texts = {name: good[name].text if name in good else None for name in answers}
        kinds = [it.headers["content-type"] for it in good.values()]
        return Response(merged(texts), headers={"content-type": kinds[0] if kinds else TEXT})

    async def _get_ready(self, request: Request) -> Response:
        request.state.extend(PROXY_SECONDS)
        if not self._supervisor.applied:
            return _failing("the directory is not read yet")
        processes = [it for it in self._supervisor.statuses() if it.process != "ended"]
        found = await asyncio.gather(*(self._ask(it, "/health/ready") for it in processes))
        reasons = {
            process.pipeline: _unready(process, response)
            for process, response in zip(processes, found, strict=True)
            if response is None or not response.is_success
        }
        if reasons:
            return _failing("; ".join(f"{name}: {why}" for name, why in reasons.items()))
        return json_response({"status": "ok"})

    async def _ask(
        self, process: ProcessStatus, path: str, accept: str = ""
    ) -> httpx.Response | None:
        api = self._api_of(process)
        return None if api is None else await self._engines.get(api, path, accept)

    async def _get_openapi(self, request: Request) -> Response:
        self._access.require(request, "read")
        return json_response(supervisor_document())

    async def _post_reload(self, request: Request) -> Response:
        self._access.require(request, "control")
        request.state.extend(RELOAD_SECONDS)
        return json_response({"outcome": await self._reload()})

    async def _post_stop(self, request: Request) -> Response:
        self._access.require(request, "control")
        self._stop()
        return json_response({"outcome": "all pipelines commit and stop"})

    async def _pass_on(self, request: Request) -> Response:
        """Have the engine of a pipeline answer."""
        path, name = request.path_params["path"], request.path_params["pipeline"]
        role: Role = "read" if request.method in ("GET", "HEAD") else "control"
        if path not in PUBLIC:
            self._access.require(request, role)
        # The client below would resolve dots, and take what follows two slashes for a host.
        if path.startswith("/") or {".", ".."} & {*path.split("/")}:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        api = self._supervisor.api_of(name)
        if api is None:
            raise self._absent(name)
        headers = {it: request.headers[it] for it in REQUEST_HEADERS if it in request.headers}
        headers[CLIENT_HEADER] = origin_of(request, self._access)
        target = f"/{quote(path)}" + (f"?{request.url.query}" if request.url.query else "")
        request.state.extend(PROXY_SECONDS)
        body = await read_body(request)
        stack = AsyncExitStack()
        try:
            async with asyncio.timeout(PROXY_SECONDS):
                response = await stack.enter_async_context(
                    self._engines.stream(api, request.method, target, headers, body)
                )
        except (httpx.HTTPError, TimeoutError):
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, "the engine of the pipeline does not answer"
            ) from None

        def goes_on() -> bool:
            request.state.extend(PROXY_SECONDS)
            return path in PUBLIC or self._access.allows(request, role)

        return _Passed(response, stack, goes_on, name)

    def _absent(self, name: str) -> HTTPException:
        for process in self._supervisor.statuses():
            if process.pipeline == name:
                return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, without_answer(process).text)
        return HTTPException(HTTPStatus.NOT_FOUND, "there is no pipeline of this name")


class _Passed(StreamingResponse):
    """The response of an engine, passed on piece by piece while it ``goes_on``."""

    def __init__(
        self,
        response: httpx.Response,
        stack: AsyncExitStack,
        goes_on: Callable[[], bool],
        pipeline: str,
    ) -> None:
        headers = {it: response.headers[it] for it in RESPONSE_HEADERS if it in response.headers}
        if location := response.headers.get("location"):
            headers["location"] = f"/pipelines/{quote(pipeline, safe='')}{location}"
        super().__init__(_pieces(response, goes_on), response.status_code, headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _pieces(response: httpx.Response, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            if not goes_on():  # the token does not hold any more
                return
            yield piece
    except httpx.HTTPError:  # the engine has ended; so does the response
        return


async def _get_index(_: Request) -> Response:
    return page("pipelines.html")


async def _get_dashboard(_: Request) -> Response:
    return page("index.html")


async def _to_dashboard(request: Request) -> Response:
    return RedirectResponse(f"{request.url.path}/")


async def _no_pipeline(_: Request) -> Response:
    raise HTTPException(
        HTTPStatus.NOT_FOUND, "this is a supervisor: a pipeline is at /pipelines/NAME"
    )


async def _get_asset(request: Request) -> Response:
    return asset(request.path_params["name"])


async def _get_live(_: Request) -> Response:
    return json_response({"status": "ok"})


def _shown(process: ProcessStatus, status: Status | None, now: datetime) -> SupervisedStatus:
    known = msgspec.structs.asdict(process)
    if status is None:
        return SupervisedStatus(**known, headline=without_answer(process))
    return SupervisedStatus(
        **known,
        headline=headline(status, now, config=process.file),
        status=msgspec.structs.replace(status, tables=()),
        tables=Counter(table.state for table in status.tables),
    )


def _unready(process: ProcessStatus, response: httpx.Response | None) -> str:
    """Why a pipeline is not ready. Everybody may ask, so it has no messages of errors."""
    if response is None:
        return "no answer" if process.process == "running" else process.process
    try:
        return msgspec.json.decode(response.content, type=Health).reason
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"its engine answers with HTTP status {response.status_code}"


def _failing(reason: str) -> Response:
    return json_response({"status": "failing", "reason": reason}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _failed(_: Request, error: Exception) -> Response:
    """The directory cannot be read."""
    assert isinstance(error, TailraceError)
    content = {"error": "Service Unavailable", "detail": error.message, "hint": error.hint}
    return json_response(content, HTTPStatus.SERVICE_UNAVAILABLE)
