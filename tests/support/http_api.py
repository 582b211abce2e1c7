"""The API of a made-up pipeline over HTTP, for tests."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import uvloop

from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.dashboard import Dashboard
from engine.ops.history import HistoryRecorder
from engine.ops.metrics import Metrics
from engine.ops.server import HttpServer
from engine.ops.status import Status
from engine.settings.api import ApiSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore

__all__ = ["BACKFILL", "CONTROL", "READ", "Answer", "ask", "command_store", "serving"]

READ, CONTROL = "read-" * 4, "control-" * 3
BACKFILL = b'{"command":"backfill","tables":["shop.orders"]}'


class Answer(msgspec.Struct):
    code: int
    headers: dict[str, str]
    body: Any


async def ask(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Answer:
    """The response, with its JSON decoded. Header names have ``_`` for ``-``."""
    sent = {"host": f"localhost:{port}", "content_length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k.replace('_', '-')}: {v}" for k, v in sent.items())]
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
        )
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    first, *rest = head.decode().split("\r\n")
    found = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
    text = found.get("content-type", "")
    return Answer(int(first.split()[1]), found, json.loads(content) if "json" in text else content)


def serving(
    settings: ApiSettings,
    work: Callable[[int], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    commands: Any = None,
) -> None:
    """Run ``work`` with the port of a server whose clients are those of ``host``."""

    async def run() -> None:
        status = Status(pipeline="p", state="streaming", lag_seconds=0.5)
        access = Access(settings, host)
        api = Api(
            *(access, Metrics("p"), lambda: status),
            commands=lambda: commands,
            dashboard=Dashboard(lambda: status, HistoryRecorder().history),
            config="shop.toml",
        )
        async with HttpServer("127.0.0.1:0", api.app(), tls=settings.secure(host)) as server:
            await work(server.port)

    uvloop.run(asyncio.wait_for(run(), 60))


@contextmanager
def command_store() -> Iterator[MemorySink]:
    """A target that keeps commands."""
    sink = MemorySink(MemorySinkSettings("memory:api"), "p", MemoryStore())
    uvloop.run(sink.open(None))
    yield sink
    uvloop.run(sink.close())
