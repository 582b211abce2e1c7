"""The HTTP server of a running engine: pages, bad input, closing, signals, its log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import ConfigError, ListenError
from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.metrics import Metrics
from engine.ops.server import REQUEST_BYTES, HttpServer
from engine.ops.status import PipelineState, Status
from engine.settings.api import ApiSettings, parse_listen
from tests.support.metric_samples import OPEN_METRICS

Answer = tuple[int, dict[str, str], bytes]


async def ask(port: int, *pieces: bytes) -> Answer:
    """The server's response: status code, headers by lower-case name, and body."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    return int(first.split(" ")[1]), {name.lower(): headers[name] for name in headers}, body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def make_server(status: Callable[[], Any] = Status, **options: Any) -> HttpServer:
    """A server for everybody on this machine."""
    access = Access(ApiSettings(), "127.0.0.1")
    return HttpServer("127.0.0.1:0", Api(access, Metrics("p"), status, **options).app())


def serving(
    status: Status | Callable[[], Status],
    work: Callable[[int], Awaitable[None]],
    max_lag_seconds: float = 60,
) -> None:
    """Run ``work`` with the port of a server, on the event loop that the engine uses."""

    async def run() -> None:
        given = status if callable(status) else lambda: status
        async with make_server(given, max_lag_seconds=max_lag_seconds) as server:
            await work(server.port)

    uvloop.run(asyncio.wait_for(run(), 30))


def test_the_pages() -> None:
    status = Status(pipeline="p", state="streaming", lag_seconds=0.5, rows=7)

    async def work(port: int) -> None:
        code, headers, body = await ask(port, get("/metrics"))
        assert code == 200
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert int(headers["content-length"]) == len(body)
        assert b"# TYPE tailrace_build_info gauge" in body
        asked = get("/metrics")[:-2] + f"Accept: {OPEN_METRICS}\r\n\r\n".encode()
        code, headers, body = await ask(port, asked)
        assert code == 200
        assert headers["content-type"].startswith("application/openmetrics-text; version=1.0")
        assert body.endswith(b"# EOF\n")
        code, headers, body = await ask(port, get("/status?x=1"))
        assert (code, headers["content-type"]) == (200, "application/json")
        assert (headers["cache-control"], headers["connection"]) == ("no-store", "close")
        assert msgspec.json.decode(body, type=Status) == status
        code, _, body = await ask(port, get("/health/ready"))
        shown = {"status": "ok", "pipeline": "p", "state": "streaming", "lag_seconds": 0.5}
        assert (code, json.loads(body)) == (200, shown)

    serving(status, work)


def test_head_has_the_headers_of_get() -> None:
    async def work(port: int) -> None:
        code, headers, body = await ask(port, get("/status").replace(b"GET", b"HEAD"))
        assert (code, body) == (200, b"")
        assert int(headers["content-length"]) == len(msgspec.json.encode(Status()))

    serving(Status(), work)


def test_pages_need_no_thread() -> None:
    threads = set(threading.enumerate())

    async def work(port: int) -> None:
        for path in ("/metrics", "/status", "/health/live", "/nothing"):
            await ask(port, get(path))
        assert set(threading.enumerate()) == threads

    serving(Status(), work)


