"""
What a person configures about a MySQL or MariaDB source, or about log files of one.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from engine.errors import ConfigError
from engine.schema import TableId

__all__ = ["Address", "BinlogFileSettings", "MySQLSettings", "address_of", "log_path", "selector"]

Tls = Literal["prefer", "disable", "require", "verify-ca", "verify-full"]
_TLS: Final = ("prefer", "disable", "require", "verify-ca", "verify-full")
_SCHEMES: Final = ("mysql", "mariadb")
_SYSTEM_SCHEMAS: Final = ("information_schema", "mysql", "performance_schema", "sys")


class MySQLSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A MySQL or MariaDB server to follow.

    ``url``: ``mysql://user:password@host:3306/``; characters with a meaning in URLs as ``%XX``.
    The TLS settings may also stand in its query: ``?tls=verify-full&tls_ca=/etc/ca.pem``.

    ``tables``: patterns ``schema.table`` of the tables to follow, with ``*`` and ``?``; all by
    default. ``exclude``: patterns of those to leave out all the same. Upper and lower case count if
    they count on the server. The server's own schemas are never followed.

    ``server_id``: the number by which the server knows us as a replica, 1 to 4294967295, used by no
    other replica; 0 (default) chooses a random one.

    ``heartbeat_seconds``: how often an idle server shows a sign of life (default 5). After three
    missing ones the connection counts as lost.

    ``timeout_seconds``: the longest wait for the server's answer to anything else (default 30).

    ``tls``: ``prefer`` (default: encrypted if the server can, without a look at who it is),
    ``disable``, ``require`` (encrypted or not at all), ``verify-ca`` (and its certificate is signed
    by ``tls_ca``), ``verify-full`` (and bears the host's name). ``tls_ca``, ``tls_cert`` and
    ``tls_key`` are paths of PEM files.
    """

    url: str
    tables: tuple[str, ...] = ("*.*",)
    exclude: tuple[str, ...] = ()
    server_id: int = 0
    heartbeat_seconds: float = 5.0
    timeout_seconds: float = 30.0
    tls: Tls = "prefer"
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.server_id < 1 << 32:
            raise ConfigError(f"server_id is {self.server_id}", hint="choose 1 to 4294967295, or 0")
        if self.heartbeat_seconds <= 0 or self.timeout_seconds <= 0:
            raise ConfigError("heartbeat_seconds and timeout_seconds must be above 0")


class BinlogFileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Binary log files on disk, to be read without a server.

    ``url``: ``mysql-binlog:`` and the path of a file, of a folder, or a pattern such as
    ``/backup/binlog.*``. Files are read in the order of the numbers at the end of their names.
    ``tables`` and ``exclude``: as for a server.
    """

    url: str
    tables: tuple[str, ...] = ("*.*",)
    exclude: tuple[str, ...] = ()


class Address(NamedTuple):
    """Where and as whom to connect, and how the connection is protected."""

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


def address_of(settings: MySQLSettings) -> Address:
    """What the URL says, with what its query overrides. Raises ConfigError, without the URL's
    secrets.
    """
    try:
        parts = urlsplit(settings.url)
        port = parts.port or 3306
    except ValueError as error:
        raise ConfigError("the source's URL cannot be read", hint=_URL_HINT) from error
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigError("the source's URL is none of a MySQL server", hint=_URL_HINT)
    tls = {name: getattr(settings, name) for name in ("tls", "tls_ca", "tls_cert", "tls_key")}
    for name, value in parse_qsl(parts.query):
        if name not in tls:
            raise ConfigError(f"the source's URL has an unknown option {name!r}", hint=_URL_HINT)
        tls[name] = value
    if tls["tls"] not in _TLS:
        raise ConfigError(f"tls is {tls['tls']!r}", hint=f"choose from {', '.join(_TLS)}")
    if tls["tls"].startswith("verify") and not tls["tls_ca"]:
        raise ConfigError(f"tls = {tls['tls']!r} needs tls_ca", hint="name the CA's PEM file")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(parts.hostname, port, user, password, **tls)


_URL_HINT: Final = "write mysql://user:password@host:3306/?tls=require"


def log_path(settings: BinlogFileSettings) -> Path:
    """The path, or pattern, that the URL names."""
    scheme, _, path = settings.url.partition(":")
    if scheme != "mysql-binlog" or not path:
        raise ConfigError(
            "the source's URL is none of log files", hint="write mysql-binlog:/path/binlog.000001"
        )
    return Path(unquote(path.removeprefix("//")))


def selector(
    tables: tuple[str, ...], exclude: tuple[str, ...], *, fold_names: bool = False
) -> Callable[[TableId], bool]:
    """Whether a table is to be followed. ``fold_names``: upper and lower case do not count."""
    wanted, unwanted = (
        [_pattern(text, fold_names) for text in group] for group in (tables, exclude)
    )
    known: dict[TableId, bool] = {}

    def select(id: TableId) -> bool:
        answer = known.get(id)
        if answer is None:
            schema, name = (
                (id.schema.lower(), id.name.lower()) if fold_names else (id.schema, id.name)
            )
            answer = known[id] = (
                schema.lower() not in _SYSTEM_SCHEMAS
                and _matches(wanted, schema, name)
                and not _matches(unwanted, schema, name)
            )
        return answer

    return select


def _pattern(text: str, fold_names: bool) -> tuple[str, str]:
    schema, dot, name = (text.lower() if fold_names else text).partition(".")
    if not (schema and dot and name):
        raise ConfigError(f"{text!r} names no table", hint="write schema.table, such as shop.*")
    return schema, name


def _matches(patterns: list[tuple[str, str]], schema: str, name: str) -> bool:
    return any(
        fnmatchcase(schema, in_schema) and fnmatchcase(name, in_name)
        for in_schema, in_name in patterns
    )
