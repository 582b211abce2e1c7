"""The server of a supervisor, with an engine's API behind it on a Unix socket, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import jsonschema
import pytest
import uvloop
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import ConfigError
from engine.ops.access import Access
from engine.ops.api import COMMAND_BYTES, Api
from engine.ops.dashboard import Dashboard
from engine.ops.history import History
from engine.ops.metrics import Metrics
from engine.ops.openapi import openapi_document
from engine.ops.server import HttpServer
from engine.ops.status import Status, TableStatus
from engine.ops.supervisor.api import SupervisorApi
from engine.ops.supervisor.engines import EngineApis
from engine.ops.supervisor.openapi import supervisor_document
from engine.ops.supervisor.processes import Found, Supervisor
from engine.ops.supervisor.status import ProcessStatus
from engine.settings.api import ApiSettings

READ, CONTROL = "read-" * 4, "control-" * 3
TOKENS = ApiSettings(read_token=READ, control_token=CONTROL)
STATUS = Status(
    pipeline="a b",
    state="streaming",
    lag_seconds=0.2,
    tables=(TableStatus("shop.pets", "live"), TableStatus("shop.toys", "live")),
)
A, B = "/pipelines/a%20b", "/pipelines/away"


class Two(Supervisor):
    """Two pipelines: the engine of one is in this process, the other has none."""

    def __init__(self, api: Path) -> None:
        super().__init__(NoEngines(), api.parent)
        self._api = api
        self.applied = True

    def statuses(self) -> list[ProcessStatus]:
        failed = "password authentication failed"
        return [
            ProcessStatus(pipeline="a b", file="d/a.toml", process="running", since=1.0, pid=7),
            ProcessStatus(
                pipeline="away", file="d/b.toml", process="restarting", since=1.0, message=failed
            ),
        ]

    def api_of(self, pipeline: str) -> Path | None:
        return self._api if pipeline == "a b" else None


class StandBy(Two):
    """One pipeline, which a newer engine elsewhere runs."""

    def statuses(self) -> list[ProcessStatus]:
        return [ProcessStatus(pipeline="a b", file="d/a.toml", process="standing by", since=1.0)]


class Unread(Two):
    """The files are not applied yet."""

    def __init__(self, api: Path) -> None:
        super().__init__(api)
        self.applied = False

    def statuses(self) -> list[ProcessStatus]:
        return []


class NoEngines:
    """No engine is started."""

    def command(self, file: Path, api: Path) -> tuple[str, ...]:
        raise AssertionError

    async def answers(self, api: Path) -> bool:
        return False

    async def vacant(self, found: Found) -> bool:
        return False


class Client:
    """Requests to the supervisor."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(
        self, path: str, token: str = READ, *, method: str = "GET", body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection after a request. The path is sent as it is."""
        head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        head += [f"Content-Length: {len(body)}"] * bool(body)
        head += [f"Authorization: Bearer {token}"] * bool(token)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        return reader, writer

    async def ask(
        self, path: str, token: str = READ, *, method: str = "GET", body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status code, headers by lower-case name, and body."""
        reader, writer = await self.open(path, token, method=method, body=body)
        first, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest.split("\r\n") if line)
        length = headers.get("content-length")
        content = await (reader.read(400) if length is None else reader.readexactly(int(length)))
        writer.close()
        return int(first.split(" ")[1]), headers, content

    async def code(self, path: str, token: str = READ, **more: str) -> int:
        """The status code."""
        return (await self.ask(path, token, **more))[0]  # type: ignore[arg-type]


async def nothing_changes() -> str:
    return "nothing has changed"


def run(
    work: Callable[[Client], Awaitable[None]],
    folder: Path,
    *,
    kind: type[Two] = Two,
    engine: Starlette | None = None,
    reload: Callable[[], Awaitable[str]] = nothing_changes,
    guard: Access | None = None,
) -> None:
    """Run ``work`` with a client of a supervisor."""

    async def go() -> None:
        socket = folder / "a.sock"
        dashboard = Dashboard(lambda: STATUS, History)
        access = Access(ApiSettings(), "localhost")
        own = engine or Api(access, Metrics("a b"), lambda: STATUS, dashboard=dashboard).app()
        apis = EngineApis()
        guarded = guard or Access(TOKENS, "127.0.0.1")
        api = SupervisorApi(guarded, kind(socket), apis, reload, lambda: None).app()
        async with HttpServer(socket, own), HttpServer("127.0.0.1:0", api) as server:
            await work(Client(server.port))
        await apis.close()

    uvloop.run(asyncio.wait_for(go(), 30))


