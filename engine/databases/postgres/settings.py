"""
How to reach a PostgreSQL server: the settings of a connection, and the check of its URL.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from engine.databases.side import Side
from engine.errors import ConfigError
from engine.toolkit.hosts import is_local

__all__ = ["ConnectionSettings", "check_url", "guard"]

#: The values of sslmode that do not connect without TLS.
_ENCRYPTED = ("require", "verify-ca", "verify-full")
#: The release of libpq that introduced require_auth.
_REQUIRE_AUTH_VERSION = 160_000


class ConnectionSettings(Protocol):
    """The settings of a connection, which the settings of a source or a sink contain.

    A protocol and not a base class, as ``engine.databases.mysql.settings.ConnectionSettings``.
    """

    @property
    def url(self) -> str:
        """A libpq connection URI or string."""
        ...

    @property
    def timeout_seconds(self) -> float:
        """The longest wait for connecting and for the answer to a small statement."""
        ...

    @property
    def application_name(self) -> str:
        """The name of the session in ``pg_stat_activity``."""
        ...


def check_url(url: str, side: Side) -> None:
    """Raise ConfigError for a URL that libpq cannot parse, or that it would parse in another way
    than intended. The error does not contain the URL.
    """
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        parts = None
    if parts is None or _is_misread({name: str(value) for name, value in parts.items()}):
        # Raised without a cause: libpq's message contains the URL, and so the password.
        raise ConfigError(
            f"the {side.name}'s URL cannot be read",
            hint="It is postgresql://user:password@host:port/database; in the password, write"
            " % as %25, / as %2F, @ as %40 and : as %3A.",
        ) from None


def guard(url: str) -> dict[str, Any]:
    """Options of libpq for a connection that shows nobody on the network the password.

    A server chooses the method of authentication, and libpq sends the password as clear text to any
    server that asks for it, also without TLS (manual, ``require_auth``). Raises psycopg's
    ProgrammingError for a URL that cannot be parsed.
    """
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    hosts = parts.get("host", parts.get("hostaddr", os.environ.get("PGHOST", ""))).split(",")
    encrypted = parts.get("sslmode", os.environ.get("PGSSLMODE")) in _ENCRYPTED
    chosen = "require_auth" in parts or "PGREQUIREAUTH" in os.environ
    if encrypted or chosen or all(map(is_local, hosts)) or pq.version() < _REQUIRE_AUTH_VERSION:
        return {}
    return {"require_auth": "!password"}


def _is_misread(parts: dict[str, str]) -> bool:
    """Whether a part of the password is in a field that libpq shows in its messages. After an
    unescaped ``/`` or ``@`` in the password, libpq takes the rest of the URL for another field.
    """
    host, port = parts.get("host", ""), parts.get("port", "0")
    return (
        "@" in host[1:]
        or not port.replace(",", "0").isdecimal()
        or ("user" not in parts and "@" in parts.get("dbname", ""))
    )
