"""
The PostgreSQL sink's part of the configuration.
"""

from __future__ import annotations

import msgspec

__all__ = ["PostgresSettings"]


class PostgresSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the target is, and how long the sink waits for it.

    ``url`` is a libpq connection URI or string. Tables go to schemas named as the source's, or all
    to ``schema`` where that is set. ``timeout_seconds`` bounds connecting, waiting for a lock, and
    each small statement; ``statement_timeout_seconds`` bounds a statement that works on many rows,
    such as the building of an index. A connection that stays silent longer counts as lost.
    """

    url: str
    schema: str = ""
    timeout_seconds: float = 30.0
    statement_timeout_seconds: float = 6 * 3600.0
    application_name: str = "tailrace"
