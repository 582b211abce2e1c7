"""
What ``tailrace check`` says about the address of the API.
"""

from __future__ import annotations

import asyncio

from engine.contract import Finding
from engine.errors import ConfigError
from engine.settings.api import ApiSettings, parse_listen

__all__ = ["check_address"]


async def check_address(settings: ApiSettings, *, used: bool) -> list[Finding]:
    """Whether a run can serve the API on its address. If it may be ``used`` by an engine of this
    pipeline, it is not tried.
    """
    if not settings.listen:
        return []
    try:
        host, port = parse_listen(settings.listen)
        settings.secure(host)
        if not used:
            await _listen(host, port)
    except ConfigError as error:
        return [Finding("error", "api", error.message, error.hint, code="CK009")]
    return [Finding("ok", "api", f"{settings.listen} can be used")]


async def _listen(host: str, port: int) -> None:
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint='set listen = "HOST:PORT" in [api] to another address, or end what uses this one',
        ) from error
    server.close()
    await server.wait_closed()
