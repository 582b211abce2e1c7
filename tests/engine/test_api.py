"""The API: who may use it, and commands."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, SinkLost
from engine.ops.api import COMMAND_BYTES, CONNECTIONS
from engine.settings.api import ApiSettings
from sinks.memory import MemorySink
from tests.support.http_api import BACKFILL, CONTROL, READ, ask, command_store, serving


@pytest.fixture
def store() -> Iterator[MemorySink]:
    with command_store() as store:
        yield store


# -- who may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "token", "code"),
    [
        ("GET", "/health/live", "", 200),
        ("GET", "/health/ready", "", 200),
        *(("GET", path, "", 401) for path in ("/status", "/metrics", "/commands", "/openapi.json")),
        ("POST", "/commands", "", 401),
        ("GET", "/status", "x" * 20, 401),
        ("GET", "/status", READ[:-1], 401),
        ("GET", "/status", READ + "x", 401),
        ("GET", "/status", READ, 200),
        ("GET", "/metrics", READ, 200),
        ("POST", "/commands", READ, 403),
        ("GET", "/status", CONTROL, 200),
        ("POST", "/commands", CONTROL, 202),
        ("DELETE", "/commands/1", "", 401),
        ("DELETE", "/commands/1", READ, 403),
        ("DELETE", "/commands/1", CONTROL, 404),
    ],
)
def test_roles(store: MemorySink, method: str, path: str, token: str, code: int) -> None:
    settings = ApiSettings(read_token=READ, control_token=CONTROL)

    async def work(port: int) -> None:
        more = {"authorization": f"Bearer {token}"} if token else {}
        body = BACKFILL if method == "POST" else b""
        found = await ask(port, method, path, body, content_type="application/json", **more)
        assert found.code == code, found.body
        if code == 401:
            assert found.headers["www-authenticate"].startswith("Bearer")
        if code >= 400:
            assert not {READ, CONTROL} & set(json.dumps(found.body).split('"'))

    serving(settings, work, commands=store)


def test_the_scheme_of_a_token_is_bearer() -> None:
    async def work(port: int) -> None:
        for sent, code in ((f"Basic {READ}", 401), (READ, 401), (f"bearer {READ}", 200)):
            assert (await ask(port, "GET", "/status", authorization=sent)).code == code

    serving(ApiSettings(read_token=READ), work)


def test_a_page_of_somebody_else_can_do_nothing(store: MemorySink) -> None:
    """A browser on this machine sends requests on behalf of any page."""

    async def work(port: int) -> None:
        json_type = {"content_type": "application/json"}
        own = f"http://localhost:{port}"
        for headers, code in (
            ({**json_type}, 202),
            ({**json_type, "origin": own}, 202),
            ({**json_type, "origin": "https://evil.example"}, 403),
            ({**json_type, "origin": "null"}, 403),
            ({**json_type, "host": "evil.example"}, 421),
            ({**json_type, "host": "["}, 421),
            ({**json_type, "origin": "http://["}, 403),
            ({"content_type": "text/plain"}, 415),
            ({"content_type": "application/x-www-form-urlencoded"}, 415),
            ({}, 415),
        ):
            found = await ask(port, "POST", "/commands", BACKFILL, **headers)
            assert found.code == code, (headers, found.body)
        assert (await ask(port, "GET", "/status", host="evil.example")).code == 421
        assert (await ask(port, "GET", "/status", origin="https://evil.example")).code == 403
        assert (await ask(port, "GET", "/status", host=f"[::1]:{port}")).code == 200

    serving(ApiSettings(), work, commands=store)


def test_without_protection_others_can_only_read(store: MemorySink) -> None:
    async def work(port: int) -> None:
        found = await ask(port, "POST", "/commands", BACKFILL, content_type="application/json")
        assert found.code == 403
        assert "control_token" in found.body["detail"]

    serving(ApiSettings(allow_unprotected=True), work, host="0.0.0.0", commands=store)


def test_without_tokens_only_known_hosts_are_served() -> None:
    """The name of a page may lead to the engine (DNS rebinding); its requests are of one origin."""
    asked = {
        "evil.example:9187": 421,
        "": 421,
        "10.0.0.7:9187": 200,
        "[fe80::1]:9187": 200,
        "localhost:9187": 200,
        socket.gethostname(): 200,
        "Tailrace:9187": 200,
        "tailrace.evil.example": 421,
    }

    async def work(port: int) -> None:
        for host, code in asked.items():
            for path in ("/status", "/metrics", "/openapi.json"):
                found = await ask(port, "GET", path, host=host, origin=f"http://{host}")
                assert found.code == code, (host, path, found.body)
            assert (await ask(port, "GET", "/health/live", host=host)).code == 200

    settings = ApiSettings(allow_unprotected=True, allowed_hosts=("tailrace",))
    serving(settings, work, host="0.0.0.0")


def test_with_tokens_every_host_is_served() -> None:
    """A page of somebody else does not have the token."""

    async def work(port: int) -> None:
        bearer = {"authorization": f"Bearer {READ}"}
        assert (await ask(port, "GET", "/status", host="cdc.example", **bearer)).code == 200
        assert (await ask(port, "GET", "/status", host="cdc.example")).code == 401

    serving(ApiSettings(read_token=READ, allow_unprotected=True), work, host="0.0.0.0")


def test_no_answer_is_taken_for_another_type() -> None:
    async def work(port: int) -> None:
        for path in ("/status", "/metrics", "/health/live", "/openapi.json", "/runbook", "/none"):
            found = await ask(port, "GET", path)
            assert found.headers["x-content-type-options"] == "nosniff", path
        found = await ask(port, "GET", "/" + "x" * 9000)
        assert found.code == 431
        assert found.headers["x-content-type-options"] == "nosniff"

    serving(ApiSettings(), work)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "db.example"])
def test_an_address_that_others_reach_needs_protection(host: str) -> None:
    with pytest.raises(ConfigError, match=r"TLS .* and a token") as refused:
        ApiSettings().secure(host)
    assert "allow_unprotected = true" in refused.value.hint
    with pytest.raises(ConfigError, match="lacks TLS"):
        ApiSettings(control_token=CONTROL).secure(host)
    assert ApiSettings(allow_unprotected=True).secure(host) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    assert ApiSettings().secure(host) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"read_token": "short"},
        {"control_token": "ä" * 20},
        {"read_token": READ, "control_token": READ},
        {"tls_cert": "a.pem"},
        {"tls_key": "a.pem"},
    ],
)
def test_wrong_settings_are_refused_without_the_token(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        ApiSettings(**wrong)
    assert refused.value.hint
    assert "ä" not in str(refused.value)
    assert READ not in str(refused.value)


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    settings = ApiSettings(read_token=READ, tls_cert=str(cert), tls_key=str(key))

    async def work(port: int) -> None:
        trusting = ssl.create_default_context(cafile=str(cert))
        bearer = f"Bearer {READ}"
        found = await ask(port, "GET", "/status", tls=trusting, authorization=bearer)
        assert (found.code, found.body["pipeline"]) == (200, "p")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()

    serving(settings, work, host="0.0.0.0")


def test_a_key_that_cannot_be_used(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:abcd", "-in", key, "-out", locked],
        check=True,
        capture_output=True,
    )
    for wrong in (tmp_path / "missing.pem", cert, locked):
        with pytest.raises(ConfigError, match="cannot be used"):
            ApiSettings(tls_cert=str(cert), tls_key=str(wrong)).secure("127.0.0.1")


# -- commands --------------------------------------------------------------------------------------


def test_commands(store: MemorySink) -> None:
    async def work(port: int) -> None:
        named = {"content_type": "application/json", "tailrace_user": "ada\x1b[31m"}
        submitted = await ask(port, "POST", "/commands", BACKFILL, **named)
        assert submitted.headers["location"] == submitted.body["href"]
        found = (await ask(port, "GET", submitted.body["href"])).body
        assert found["command"] == {**json.loads(BACKFILL), "in_place": False, "all": False}
        assert (found["outcome"], found["refused"]) == (None, False)
        assert found["by"].startswith("ada")
        assert "API (127.0.0.1)" in found["by"]
        assert "\x1b" not in found["by"]
        await ask(port, "POST", "/commands", BACKFILL, content_type="application/json")
        listed = (await ask(port, "GET", "/commands")).body
        assert [it["id"] for it in listed] == [found["id"] + 1, found["id"]]
        for missing in (999, 2**63, 10**30):
            assert (await ask(port, "GET", f"/commands/{missing}")).code == 404
            assert (await ask(port, "DELETE", f"/commands/{missing}")).code == 404

    serving(ApiSettings(), work, commands=store)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"command":"explode"}', 400),
        (b'{"command":"backfill","tables":"shop"}', 400),
        # What is misspelt or left out does not mean all.
        (b'{"command":"backfill"}', 400),
        (b'{"command":"backfill","tables":[]}', 400),
        (b'{"command":"backfill","table":"shop.orders"}', 400),
        (b'{"command":"backfill","tables":["shop.orders"],"all":true}', 400),
        (b'{"command":"dead_letters","action":"discard"}', 400),
        (b'{"command":"dead_letters","action":"discard","id":[5]}', 400),
        (b'{"command":"dead_letters","action":"discard","ids":[5],"all":true}', 400),
        (b'{"command":"quarantine"}', 400),
        (b'{"command":"repair","rows":{"shop.orders":1}}', 400),
        (b'{"command":"pause","tables":["shop.orders"]}', 400),
        (b'{"command":"skip","whole":true}', 400),
        (b'{"command":"backfill","tables":["\xff"]}', 400),
        (b'{"command":"pause","x":' + b"[" * 60_000 + b"}", 400),
        (b'{"command":"backfill","tables":["' + b"x" * COMMAND_BYTES + b'"]}', 413),
    ],
)
def test_what_is_no_command(store: MemorySink, body: bytes, code: int) -> None:
    async def work(port: int) -> None:
        found = await ask(port, "POST", "/commands", body, content_type="application/json")
        assert found.code == code
        assert (await ask(port, "GET", "/commands")).body == []

    serving(ApiSettings(), work, commands=store)


def test_a_command_is_cancelled_once(store: MemorySink) -> None:
    async def work(port: int) -> None:
        submitted = await ask(port, "POST", "/commands", BACKFILL, content_type="application/json")
        href = submitted.body["href"]
        assert (await ask(port, "DELETE", href, origin="https://evil.example")).code == 403
        cancelled = await ask(port, "DELETE", href, tailrace_user="ada")
        assert cancelled.code == 200
        assert cancelled.body["refused"]
        assert cancelled.body["outcome"].startswith("cancelled by ada through the API (127.0.0.1")
        assert (await ask(port, "GET", href)).body == cancelled.body
        again = await ask(port, "DELETE", href)
        assert again.code == 409
        assert "cancelled by ada" in again.body["detail"]

    serving(ApiSettings(), work, commands=store)


class Away:
    """A target that cannot be reached."""

    @asynccontextmanager
    async def command_client(self) -> Any:
        raise SinkLost("the target cannot be reached", hint="`tailrace check CONFIG`")
        yield


def test_a_target_that_is_away() -> None:
    async def work(port: int) -> None:
        found = await ask(port, "POST", "/commands", BACKFILL, content_type="application/json")
        assert found.code == 503
        assert found.body["detail"] == "the target cannot be reached"
        assert found.body["hint"] == "`tailrace check shop.toml`"
        assert (await ask(port, "GET", "/status")).code == 200

    serving(ApiSettings(), work, commands=Away())


class Silent:
    """A target that does not answer."""

    def __init__(self) -> None:
        self.connected = self.most = 0

    @asynccontextmanager
    async def command_client(self) -> Any:
        self.connected += 1
        self.most = max(self.most, self.connected)
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.connected -= 1


def test_a_target_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request ends, and few connections are opened, however many clients there are."""
    monkeypatch.setattr("engine.ops.api.STORE_SECONDS", 0.2)
    target = Silent()

    async def work(port: int) -> None:
        found = await asyncio.gather(*(ask(port, "GET", "/commands") for _ in range(40)))
        assert {it.code for it in found} == {503}
        assert "does not answer" in found[0].body["detail"]

    serving(ApiSettings(), work, commands=target)
    assert target.most == CONNECTIONS


def test_a_client_that_leaves_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    async def work(port: int) -> None:
        head = (
            b"POST /commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await ask(port, "GET", "/status")).code == 200

    serving(ApiSettings(), work, commands=Silent())
    assert caplog.messages == []


def test_a_target_that_keeps_no_commands() -> None:
    async def work(port: int) -> None:
        found = await ask(port, "POST", "/commands", BACKFILL, content_type="application/json")
        assert found.code == 501

    serving(ApiSettings(), work)