@pytest.mark.parametrize(
    ("state", "lag_seconds", "max_lag_seconds", "reason"),
    [
        ("streaming", 59.0, 60, ""),
        ("backfilling", 9999.0, 60, ""),
        ("draining", 9999.0, 60, ""),
        ("connecting", None, 60, "source and target are not connected yet"),
        ("streaming", None, 60, ""),
        ("connecting", 59.0, 60, ""),
        ("streaming", 61.0, 60, "the target is 61 seconds behind the source"),
        ("connecting", 61.0, 60, "source or target has been unreachable for 61 seconds"),
        ("streaming", None, -1.0, "the target is 0 seconds behind the source"),
    ],
)
def test_health(
    state: PipelineState, lag_seconds: float | None, max_lag_seconds: float, reason: str
) -> None:
    async def work(port: int) -> None:
        code, _, body = await ask(port, get("/health/ready"))
        assert json.loads(body).get("reason", "") == reason
        assert code == (503 if reason else 200)

    serving(Status(state=state, lag_seconds=lag_seconds), work, max_lag_seconds)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (get("/nothing"), 404),
        (get("/status/"), 404),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
        (b"GET /status\r\n\r\n", 400),
        # RFC 9112, section 3.2: only an HTTP/1.0 request may have no Host.
        (b"GET /status HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * REQUEST_BYTES * 2 + b"\r\n\r\n", 431),
    ],
)
def test_a_wrong_request_is_refused(
    request_: bytes,
    code: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def work(port: int) -> None:
        got, headers, body = await ask(port, request_)
        assert (got, headers["content-type"]) == (code, "application/json")
        assert (headers["cache-control"], headers["connection"]) == ("no-store", "close")
        assert json.loads(body).keys() == {"error"}
        assert int(headers["content-length"]) == len(body)

    serving(Status(), work)
    assert not caplog.messages
    assert capfd.readouterr() == ("", "")


def test_the_size_of_a_head_does_not_depend_on_its_pieces() -> None:
    async def work(port: int) -> None:
        start, end = b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n\r\n"
        room = REQUEST_BYTES - len(start) - len(end)
        assert (await ask(port, start, b"x" * room, end))[0] == 200
        assert (await ask(port, start + b"x" * room + end))[0] == 200
        assert (await ask(port, start, b"x" * (room + 1), end[:3]))[0] == 431
        assert (await ask(port, start + b"x" * (room + 1) + end))[0] == 431

    serving(Status(), work)


def test_a_client_that_sends_no_request_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ops.server.REQUEST_SECONDS", 0.05)

    async def work(port: int) -> None:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /sta")
            assert await reader.read() == b""
            writer.close()

    serving(Status(), work)


def test_an_address_that_is_in_use_or_invalid() -> None:
    async def work(port: int) -> None:
        with pytest.raises(ListenError, match="cannot listen on 127") as refused:
            async with HttpServer(f"127.0.0.1:{port}", Starlette()):
                pytest.fail("two servers on one port")
        assert "--listen" in refused.value.hint
        # systemd starts the service again: the address may be there later.
        assert refused.value.exit_status == 1
        with pytest.raises(ListenError, match="cannot listen on 192"):
            # An address for documentation (RFC 5737), which no machine has.
            async with HttpServer("192.0.2.1:0", Starlette()):
                pytest.fail("a server on a foreign address")

    serving(Status(), work)
    assert parse_listen("[::1]:9187") == ("::1", 9187)
    assert parse_listen(":9187") == ("", 9187)
    for wrong in ("9187", "host:", "host:99999", "::1:9187", "host:x"):
        with pytest.raises(ConfigError):
            parse_listen(wrong)


# -- in the engine ---------------------------------------------------------------------------------


def test_signals_are_left_to_the_engine() -> None:
    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
        handlers = [signal.getsignal(number) for number in numbers]
        async with make_server() as server:
            assert (await ask(server.port, get("/health/ready")))[0] == 200
            assert [signal.getsignal(number) for number in numbers] == handlers
            for number in numbers:
                os.kill(os.getpid(), number)
                await stop.wait()
                stop.clear()
            assert (await ask(server.port, get("/health/ready")))[0] == 200
        assert [signal.getsignal(number) for number in numbers] == handlers

    uvloop.run(asyncio.wait_for(run(), 10))


def test_a_client_does_not_delay_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a client that has not sent its request, nor one that does not read the response."""
    monkeypatch.setattr("engine.ops.server.REQUEST_SECONDS", 600)
    monkeypatch.setattr("engine.ops.server.CLOSE_SECONDS", 600)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        big = {"state": "x" * 50_000_000}
        with socket.socket() as idle, socket.socket() as not_reading:
            async with make_server(lambda: big) as server:
                for client, request in ((idle, b"GET /sta"), (not_reading, get("/status"))):
                    client.setblocking(False)
                    await loop.sock_connect(client, ("127.0.0.1", server.port))
                    await loop.sock_sendall(client, request)
                assert await loop.sock_recv(not_reading, 1) == b"H"
                port = server.port
            with pytest.raises(ConnectionRefusedError):
                await ask(port, get("/status"))
            assert await loop.sock_recv(idle, 1) == b""
            assert await read_all(not_reading) < 50_000_000

    async def read_all(client: socket.socket) -> int:
        read = 0
        while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            read += len(data)
        return read

    uvloop.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize("close_seconds", [10, 0.05])
def test_a_request_has_some_time_to_finish(
    monkeypatch: pytest.MonkeyPatch, close_seconds: float
) -> None:
    async def run() -> None:
        started, finish = asyncio.Event(), asyncio.Event()

        async def slow(_: Request) -> Response:
            started.set()
            await finish.wait()
            return Response(b"done")

        app = Starlette(routes=[Route("/slow", slow)])
        async with HttpServer("127.0.0.1:0", app) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get("/slow"))
            await started.wait()
            if close_seconds > 1:
                asyncio.get_running_loop().call_soon(finish.set)
        answer = await reader.read()
        assert answer.endswith(b"done") if close_seconds > 1 else answer == b""
        writer.close()
        finish.set()

    monkeypatch.setattr("engine.ops.server.CLOSE_SECONDS", close_seconds)
    uvloop.run(asyncio.wait_for(run(), 10))


def test_an_error_is_logged(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def status() -> Status:
        raise RuntimeError("no status")

    async def work(port: int) -> None:
        code, headers, body = await ask(port, get("/status"))
        assert (code, headers["content-type"]) == (500, "application/json")
        assert json.loads(body) == {"error": "Internal Server Error"}

    caplog.set_level(logging.INFO)
    serving(status, work)
    listening, error = caplog.records
    assert {listening.name, error.name} == {"tailrace.server"}
    assert (listening.levelname, error.levelname) == ("INFO", "ERROR")
    assert error.exc_info is not None
    assert str(error.exc_info[1]) == "no status"
    assert capfd.readouterr() == ("", "")