def test_each_path_of_an_engine_needs_its_role(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        for path, operations in openapi_document()["paths"].items():
            for method, operation in operations.items():
                it = A + path.replace("{id}", "7")
                public = operation.get("security") == []
                words = {"method": method.upper()}
                assert (await client.code(it, "", **words) == 401) is not public, it
                assert (await client.code(it, "wrong", **words) == 401) is not public, it
                refused = await client.code(it, READ, **words) == 403
                assert refused is (method != "get"), it
                assert await client.code(it, CONTROL, **words) not in (401, 403), it
        for path in ("/status", "/metrics", "/openapi.json", "/pipelines/none/status"):
            assert await client.code(path, "") == 401
        for path in ("/reload", "/stop"):
            assert await client.code(path, "", method="POST") == 401
            assert await client.code(path, READ, method="POST") == 403
            assert await client.code(path, CONTROL, method="POST") == 200

    run(work, tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        *("/health/../status", "/health/%2e%2e/status", "/health/live/../../status"),
        *("/assets/../status", "/health//status", "/./status", "/health/live%2f..%2fstatus"),
    ],
)
def test_no_path_leads_around_the_roles(tmp_path: Path, path: str) -> None:
    async def work(client: Client) -> None:
        assert await client.code(A + path, "") in (401, 404)
        assert await client.code(A + path, READ) in (404, 200)
        code = await client.code(f"{A}/health/../commands", READ, method="POST")
        assert code in (403, 404)
        # None of these is another path of the engine.
        for it in ("//status", "//a%3Ab/status", "//health/live"):
            assert await client.code(A + it, CONTROL) == 404

    run(work, tmp_path)


