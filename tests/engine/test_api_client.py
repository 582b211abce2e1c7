"""The client of the API, against the API: commands, tokens, certificates, and what goes wrong."""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from engine.cli.api_address import (
    TOKEN_VARIABLE,
    ApiAddress,
    address_of,
    configured_address,
)
from engine.cli.api_client import ApiClient, connect
from engine.commands import Pause, StoredCommand
from engine.errors import ApiError, ConfigError
from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.metrics import Metrics
from engine.ops.server import HttpServer
from engine.ops.status import Status
from engine.settings.api import ApiSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore

READ, CONTROL = "read-" * 4, "control-" * 3
PAUSE = msgspec.json.encode(Pause()).decode()


def given(**options: Any) -> argparse.Namespace:
    """The options of a command line."""
    usual = {"token_file": None, "tls_ca": None, "allow_unprotected": False}
    return argparse.Namespace(**{**usual, **options})


def serving(
    settings: ApiSettings, work: Callable[[int], Awaitable[None]], status: Status | None = None
) -> None:
    """Run ``work`` with the port of a server with a store for commands."""

    async def run() -> None:
        store = MemorySink(MemorySinkSettings("memory:client"), "p", MemoryStore())
        await store.open(None)
        api = Api(
            Access(settings, "127.0.0.1"),
            Metrics("p"),
            lambda: status or Status(pipeline="p"),
            commands=lambda: store,
        )
        async with HttpServer("127.0.0.1:0", api.app(), tls=settings.secure("")) as server:
            await work(server.port)
        await store.close()

    uvloop.run(asyncio.wait_for(run(), 60))


