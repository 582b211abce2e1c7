"""
Who may use the API: bearer tokens (RFC 6750) with the roles ``read`` and ``control``, and a guard
against web pages.

A browser sends requests to this machine on behalf of any page that the user visits. So a request
is refused if its ``Host`` is a name of somebody else (DNS rebinding), if its ``Origin`` is another
one, or if it is a POST without JSON (which a form cannot send).
"""

from __future__ import annotations

import hmac
from http import HTTPStatus
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
        self._tokens: list[tuple[bytes, Role]] = []
        if settings.control_token:
            self._tokens.append((settings.control_token.encode(), "control"))
        if settings.read_token:
            self._tokens.append((settings.read_token.encode(), "read"))
        self._local = is_loopback(host)
        #: Whether no token is needed.
        self.open = not self._tokens
        self._control = bool(settings.control_token) or (self.open and self._local)

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
        name = _part_of(f"//{host}", "hostname")
        if self.open and self._local and not is_loopback(name):
            raise HTTPException(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the request names another host; use 127.0.0.1 or localhost, or set a token in"
                " [api]",
            )
        origin = request.headers.get("origin")
        if origin is not None and _part_of(origin, "netloc") != host:
            raise HTTPException(HTTPStatus.FORBIDDEN, "the request comes from a foreign page")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send `Content-Type: application/json`"
            )


def _part_of(url: str, part: Literal["hostname", "netloc"]) -> str:
    """A part of a URL; empty if it has none, or is no URL."""
    try:
        return getattr(urlsplit(url), part) or ""
    except ValueError:
        return ""
