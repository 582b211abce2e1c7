"""
The APIs of the engines, seen from the supervisor: over Unix sockets in a folder of this user.

The engines trust whoever can open their socket. The supervisor decides who may do what.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec

from engine.ops.status import Status

__all__ = ["EngineApis"]

#: How long an engine may take for what it knows at once.
ANSWER_SECONDS = 5.0
#: The host of requests; engines on loopback refuse others.
BASE = "http://localhost"


class EngineApis:
    """The APIs of all engines. Close it at the end."""

    def __init__(self) -> None:
        self._clients: dict[Path, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def answers(self, api: Path) -> bool:
        """Whether the engine answers."""
        return await self.get(api, "/health/live") is not None

    async def status(self, api: Path) -> Status | None:
        """The status of the engine; None if it does not answer, or not as this version does."""
        response = await self.get(api, "/status")
        if response is None or not response.is_success:
            return None
        try:
            return msgspec.json.decode(response.content, type=Status)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    async def get(self, api: Path, path: str, accept: str = "") -> httpx.Response | None:
        """A response; None if there is none in time."""
        headers = {"accept": accept} if accept else {}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._client(api).get(path, headers=headers)
        except (TimeoutError, httpx.HTTPError):
            return None

    @asynccontextmanager
    async def stream(
        self, api: Path, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[httpx.Response]:
        """A response whose body is read piece by piece. Raises httpx.HTTPError."""
        async with self._client(api).stream(
            method, path, headers=headers, content=body
        ) as response:
            yield response

    def _client(self, api: Path) -> httpx.AsyncClient:
        if api not in self._clients:
            for gone in [it for it in self._clients if not it.exists()]:
                del self._clients[gone]
            self._clients[api] = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(api), verify=False),
                base_url=BASE,
                timeout=None,  # of each use
                trust_env=False,
            )
        return self._clients[api]
