"""
Clients of the API that do what they should not, while a pipeline runs: it does not notice.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.databases.mysql.connect import query
from engine.sandbox import SandboxUnavailable
from tests.support.engine_process import EngineProcess, write_config
from tests.support.lag import Followed, lag_of
from tests.support.servers import AnyServer, connect_mysql, do_without
from tests.support.supervised import CONTROL, READ, SupervisorServer, follows
from tests.support.waiting import wait_until

TOKENS = f'[api]\nread_token = "{READ}"\ncontrol_token = "{CONTROL}"\n'
#: How long clients misbehave.
ABUSE_SECONDS = 2.0
SLOW_CLIENTS = 200
BODY_BYTES = 20_000_000
#: What the pipeline may be slower by. Both share two cores with the clients.
LATENCY_SECONDS = 1.0
MEMORY_BYTES = 60_000_000
#: The least number of answers to somebody who asks properly meanwhile.
ANSWERS = 10

Engine = EngineProcess


def resident_bytes(engine: Engine) -> int:
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def drip(port: int, until: float) -> str:
    """Send a request byte by byte. Returns how it ended."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.1)
            if time.monotonic() > until:
                break
        writer.close()
    except OSError:
        return "refused"
    return "open"


async def never_read(port: int, until: float) -> str:
    """Open a dashboard's stream of events, and read nothing of it."""
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {READ}\r\n\r\n"
        writer.write(head.encode())
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        writer.close()
    return "open"


