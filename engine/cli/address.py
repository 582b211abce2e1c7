"""
What ``tailrace check`` says about the address of the API.
"""

from __future__ import annotations

import asyncio

from engine.contract import Finding
from engine.errors import ConfigError, ListenError
from engine.settings.api import ApiSettings, parse_listen

__all__ = ["check_address"]


async def check_address(settings: ApiSettings, *, used: bool) -> tuple[list[Finding], int]:
    """Whether a run can serve the API on its address, and the exit status of one that cannot. If it
    may be ``used`` by an engine of this pipeline, it is not tried.
    """
    if not settings.listen:
        return [], 0
    try:
        host, port = parse_listen(settings.listen)
        settings.secure(host)
        if not used:
            await _listen(host, port)
    except (ConfigError, ListenError) as error:
        found = Finding("error", "api", error.message, error.hint, code="CK009")
        return [found], error.exit_status
    return [Finding("ok", "api", f"{settings.listen} can be used")], 0


async def _listen(host: str, port: int) -> None:
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint='set listen = "HOST:PORT" in [api] to another address, or end what uses this one',
        ) from error
    server.close()
    await server.wait_closed()
