"""
The settings of the PostgreSQL sink.
"""

from __future__ import annotations

import msgspec

from engine.databases.postgres.settings import check_url
from engine.databases.side import TARGET
from engine.toolkit.policies import StoragePolicies

__all__ = ["PostgresSettings"]


class PostgresSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A PostgreSQL database as the target, and how long the sink waits for it.

    ``url``: a libpq connection URI or string. ``schema``: the schema of all tables; if it is empty,
    tables go to schemas that are named as the source's.

    ``timeout_seconds`` bounds connecting, the wait for a lock, and each small statement or piece of
    a COPY. ``statement_timeout_seconds`` bounds a statement that works on many rows, such as
    CREATE INDEX. A connection that is silent for longer counts as lost.

    ``application_name``: the name of the sessions in ``pg_stat_activity``.

    ``values``: how values are stored, see ``engine.toolkit.policies.StoragePolicies``.

    Raises ConfigError for a URL that cannot be read, see ``check_url``.
    """

    url: str
    schema: str = ""
    timeout_seconds: float = 30.0
    statement_timeout_seconds: float = 6 * 3600.0
    application_name: str = "tailrace"
    values: StoragePolicies = StoragePolicies()

    def __post_init__(self) -> None:
        check_url(self.url, TARGET)
