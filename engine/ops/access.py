"""
Who may use the API: bearer tokens (RFC 6750) with the roles ``read`` and ``control``, and a guard
against web pages.

A browser sends requests on behalf of any page that the user visits, to this machine and to others
in its network. So a request is refused if its ``Origin`` is another page, or if it is a POST
without JSON (which a form cannot send). An API without tokens also refuses a ``Host`` that it does
not know: the name of a page may lead to this machine (DNS rebinding), and the requests of the page
are of its own origin then. Such a page has a name, so addresses are known.
"""

from __future__ import annotations

import hmac
import socket
from http import HTTPStatus
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from engine.settings.api import ApiSettings, is_loopback

__all__ = ["Access", "Role"]

Role = Literal["read", "control"]


class Access:
    """Decides about requests to a server on ``host``."""

    def __init__(self, settings: ApiSettings, host: str) -> None:
        self._local = is_loopback(host)
        names = ("localhost", host, socket.gethostname(), *settings.allowed_hosts)
        self._names = {name.lower() for name in names if name}
        self._take(settings)

    def _take(self, settings: ApiSettings) -> None:
        pairs: list[tuple[str, Role]] = [
            (settings.control_token, "control"),
            (settings.read_token, "read"),
        ]
        self._tokens = [(token.encode(), role) for token, role in pairs if token]
        #: Whether no token is needed.
        self.open = not self._tokens
        self._control = bool(settings.control_token) or (self.open and self._local)

    def replace_tokens(self, settings: ApiSettings) -> None:
        """Have other tokens hold from now on. ``settings`` has at least one."""
        assert settings.read_token or settings.control_token
        self._take(settings)

    def allows(self, request: Request, needed: Role) -> bool:
        """Whether the client has the role, which it may have lost since its request began."""
        return self.role(request) in ("control", needed)

    def role(self, request: Request) -> Role | None:
        """The role of the client; None without a token, or with a wrong one."""
        if self.open:
            return "control" if self._local else "read"
        kind, _, presented = request.headers.get("authorization", "").partition(" ")
        found: Role | None = None
        for token, role in self._tokens:
            if hmac.compare_digest(token, presented.strip().encode()):
                found = role
        return found if kind.lower() == "bearer" else None

    def require(self, request: Request, needed: Role) -> None:
        """Raise HTTPException unless the request may do what needs the role."""
        self._refuse_foreign_pages(request, needed)
        role = self.role(request)
        if role is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "send the header `Authorization: Bearer TOKEN` with a token of [api]",
                headers={"www-authenticate": 'Bearer realm="tailrace"'},
            )
        if needed == "control" and role != "control":
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "commands need the control token"
                if self._control
                else "commands need control_token in [api] of the configuration",
            )

    def _refuse_foreign_pages(self, request: Request, needed: Role) -> None:
        host = request.headers.get("host", "")
        if self.open and not self._knows(_part_of(f"//{host}", "hostname")):
            raise HTTPException(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the request names an unknown host; use the address of this machine, write the name"
                " into allowed_hosts in [api], or set a token there",
            )
        origin = request.headers.get("origin")
        if origin is not None and _part_of(origin, "netloc") != host:
            raise HTTPException(HTTPStatus.FORBIDDEN, "the request comes from a foreign page")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send `Content-Type: application/json`"
            )

    def _knows(self, name: str) -> bool:
        """Whether a host is an address, or a name of this machine."""
        try:
            ip_address(name)
        except ValueError:
            return name in self._names
        return True


def _part_of(url: str, part: Literal["hostname", "netloc"]) -> str:
    """A part of a URL; empty if it has none, or is no URL."""
    try:
        return getattr(urlsplit(url), part) or ""
    except ValueError:
        return ""
