"""
One attempt to tell a program or a web server something: JSON on standard input, or a signed POST.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

import httpx

from engine.settings.notify import secret_bytes

__all__ = ["Failure", "execute", "post", "signed"]

STANDARD_ERROR = 2
#: Kills its process group if its standard input ends without a line: the process that would have
#: written that is gone.
_GUARD = ("/bin/sh", "-c", "read -r _ || kill -KILL 0")
#: The answers that say that a request will never be taken.
REFUSED = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.GONE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


class Failure(NamedTuple):
    """Why an attempt failed, and whether another one would fail, too."""

    reason: str
    final: bool = False


async def post(
    client: httpx.AsyncClient, url: str, id: str, body: bytes, *, secret: str, seconds: float
) -> Failure | None:
    """Send a request, signed if there is a secret. A redirect is not followed, because it could
    lead anywhere.
    """
    headers = {
        "content-type": "application/json",
        "user-agent": "tailrace",
        **signed(id, int(time.time()), body, secret),
    }
    try:
        async with asyncio.timeout(seconds):
            async with client.stream("POST", url, content=body, headers=headers) as answer:
                status = answer.status_code
    except TimeoutError:
        return Failure("the receiver does not answer in time")
    except (httpx.HTTPError, httpx.InvalidURL) as error:  # its message may have the URL
        return Failure(f"the receiver cannot be reached: {type(error).__name__}")
    if 200 <= status < 300:
        return None
    return Failure(f"the receiver answers with status {status}", final=status in REFUSED)


async def execute(
    command: Sequence[str],
    body: bytes,
    about: Mapping[str, str],
    *,
    seconds: float,
    shown: bool = False,
) -> Failure | None:
    """Run a command, with ``body`` on its standard input, and ``about`` in its environment. Its
    output is dropped, or ``shown`` on standard error.

    If this process is killed, so are the command and the processes that it has started, because
    nobody would learn what they do later. What they leave running when the command ends goes on.
    """
    output = STANDARD_ERROR if shown else subprocess.DEVNULL
    started: list[subprocess.Popen[bytes]] = []
    loop = asyncio.get_running_loop()
    # Threads of its own: those of the loop are for the databases. The second one ends the first.
    threads = ThreadPoolExecutor(2, "command")
    try:
        # A group of its own: Ctrl-C is for the caller. Not by asyncio, because the processes of
        # uvloop have no process_group.
        guard = subprocess.Popen(_GUARD, stdin=subprocess.PIPE, process_group=0)
        started.append(guard)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **about},
            process_group=guard.pid,
        )
        started.append(process)
        await loop.run_in_executor(threads, process.communicate, body, seconds)
        await loop.run_in_executor(threads, guard.communicate, b"\n", seconds)
    except subprocess.TimeoutExpired:
        return Failure("the command does not end in time")
    except OSError as error:
        return Failure(f"the command cannot be started: {error.strerror}")
    finally:
        await loop.run_in_executor(threads, _end, started)
        threads.shutdown(wait=False)
    if process.returncode:
        return Failure(f"the command ends with status {process.returncode}")
    return None


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """End a guard and a command that have not ended by themselves. Blocks, briefly."""
    if started and started[0].poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(started[0].pid, signal.SIGKILL)
    for process in started:
        process.kill()  # it has ended, unless somebody has ended the guard
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):  # what was not read is lost
                process.stdin.close()


def signed(id: str, at: int, body: bytes, secret: str) -> dict[str, str]:
    """The headers of Standard Webhooks for an attempt at ``at``, in Unix seconds; without a
    ``secret`` there is no signature
    (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
    """
    headers = {"webhook-id": id, "webhook-timestamp": str(at)}
    if secret:
        digest = hmac.new(
            secret_bytes(secret), b"%b.%d.%b" % (id.encode(), at, body), hashlib.sha256
        )
        headers["webhook-signature"] = "v1," + base64.b64encode(digest.digest()).decode()
    return headers