async def ask(port: int, token: str, body: bytes = b"") -> str:
    """POST a command. Returns the code of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with suppress(OSError):
        writer.write(head.encode() + body)
        await writer.drain()
    answer = b""
    with suppress(OSError):
        answer = await reader.read()
    writer.close()
    return answer.partition(b" ")[2][:3].decode()


async def repeat(port: int, token: str, body: bytes, until: float) -> str:
    """POST again and again. Returns all codes."""
    codes = set()
    while time.monotonic() < until:
        codes.add(await ask(port, token, body))
    return " ".join(sorted(codes - {""}))


async def abuse(port: int) -> list[str]:
    """All of them at a time. Returns how they ended, the slow ones first."""
    until = time.monotonic() + ABUSE_SECONDS
    slow = [drip(port, until) for _ in range(SLOW_CLIENTS)]
    others = [
        *(never_read(port, until) for _ in range(10)),
        *(repeat(port, token, b"{}", until) for token in ("", READ[:-1], CONTROL + "x")),
        repeat(port, CONTROL, b'{"command":"' + b"x" * BODY_BYTES, until),
        repeat(port, CONTROL, b"[" * 60_000, until),
    ]
    return list(await asyncio.gather(*slow, *others))


def test_the_pipeline_does_not_notice_bad_clients(
    mysql: AnyServer, follow: Callable[[AnyServer], Followed], tmp_path: Path
) -> None:
    """GIVEN a pipeline under a steady load WHEN 200 clients send their requests byte by byte, and
    others have wrong tokens, huge bodies, or do not read THEN changes arrive as soon as before, the
    API answers the others, and the engine needs no more memory.
    """
    followed = follow(mysql)
    with followed.engine(tmp_path, TOKENS) as engine, followed.rig(engine) as rig:
        rig.steady.start()
        wait_until(rig.lasting(0.5))
        before, began = resident_bytes(engine), time.time()
        ends = asyncio.run(abuse(engine.port))
        most, ended = resident_bytes(engine), time.time()
        rig.steady.stop()
        wait_until(lambda: rig.level)
        assert ends[:SLOW_CLIENTS] == ["open"] * SLOW_CLIENTS
        *wrong_tokens, huge, nested = ends[-5:]
        assert (wrong_tokens, nested) == (["401"] * 3, "400")
        # Who still sends when the connection is closed may not get the answer.
        assert huge in ("413", "")
        late = sorted(rig.latencies())[-len(rig.latencies()) // 20 :]
        assert late[0] < LATENCY_SECONDS
        assert len(rig.reported(began, ended)) >= ANSWERS
        assert rig.wrong(began, ended) == []
        assert most - before < MEMORY_BYTES
        assert '"level":"error"' not in engine.log.read_text()


# -- schemathesis ----------------------------------------------------------------------------------


def described(engine: Engine, path: Path, pipeline: str = "") -> Path:
    """The OpenAPI document that is served, without the commands that end the engine, and without
    the stream of events, which does not end. ``pipeline`` is that of a supervisor.
    """
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=10)
    connection.request("GET", "/openapi.json", headers={"Authorization": f"Bearer {READ}"})
    text = connection.getresponse().read().decode()
    connection.close()
    document: dict[str, Any] = json.loads(text)
    for path_of in [it for it in document["paths"] if it.endswith(("/events", "/stop"))]:
        del document["paths"][path_of]
    operations = [it for methods in document["paths"].values() for it in methods.values()]
    for parameter in (it for each in operations for it in each.get("parameters", ())):
        if parameter["name"] == "pipeline":
            parameter["schema"]["enum"] = [pipeline, "none"]
    bodies = [it["requestBody"] for it in operations if "requestBody" in it]
    commands = [it for it in bodies if "anyOf" in json.dumps(it)]
    for body in commands:
        schema = body["content"]["application/json"]["schema"]
        schema["anyOf"] = [it for it in schema["anyOf"] if "Stop" not in json.dumps(it)]
        schema.pop("discriminator", None)
        assert len(schema["anyOf"]) > 5
    assert len(commands) == 1
    path.write_text(json.dumps(document))
    return path


def assert_conforms(engine: Engine, document: Path) -> None:
    """Have schemathesis send what the document allows, commands included, and what it does not: no
    answer is a server error, or another one than described.
    """
    if find_spec("schemathesis") is None:
        do_without(SandboxUnavailable("schemathesis is not installed"))
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", document),
            *("--url", f"http://127.0.0.1:{engine.port}"),
            *("--header", f"Authorization: Bearer {CONTROL}"),
            *("--checks", "not_a_server_error,content_type_conformance"),
            *("--checks", "response_schema_conformance,status_code_conformance"),
            *("--max-examples", "50", "--seed", "1", "--request-timeout", "30"),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=document.parent,
    )
    assert checked.returncode == 0, checked.stdout[-5000:] + checked.stderr[-1000:]
    generated = map(int, re.findall(r"(\d+) generated", checked.stdout))
    assert max(generated, default=0) > 150, checked.stdout[-2000:]
    assert engine.process.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_request_makes_a_server_error(
    mysql: AnyServer, follow: Callable[[AnyServer], Followed], tmp_path: Path
) -> None:
    followed = follow(mysql)
    with followed.engine(tmp_path, TOKENS) as engine, followed.rig(engine) as rig:
        rig.steady.step()
        wait_until(lambda: rig.level)
        assert_conforms(engine, described(engine, tmp_path / "openapi.json"))
        for command in (b'{"command":"backfill","all":true}', b'{"command":"resume"}'):
            assert asyncio.run(ask(engine.port, CONTROL, command)) == "202"
        wait_until(lambda: lag_of(engine.port) == 0, timeout=90, what="a pipeline that goes on")
        rig.steady.step()
        wait_until(lambda: rig.level)
        assert '"exception"' not in engine.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_request_makes_a_server_error_of_a_supervisor(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    directory = tmp_path / "pipelines"
    directory.mkdir()
    with connect_mysql(mysql, source_database) as connection:
        query(connection, "CREATE TABLE t (id INT PRIMARY KEY)")
    write_config(directory, mysql.url, target_database, f"{source_database}.*")
    (directory / "supervisor.toml").write_text(TOKENS)
    with Engine(directory) as engine:
        server = SupervisorServer(engine)
        server.wait("mirror", follows)
        assert_conforms(engine, described(engine, tmp_path / "openapi.json", "mirror"))
        code, _ = server.ask("/pipelines/mirror/commands", {"command": "resume"}, CONTROL)
        assert code == 202
        server.wait("mirror", follows)
        assert '"exception"' not in engine.log.read_text()
