"""
Where the API of an engine is, and what a client presents to it: ``--api``, ``--token-file``,
``--tls-ca``, the variable TAILRACE_TOKEN, and ``[api]`` of a configuration.
"""

from __future__ import annotations

import argparse
import os
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from engine.errors import ConfigError
from engine.settings.api import ApiSettings, is_loopback, parse_listen

__all__ = ["ApiAddress", "add_api", "add_token", "address_of", "configured_address"]

#: The variable with the token, where no file is named.
TOKEN_VARIABLE = "TAILRACE_TOKEN"
#: What a server that listens on all addresses is reached at.
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
END_OF_CERTIFICATE = "-----END CERTIFICATE-----\n"


class ApiAddress(NamedTuple):
    """The URL of an API without a slash at its end, the token if one is needed, and for https how
    its certificate is checked.
    """

    url: str
    token: str = ""
    tls: ssl.SSLContext | None = None


def add_api(parser: argparse.ArgumentParser) -> None:
    """Add the options that give a command through the API."""
    parser.add_argument(
        "--api",
        metavar="URL",
        help="in the place of CONFIG: the engine's API, such as http://127.0.0.1:9187",
    )
    add_token(parser)


def add_token(parser: argparse.ArgumentParser) -> None:
    """Add the options of every client of the API."""
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token for the API (default: ${TOKEN_VARIABLE})",
    )
    parser.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="the certificates (PEM) by which the API's is checked (default: those of the system)",
    )
    parser.add_argument(
        "--allow-unprotected",
        action="store_true",
        help="send the token to another machine without TLS, on a network that you trust",
    )


def address_of(url: str, options: argparse.Namespace) -> ApiAddress:
    """The API at a URL that the user typed. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(
            "this is not the URL of an API", hint="write http://HOST:PORT or https://HOST:PORT"
        )
    tls = _trusting(options.tls_ca) if parts.scheme == "https" else None
    token = _token(options) or os.environ.get(TOKEN_VARIABLE, "")
    if token and tls is None and not options.allow_unprotected:
        _refuse_plain(parts.hostname or "")
    return ApiAddress(url.rstrip("/"), token, tls)


def _refuse_plain(host: str) -> None:
    """Raise ConfigError if a token would leave this machine without TLS."""
    if not is_loopback(host):
        raise ConfigError(
            f"the token would go to {host} without encryption",
            hint="use https:// (tls_cert and tls_key in [api]), or --allow-unprotected if only"
            " trusted machines see this network",
        )


def configured_address(settings: ApiSettings, options: argparse.Namespace) -> ApiAddress:
    """The API of the configuration of an engine on this machine. Raises ConfigError.

    The certificate must be the configured one, unless other certificates are named. Its host name
    is not checked, because it is that for clients from elsewhere. Without a certificate the token
    is sent as it is: the address is one of this machine, and an engine serves it only if
    ``allow_unprotected`` says so.
    """
    if not settings.listen:
        raise ConfigError(
            "the configuration has no API",
            hint='write listen = "127.0.0.1:9187" into [api], or name the URL instead',
        )
    host, port = parse_listen(settings.listen)
    host = LOOPBACK.get(host, host)
    token = _token(options) or settings.control_token or settings.read_token
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not settings.tls_cert:
        return ApiAddress(f"http://{place}", token or os.environ.get(TOKEN_VARIABLE, ""))
    tls = _trusting(options.tls_ca) if options.tls_ca else _pinned(settings.tls_cert)
    return ApiAddress(f"https://{place}", token or os.environ.get(TOKEN_VARIABLE, ""), tls)


def _token(options: argparse.Namespace) -> str:
    """The token of the file that the options name."""
    if options.token_file is None:
        return ""
    try:
        token: str = options.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII"
        raise ConfigError(
            f"the token cannot be read from {options.token_file}: {reason}",
            hint="--token-file names a file with one token of [api]",
        ) from None
    if not token.isprintable() or not token:
        raise ConfigError(
            f"{options.token_file} does not hold one token", hint="write the token alone into it"
        )
    return token


def _trusting(path: Path | None) -> ssl.SSLContext:
    """A context that trusts the certificates of a file, or those of the system."""
    try:
        return ssl.create_default_context(cafile=None if path is None else str(path))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--tls-ca: {path} cannot be used: {error.strerror or type(error).__name__}",
            hint="it is a file with certificates in PEM",
        ) from error


def _pinned(path: str) -> ssl.SSLContext:
    """A context that accepts the first certificate of a file, and no other one."""
    try:
        first = Path(path).read_text(encoding="ascii").partition(END_OF_CERTIFICATE)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata="".join(first[:2]))
    except (OSError, ssl.SSLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"api.tls_cert cannot be read: {getattr(error, 'strerror', None) or 'it is not PEM'}",
            hint="--tls-ca names the certificates by which it is checked",
        ) from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
