"""The server of a supervisor, with an engine's API behind it on a Unix socket, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

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
from engine.ops.supervisor.processes import Found, Supervisor
from engine.ops.supervisor.status import ProcessStatus
from engine.settings.api import ApiSettings

READ, CONTROL = "read-" * 4, "control-" * 3
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

    async def ask(
        self, path: str, token: str = READ, *, method: str = "GET", body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status code, headers by lower-case name, and body. The path is sent as it is."""
        head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        head += [f"Content-Length: {len(body)}"] * bool(body)
        head += [f"Authorization: Bearer {token}"] * bool(token)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        first, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest.split("\r\n") if line)
        length = headers.get("content-length")
        content = await (reader.read(400) if length is None else reader.readexactly(int(length)))
        writer.close()
        return int(first.split(" ")[1]), headers, content

    async def code(self, path: str, token: str = READ, **more: str) -> int:
        """The status code."""
        return (await self.ask(path, token, **more))[0]  # type: ignore[arg-type]


def run(work: Callable[[Client], Awaitable[None]], folder: Path) -> None:
    """Run ``work`` with a client of a supervisor."""

    async def go() -> None:
        socket = folder / "a.sock"
        dashboard = Dashboard(lambda: STATUS, History)
        access = Access(ApiSettings(), "localhost")
        engine = Api(access, Metrics("a b"), lambda: STATUS, dashboard=dashboard)
        apis = EngineApis()

        async def reload() -> str:
            return "nothing has changed"

        tokens = ApiSettings(read_token=READ, control_token=CONTROL)
        api = SupervisorApi(Access(tokens, "127.0.0.1"), Two(socket), apis, reload, lambda: None)
        async with HttpServer(socket, engine.app()), HttpServer("127.0.0.1:0", api.app()) as server:
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
        for path in ("/status", "/metrics", "/pipelines/none/status"):
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
