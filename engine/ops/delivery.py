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
import time
from collections.abc import Mapping, Sequence
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
    output = STANDARD_ERROR if shown else asyncio.subprocess.DEVNULL
    pipe = asyncio.subprocess.PIPE
    guard: asyncio.subprocess.Process | None = None
    process: asyncio.subprocess.Process | None = None
    try:
        # A group of its own: Ctrl-C is for the caller.
        guard = await asyncio.create_subprocess_exec(*_GUARD, stdin=pipe, process_group=0)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=output,
            stderr=output,
            env={**os.environ, **about},
            process_group=guard.pid,
        )
        async with asyncio.timeout(seconds):
            await process.communicate(body)
        await guard.communicate(b"\n")
    except TimeoutError:
        return Failure("the command does not end in time")
    except OSError as error:
        return Failure(f"the command cannot be started: {error.strerror}")
    finally:
        if guard is not None and guard.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
        for started in (process, guard):
            if started is not None:
                with suppress(ProcessLookupError):
                    started.kill()  # it has ended, unless somebody has ended the guard
                await started.wait()
    if process.returncode:
        return Failure(f"the command ends with status {process.returncode}")
    return None


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
