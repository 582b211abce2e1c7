"""
``[api]``: where the engine listens for HTTP requests, and who may use it.

An address that other machines reach needs TLS and a token. ``ApiSettings.secure`` refuses anything
else, unless ``allow_unprotected`` says otherwise.
"""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from typing import Annotated

from msgspec import Meta, Struct

from engine.errors import ConfigError

__all__ = ["ApiSettings", "is_loopback", "parse_listen"]

#: The length of the shortest token. `openssl rand -hex 16` gives 32 characters.
TOKEN_CHARACTERS = 16


class ApiSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``listen`` is the ``host:port`` of the API; empty serves none. /health/ready fails when the
    target is more than ``max_lag_seconds`` behind.

    ``tls_cert`` and ``tls_key`` are PEM files. A client that presents ``read_token`` may read,
    one that presents ``control_token`` may also submit commands. Without any token, an address of
    this machine only (loopback) allows both to all its users. ``allow_unprotected`` allows an
    address that others reach to do without TLS, or without a token for reading; commands always
    need ``control_token`` there.

    ``allowed_hosts`` are the names by which clients reach an API without tokens, beside addresses,
    ``localhost``, and the names of this machine and of ``listen``.
    """

    listen: str = ""
    max_lag_seconds: Annotated[float, Meta(gt=0)] = 300.0
    tls_cert: str = ""
    tls_key: str = ""
    read_token: str = ""
    control_token: str = ""
    allow_unprotected: bool = False
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("read_token", "control_token"):
            token = getattr(self, name)
            if token and (len(token) < TOKEN_CHARACTERS or not token.isascii()):
                raise ConfigError(
                    f"api.{name} is too short, or not ASCII",
                    hint=f"write at least {TOKEN_CHARACTERS} characters:"
                    " `openssl rand -hex 16` prints a good one",
                )
        if self.read_token and self.read_token == self.control_token:
            raise ConfigError(
                "api.read_token and api.control_token are the same",
                hint="choose two, or leave out read_token: the control token may read, too",
            )
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("api.tls_cert and api.tls_key need each other", hint="write both")

    def secure(self, host: str) -> ssl.SSLContext | None:
        """The TLS context for an address, or None if it is served without TLS.

        Raises ConfigError if the address needs protection that is not configured, or if the
        certificate cannot be read.
        """
        if not is_loopback(host) and not self.allow_unprotected:
            missing = [] if self.tls_cert else ["TLS (tls_cert and tls_key)"]
            if not (self.read_token or self.control_token):
                missing.append("a token (read_token or control_token)")
            if missing:
                raise ConfigError(
                    f"other machines can reach {host or 'all addresses'}, and [api] lacks"
                    f" {' and '.join(missing)}",
                    hint="write them into [api], listen on 127.0.0.1, or write"
                    " allow_unprotected = true if only trusted machines reach this address",
                )
        if not self.tls_cert:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError(
                f"api.tls_cert or api.tls_key cannot be used: {reason}",
                hint="both are PEM files, and the key has no passphrase",
            ) from error
        return context


def _no_password() -> str:
    """An encrypted key is an error; OpenSSL would ask for its passphrase on the terminal."""
    return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_listen(listen: str) -> tuple[str, int]:
    """``host:port`` as its parts; ``[::1]:9187`` for IPv6. ConfigError if it is neither."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise ConfigError(
            f"'{listen}' is not an address to listen on",
            hint="write HOST:PORT, e.g. 127.0.0.1:9187",
        )
    return host.strip("[]"), int(port)