def test_what_is_passed_on(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        assert json.loads((await client.ask(f"{A}/status"))[2])["tables"][0]["table"] == "shop.pets"
        code, headers, body = await client.ask(f"{A}/events?zone=Europe/Rome")
        assert (code, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert b"event: status\ndata: {" in body
        code, headers, _ = await client.ask(A)
        assert (code, headers["location"]) == (307, f"{A}/")
        code, headers, _ = await client.ask(f"{A}/", "")
        assert (code, "script-src 'self'" in headers["content-security-policy"]) == (200, True)
        big = b" " * (COMMAND_BYTES + 1)
        assert (await client.ask(f"{A}/commands", CONTROL, method="POST", body=big))[0] == 413
        pause = b'{"command": "pause"}'
        code, _, body = await client.ask(f"{A}/commands", CONTROL, method="POST", body=pause)
        assert (code, b"this target keeps no commands" in body) == (501, True)

    run(work, tmp_path)


def test_a_pipeline_without_an_engine(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        code, _, body = await client.ask(f"{B}/status")
        assert (code, b"password authentication failed" in body) == (503, True)
        assert await client.code("/pipelines/none/status") == 404
        # Everybody may see this, so it has no messages.
        code, _, body = await client.ask("/health/ready", "")
        assert (code, json.loads(body)["reason"]) == (503, "away: restarting")
        found = json.loads((await client.ask("/status"))[2])["pipelines"]
        assert [it["headline"]["text"] for it in found] == [
            "Following. 0.2 s behind.",
            "The engine has failed, and is started again: password authentication failed.",
        ]
        assert (found[0]["tables"], found[0]["status"]["tables"]) == ({"live": 2}, [])
        assert found[1]["status"] is None
        metrics = (await client.ask("/metrics"))[2][:400]
        assert b"tailrace_build_info" in metrics

    run(work, tmp_path)


def test_a_pipeline_that_stands_by_is_not_down(tmp_path: Path) -> None:
    """The supervisor whose engine runs has its metrics."""

    async def work(client: Client) -> None:
        code, _, body = await client.ask("/metrics")
        assert (code, body.strip()) == (200, b"")
        assert b"standing by" in (await client.ask("/health/ready"))[2]

    run(work, tmp_path, kind=StandBy)


def test_nothing_is_ready_before_the_directory_is_read(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        code, _, body = await client.ask("/health/ready", "")
        assert (code, json.loads(body)["reason"]) == (503, "the directory is not read yet")

    run(work, tmp_path, kind=Unread)


def test_an_engine_of_another_version(tmp_path: Path) -> None:
    """Its answers are of another form. Those of the other pipelines are shown."""

    async def answer(request: Request) -> Response:
        codes = {"/status": 200, "/health/ready": 503, "/metrics": 500}
        return Response(b'{"tables": 7, "reason": 7}', codes[request.url.path])

    async def work(client: Client) -> None:
        code, _, body = await client.ask("/status")
        assert code == 200
        shown = {it["pipeline"]: it["headline"]["text"] for it in json.loads(body)["pipelines"]}
        assert shown["a b"] == "The engine starts, or does not answer."
        assert shown["away"].startswith("The engine has failed")
        code, _, body = await client.ask("/health/ready")
        assert code == 503
        assert "a b: its engine answers with HTTP status 503" in json.loads(body)["reason"]
        code, _, body = await client.ask("/metrics")
        assert (code, b'tailrace_up{pipeline="a b"} 0.0' in body) == (200, True)

    routes = [Route(path, answer) for path in ("/status", "/health/ready", "/metrics")]
    run(work, tmp_path, engine=Starlette(routes=routes))


def test_who_has_an_old_token_is_refused_also_on_an_open_stream(tmp_path: Path) -> None:
    guard, new = Access(TOKENS, "127.0.0.1"), "other-" * 4

    async def reload() -> str:
        guard.replace_tokens(ApiSettings(read_token=new, control_token=CONTROL))
        return "the tokens are replaced"

    async def work(client: Client) -> None:
        reader, writer = await client.open(f"{A}/events")
        await reader.readuntil(b"event: status")
        assert await client.code("/reload", CONTROL, method="POST") == 200
        assert b"event: status" not in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert await client.code("/status") == 401
        assert await client.code("/status", new) == 200

    run(work, tmp_path, reload=reload, guard=guard)


def test_a_reload_that_fails_says_why(tmp_path: Path) -> None:
    async def fails() -> str:
        raise ConfigError("/etc/pipelines cannot be read", hint="mount it")

    async def work(client: Client) -> None:
        code, _, body = await client.ask("/reload", CONTROL, method="POST")
        assert (code, json.loads(body)["detail"]) == (503, "/etc/pipelines cannot be read")
        assert json.loads(body)["hint"] == "mount it"

    run(work, tmp_path, reload=fails)


def test_the_openapi_document_is_valid_and_true(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        document = json.loads((await client.ask("/openapi.json"))[2])
        validate(document)
        post = {"token": CONTROL, "method": "POST"}
        answers = {
            ("/status", "get", "200"): await client.ask("/status"),
            ("/health/live", "get", "200"): await client.ask("/health/live"),
            ("/health/ready", "get", "503"): await client.ask("/health/ready"),
            ("/reload", "post", "200"): await client.ask("/reload", **post),  # type: ignore[arg-type]
            ("/reload", "post", "default"): await client.ask("/reload", method="POST"),
            ("/stop", "post", "200"): await client.ask("/stop", **post),  # type: ignore[arg-type]
            ("/pipelines/{pipeline}/status", "get", "200"): await client.ask(f"{A}/status"),
            ("/pipelines/{pipeline}/history", "get", "200"): await client.ask(f"{A}/history"),
            ("/pipelines/{pipeline}/status", "get", "default"): await client.ask(f"{B}/status"),
        }
        for (path, method, code), answer in answers.items():
            assert code == "default" or answer[0] == int(code), path
            schema = document["paths"][path][method]["responses"][code]["content"]
            whole = {**schema["application/json"]["schema"], "components": document["components"]}
            jsonschema.validate(json.loads(answer[2]), whole)

    run(work, tmp_path)


def test_the_openapi_document_has_every_route(tmp_path: Path) -> None:
    access = Access(ApiSettings(), "127.0.0.1")
    api = SupervisorApi(access, Two(tmp_path / "s"), EngineApis(), nothing_changes, lambda: None)
    served = {str(getattr(it, "path", "")) for it in api.app().routes}
    passed = "/pipelines/{pipeline}/{path:path}"
    parts = {"/openapi.json", "/assets/{name}", "/runbook.css", "/commands", passed}
    parts |= {"/pipelines/{pipeline}", "/pipelines/{pipeline}/assets/{name}"}
    parts |= {"/pipelines/{pipeline}/runbook.css"}
    of_engines = {f"/pipelines/{{pipeline}}{path}" for path in openapi_document()["paths"]}
    assert served - parts | of_engines == set(supervisor_document()["paths"])
