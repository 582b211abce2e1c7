"""
Checks of the connection to the server: whether it is encrypted, and whether the server's
certificate is verified.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

from engine.contract import Finding
from engine.databases.mysql.pymysql_adapter import socket_of
from engine.databases.mysql.settings import address_of
from engine.toolkit.hosts import is_local
from sources.mysql.preflight.context import Check, Context

__all__ = ["PROTECTION_CHECKS"]


def _protection(context: Context) -> Iterator[Finding]:
    address = address_of(context.settings)
    verified = address.tls.startswith("verify")
    if address.tls_ca and not verified:
        yield Finding(
            "warning",
            "tls_ca",
            f"tls_ca is set and not used: tls = {address.tls!r} does not verify the certificate",
            'tls = "verify-full", or "verify-ca" if the certificate does not name the host',
            code="MY016",
        )
    encrypted = isinstance(socket_of(context.session), ssl.SSLSocket)
    if is_local(address.host):
        yield Finding("ok", "tls", f"the server is on this machine ({_shown(encrypted)})")
    elif not encrypted:
        yield Finding(
            "warning",
            "tls",
            "the connection to the server is not encrypted",
            'let the server offer TLS, and set tls = "verify-full" and tls_ca in [source]',
            code="MY017",
        )
    elif not verified:
        yield Finding(
            "warning",
            "tls",
            "the connection is encrypted, and the server's certificate is not verified, so another"
            " server could take its place",
            'tls = "verify-full" and tls_ca = "/path/of/ca.pem" in [source]',
            code="MY018",
        )
    else:
        yield Finding("ok", "tls", "the connection is encrypted, the certificate is verified")


def _shown(encrypted: bool) -> str:
    return "encrypted" if encrypted else "not encrypted"


#: The checks of the connection.
PROTECTION_CHECKS: Final[tuple[Check, ...]] = (_protection,)
