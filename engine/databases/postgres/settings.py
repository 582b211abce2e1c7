"""
The PostgreSQL sink's part of the configuration.
"""

from __future__ import annotations

import msgspec
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from engine.errors import ConfigError

__all__ = ["PostgresSettings"]


class PostgresSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the target is, and how long the sink waits for it.

    ``url`` is a libpq connection URI or string. Tables go to schemas named as the source's, or all
    to ``schema`` where that is set. ``timeout_seconds`` bounds connecting, waiting for a lock, and
    each small statement or piece of a copy; ``statement_timeout_seconds`` bounds a statement that
    works on many rows, such as the building of an index. A connection that stays silent longer
    counts as lost.

    Raises ``ConfigError`` for a URL that cannot be read, or not as it was meant; it never shows it.
    """

    url: str
    schema: str = ""
    timeout_seconds: float = 30.0
    statement_timeout_seconds: float = 6 * 3600.0
    application_name: str = "tailrace"

    def __post_init__(self) -> None:
        try:
            parts = conninfo_to_dict(self.url)
        except ProgrammingError:
            parts = None
        if parts is None or _is_misread({name: str(value) for name, value in parts.items()}):
            # libpq's text would show the URL, and so the password.
            raise ConfigError(
                "the target's URL cannot be read",
                hint="It is postgresql://user:password@host:port/database; in the password, write"
                " % as %25, / as %2F, @ as %40 and : as %3A.",
            ) from None


def _is_misread(parts: dict[str, str]) -> bool:
    """Whether a part of the password stands where libpq would show it: behind an unescaped ``/`` or
    ``@``, the rest of the URL is taken for something else."""
    host, port = parts.get("host", ""), parts.get("port", "0")
    return (
        "@" in host[1:]
        or not port.replace(",", "0").isdecimal()
        or ("user" not in parts and "@" in parts.get("dbname", ""))
    )