async def with_client(address: ApiAddress, work: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    async with connect(address, "ada@häuschen") as client:
        return await work(client)


PLAIN = ApiSettings(allow_unprotected=True)


def test_commands_are_given_and_cancelled() -> None:
    async def work(port: int) -> None:
        async with connect(ApiAddress(f"http://127.0.0.1:{port}"), "ada@häuschen") as client:
            assert await client.engine_runs()
            first, second = [await client.submit(PAUSE) for _ in range(2)]
            found = await client.find(first)
            assert found is not None
            assert (found.command, found.outcome) == (PAUSE, None)
            assert found.by.startswith("ada@h\\xe4uschen through the API (127.0.0.1)")
            assert await client.cancel(second)
            assert not await client.cancel(second)
            assert not await client.cancel(999)
            assert await client.find(999) is None
            newest = await client.newest(1)
            assert [(it.id, it.refused) for it in newest] == [(first, False), (second, True)]
            assert all(isinstance(it, StoredCommand) for it in newest)

    serving(PLAIN, work)


def test_the_status_comes_back_whole() -> None:
    status = Status(pipeline="p\x1b[2J", state="streaming", lag_seconds=0.5, errors=())

    async def work(port: int) -> None:
        address = ApiAddress(f"http://127.0.0.1:{port}")
        assert await with_client(address, ApiClient.status) == status

    serving(PLAIN, work, status)


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{READ}\n")
    monkeypatch.setenv(TOKEN_VARIABLE, CONTROL)
    configured = ApiSettings(listen="127.0.0.1:1", read_token=READ)
    assert address_of("http://[::1]:1/", given()) == ("http://[::1]:1", CONTROL, None)
    assert address_of("http://localhost:1", given(token_file=file)).token == READ
    assert address_of("https://h:1", given()).token == CONTROL
    assert configured_address(configured, given()).token == READ
    assert configured_address(ApiSettings(listen=":1"), given()).token == CONTROL
    for wrong in ("", "two\nlines", "ä"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="token") as refused:
            address_of("http://localhost:1", given(token_file=file))
        assert not wrong or wrong not in str(refused.value)

    async def work(port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        for token, status, hint in (("", 401, "--token-file"), (READ, 403, "control_token")):
            with pytest.raises(ApiError) as refused:
                await with_client(ApiAddress(url, token), lambda it: it.submit(PAUSE))
            assert refused.value.status == status
            assert hint in refused.value.hint
        await with_client(ApiAddress(url, READ), ApiClient.status)
        await with_client(ApiAddress(url, CONTROL), lambda it: it.submit(PAUSE))

    settings = ApiSettings(read_token=READ, control_token=CONTROL, allow_unprotected=True)
    serving(settings, work)


@pytest.mark.parametrize("host", ["10.0.0.7", "cdc.example", "localhost.example", "[2001:db8::1]"])
def test_a_token_leaves_the_machine_with_tls_only(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    url = f"http://{host}:9187"
    assert address_of(url, given()).token == ""
    file = tmp_path / "token"
    file.write_text(READ)
    with pytest.raises(ConfigError, match="without encryption") as refused:
        address_of(url, given(token_file=file))
    assert READ not in f"{refused.value} {refused.value.hint}"
    monkeypatch.setenv(TOKEN_VARIABLE, READ)
    with pytest.raises(ConfigError, match="without encryption"):
        address_of(url, given())
    assert address_of(url, given(allow_unprotected=True)).token == READ


def test_the_address_of_a_configuration() -> None:
    def url(listen: str) -> str:
        return configured_address(ApiSettings(listen=listen), given()).url

    assert url("0.0.0.0:9187") == url(":9187") == "http://127.0.0.1:9187"
    assert url("[::]:9187") == "http://[::1]:9187"
    assert url("10.0.0.7:9187") == "http://10.0.0.7:9187"
    with pytest.raises(ConfigError, match="no API"):
        url("")


@pytest.mark.parametrize(
    "wrong", ["", "h:9187", "ftp://h", "http://", "http://a:b@h", "http://h:x", "http://h/?a=1"]
)
def test_what_is_no_url(wrong: str) -> None:
    with pytest.raises(ConfigError, match="not the URL") as refused:
        address_of(wrong, given())
    assert "a:b" not in str(refused.value)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_certificates(tmp_path: Path) -> None:
    """A configuration pins its certificate, whatever its name. A URL needs one that is trusted."""
    cert, key = certificate(tmp_path, "localhost")
    other, _ = certificate(tmp_path, "db.example")
    (tmp_path / "wrong.pem").write_text("nothing")
    settings = ApiSettings(read_token=READ, tls_cert=str(cert), tls_key=str(key))

    async def work(port: int) -> None:
        here = msgspec.structs.replace(settings, listen=f"0.0.0.0:{port}")
        await with_client(configured_address(here, given()), ApiClient.status)
        there = msgspec.structs.replace(here, tls_cert=str(other))
        url = f"https://localhost:{port}"
        named = address_of(url, given(tls_ca=cert))._replace(token=READ)
        await with_client(named, ApiClient.status)
        for refused in (
            configured_address(there, given()),
            address_of(url, given()),
            address_of(url, given(tls_ca=other)),
            address_of(f"https://127.0.0.1:{port}", given(tls_ca=cert)),
        ):
            with pytest.raises(ApiError, match="certificate is not trusted"):
                await with_client(refused._replace(token=READ), ApiClient.status)
        for unreadable in (tmp_path / "missing.pem", tmp_path / "wrong.pem"):
            with pytest.raises(ConfigError, match="cannot be used"):
                address_of(url, given(tls_ca=unreadable))
            with pytest.raises(ConfigError, match="cannot be read"):
                configured_address(msgspec.structs.replace(here, tls_cert=str(unreadable)), given())

    serving(settings, work)


def test_a_server_that_is_away_or_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.cli.api_client.REQUEST_SECONDS", 0.2)
    monkeypatch.setattr("engine.cli.api_client.SECONDS", {"commands": 0.2})
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def ask(port: int) -> ApiError:
        with pytest.raises(ApiError) as found:
            await with_client(ApiAddress(f"http://127.0.0.1:{port}"), ApiClient.status)
        return found.value

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            assert "no response in" in (await ask(port)).message
            address = ApiAddress(f"http://127.0.0.1:{port}")
            with pytest.raises(ApiError, match="may have stored the command"):
                await with_client(address, lambda it: it.submit(PAUSE))
        assert "refused" in (await ask(port)).message.lower()
        for content in (b"", b"nonsense\r\n\r\n", answer(200, b"<html>"), answer(200, b"{}")):
            port, server = await other_server(content)
            assert str(port) in (await ask(port)).message
            server.close()
        port, server = await other_server(answer(502, b"<html>\x1b[2J"))
        error = await ask(port)
        assert (error.status, "502" in error.message) == (502, True)
        server.close()

    uvloop.run(asyncio.wait_for(run(), 30))


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


async def other_server(content: bytes) -> tuple[int, asyncio.Server]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server.sockets[0].getsockname()[1], server
