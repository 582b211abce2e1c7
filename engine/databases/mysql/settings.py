"""
How to reach a MySQL or MariaDB server: the settings of a connection, and the address that its URL
and the TLS settings name together.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from engine.errors import ConfigError

__all__ = ["Address", "ConnectionSettings", "Tls", "address_of", "database_of"]

Tls = Literal["prefer", "disable", "require", "verify-ca", "verify-full"]
_TLS: Final = ("prefer", "disable", "require", "verify-ca", "verify-full")
_SCHEMES: Final = ("mysql", "mariadb")


class ConnectionSettings(Protocol):
    """The settings of a connection, which the settings of a source or a sink contain.

    It is a protocol and not a base class, because the fields of a base struct would come before
    those of its subclass: each struct orders its keys for the person who reads the configuration.
    """

    @property
    def url(self) -> str:
        """``mysql://user:password@host:3306/``; characters with a meaning in URLs as ``%XX``.

        The TLS settings may also be given in its query: ``?tls=verify-full&tls_ca=/etc/ca.pem``.
        The query overrides the other settings.
        """
        ...

    @property
    def timeout_seconds(self) -> float:
        """The longest wait for an answer of the server."""
        ...

    @property
    def tls(self) -> Tls:
        """``prefer``: encrypt if the server can, and do not verify its certificate; ``disable``;
        ``require``: encrypt or fail; ``verify-ca``: and the certificate must be signed by
        ``tls_ca``; ``verify-full``: and the certificate must name the host.
        """
        ...

    @property
    def tls_ca(self) -> str:
        """The path of a PEM file with the certificates of the authorities to trust."""
        ...

    @property
    def tls_cert(self) -> str:
        """The path of a PEM file with the client's certificate; empty for none."""
        ...

    @property
    def tls_key(self) -> str:
        """The path of a PEM file with the client's key; empty if ``tls_cert`` contains it."""
        ...


class Address(NamedTuple):
    """The server and the user of a connection, and its protection."""

    host: str
    port: int
    user: str
    password: str
    tls: Tls
    tls_ca: str
    tls_cert: str
    tls_key: str

    def __repr__(self) -> str:
        return f"<{self.user}@{self.host}:{self.port}>"


def address_of(settings: ConnectionSettings) -> Address:
    """The address in the URL and the TLS settings, with the settings that the URL's query
    overrides. Raises ConfigError, which does not contain the URL's secrets.
    """
    try:
        parts = urlsplit(settings.url)
        port = parts.port or 3306
    except ValueError as error:
        raise ConfigError("the URL of the MySQL server cannot be read", hint=_URL_HINT) from error
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigError("the URL does not name a MySQL server", hint=_URL_HINT)
    if parts.fragment or "@" in parts.path + parts.query:
        # An unescaped character of the password has ended the part with the user and the password.
        raise ConfigError("the URL of the MySQL server cannot be read", hint=_URL_HINT)
    tls = {name: getattr(settings, name) for name in ("tls", "tls_ca", "tls_cert", "tls_key")}
    for name, value in parse_qsl(parts.query):
        if name not in tls:
            raise ConfigError(
                f"the URL of the MySQL server has an unknown option {name!r}", hint=_URL_HINT
            )
        tls[name] = value
    if tls["tls"] not in _TLS:
        raise ConfigError(f"tls is {tls['tls']!r}", hint=f"choose from {', '.join(_TLS)}")
    if tls["tls"].startswith("verify") and not tls["tls_ca"]:
        raise ConfigError(
            f"tls = {tls['tls']!r} needs tls_ca", hint="set tls_ca to the PEM file of the CA"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(parts.hostname, port, user, password, **tls)


def database_of(url: str) -> str:
    """The database in the path of a URL; empty if it names none."""
    return unquote(urlsplit(url).path.strip("/"))


_URL_HINT: Final = (
    "write mysql://user:password@host:3306/?tls=require; in the password, write % as %25, / as %2F,"
    " @ as %40, : as %3A, # as %23 and ? as %3F"
)
