"""
A client of the API of an engine (docs/api.md). It is a ``CommandClient``, so commands are given and
awaited through it as through the target.

Every request has a deadline. Proxies of the environment are not used: the token is for the engine.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

import httpx
import msgspec

from engine.cli.api_address import TOKEN_VARIABLE, ApiAddress
from engine.commands import StoredCommand
from engine.errors import ApiError
from engine.ops.history import History
from engine.ops.log import printable
from engine.ops.status import STATUS_VERSION, Status
from engine.ops.supervisor.processes import RELOAD_SECONDS
from engine.ops.supervisor.status import SUPERVISOR_VERSION, SupervisorStatus

__all__ = ["ApiClient", "connect"]

T = TypeVar("T")

#: How long a response may take.
REQUEST_SECONDS = 10.0
#: The same of some paths: the engine waits up to 30 seconds for the target, and a supervisor for
#: engines that end.
SECONDS = {"commands": 35.0, "reload": RELOAD_SECONDS + 5}

_HINTS = {
    401: f"name the token: --token-file FILE, or the variable {TOKEN_VARIABLE}",
    403: "commands need the token that [api] has as control_token",
    404: "is this the URL of an engine of this version of Tailrace?",
    421: "use the address in the URL, or write its name into allowed_hosts in [api]",
}


class _Problem(msgspec.Struct):
    error: str = ""
    detail: str = ""
    hint: str = ""


class _Version(msgspec.Struct):
    version: int = 0
    #: The version of a supervisor's status.
    supervisor: int = 0


class _Outcome(msgspec.Struct):
    outcome: str


class _Submitted(msgspec.Struct):
    id: int


class _Record(msgspec.Struct):
    id: int
    command: msgspec.Raw
    by: str
    at: float
    outcome: str | None = None
    refused: bool = False

    def stored(self) -> StoredCommand:
        command = bytes(self.command).decode()
        return StoredCommand(self.id, command, self.by, self.at, self.outcome, self.refused)


@asynccontextmanager
async def connect(address: ApiAddress, user: str) -> AsyncIterator[ApiClient]:
    """A client of the API at an address. ``user`` is the name that the record of commands shows."""
    headers = {"Tailrace-User": user.encode("ascii", "backslashreplace").decode()}
    if address.token:
        headers["Authorization"] = f"Bearer {address.token}"
    async with httpx.AsyncClient(
        headers=headers,
        verify=address.tls or True,
        timeout=None,  # the deadlines of ``_request`` are for the whole of a request
        trust_env=False,
    ) as http:
        yield ApiClient(http, address.url)


class ApiClient:
    """The API at a URL. Every method raises ApiError if it does not answer, or refuses."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self.url = url

    async def status(self) -> Status:
        """The status of the pipeline."""
        body = await self._request("GET", "/status")
        version = self._decode(body, _Version)
        if version.supervisor:
            raise ApiError(
                f"{self.url} is a supervisor of several pipelines",
                hint="add /pipelines/NAME to the URL, or name the directory of the configurations",
            )
        found = version.version
        if found != STATUS_VERSION:
            raise ApiError(
                f"the status at {self.url} has the version {found}, this tailrace knows"
                f" {STATUS_VERSION}",
                hint="use the version of Tailrace that the engine has",
            )
        return self._decode(body, Status)

    async def supervisor_status(self) -> SupervisorStatus:
        """The status of all pipelines of a supervisor."""
        body = await self._request("GET", "/status")
        if (found := self._decode(body, _Version).supervisor) != SUPERVISOR_VERSION:
            raise ApiError(
                f"the status at {self.url} is none of a supervisor"
                if not found
                else f"the status at {self.url} has the version {found}",
                hint="use the version of Tailrace that the supervisor has",
            )
        return self._decode(body, SupervisorStatus)

    async def give_supervisor(self, command: Literal["reload", "stop"]) -> str:
        """Have a supervisor do something, and return the outcome."""
        body = await self._request("POST", f"/{command}", b"{}")
        return self._decode(body, _Outcome).outcome

    async def history(self) -> History:
        """The lag and the throughput of the last 24 hours."""
        return self._decode(await self._request("GET", "/history"), History)

    async def submit(self, command: str, by: str = "") -> int:
        """As ``CommandClient.submit``; the name is that of the client."""
        body = await self._request("POST", "/commands", command.encode())
        return self._decode(body, _Submitted).id

    async def cancel(self, id: int, outcome: str = "") -> bool:
        """As ``CommandClient.cancel``; the engine words the outcome."""
        try:
            await self._request("DELETE", f"/commands/{id}")
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def find(self, id: int) -> StoredCommand | None:
        """As ``CommandClient.find``."""
        try:
            body = await self._request("GET", f"/commands/{id}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return self._decode(body, _Record).stored()

    async def newest(self, count: int) -> list[StoredCommand]:
        """As ``CommandClient.newest``, of those that the API lists."""
        body = await self._request("GET", "/commands")
        listed = self._decode(body, list[_Record])
        found = [it for n, it in enumerate(listed) if n < count or it.outcome is None]
        return [it.stored() for it in reversed(found)]

    async def engine_runs(self) -> bool:
        """Whether the engine answers."""
        try:
            await self._request("GET", "/health/live")
        except ApiError as error:
            if error.status is None:
                return False
            raise
        return True

    async def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a successful response."""
        headers = None if body is None else {"Content-Type": "application/json"}
        seconds = SECONDS.get(path.split("/")[1], REQUEST_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.request(
                    method, self.url + path, content=body, headers=headers
                )
        except TimeoutError:
            stored = ", and may have stored the command" if method == "POST" else ""
            raise self._away(f"no response in {seconds:.0f} seconds{stored}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._away(_reason(error)) from error
        if response.is_success:
            return response.content
        raise self._refused(response)

    def _away(self, reason: str) -> ApiError:
        return ApiError(
            f"the API at {self.url} does not answer: {reason}",
            hint="is the engine running, with this address as listen in [api]?",
        )

    def _refused(self, response: httpx.Response) -> ApiError:
        code = response.status_code
        try:
            problem = msgspec.json.decode(response.content, type=_Problem)
        except msgspec.DecodeError:
            problem = _Problem()
        what = problem.detail or problem.error or f"HTTP status {code}"
        hint = problem.hint or _HINTS.get(code, "")
        return ApiError(f"the API at {self.url} refuses it: {what}", hint=hint, status=code)

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise ApiError(
                f"the response of {self.url} is none of an engine: {printable(str(error))}",
                hint=_HINTS[404],
            ) from None


def _reason(error: Exception) -> str:
    """Why a connection fails, in the words of the system if it has some."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted, {cause.verify_message}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return printable(str(error)) or type(error).__name__
