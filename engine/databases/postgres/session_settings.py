"""
The settings that each of our PostgreSQL sessions makes.

A server, a database and a role have defaults for a session's settings (ALTER DATABASE … SET, ALTER
ROLE … SET). Some change what a text means, hide a function behind another of its name, or end a
session that is at work. So each session gets fixed values.

Sources: "Client Connection Defaults" and "Version and Platform Compatibility" in PostgreSQL's
manual.
docs/what-the-log-does-not-say.md lists these settings with their effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["SETTINGS", "set_statements"]

SETTINGS: Final = {
    # What a text means, in a statement and in its result.
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    # A policy that hides rows raises an error instead.
    "row_security": "off",
    # Transactions.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # The longest duration of a statement, a wait, an idle session, and a session after an error.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "exit_on_error": "off",
    "client_min_messages": "warning",
}
#: Further timeouts, by the PostgreSQL version that introduced them.
_LATER_TIMEOUTS: Final = {"idle_session_timeout": 14, "transaction_timeout": 17}

# The names of pg_catalog come before those of other schemas, also if the session's own search_path
# names it later. The rest of the path is kept, for the functions of triggers on the target.
_SEARCH_PATH: Final = (
    "SELECT pg_catalog.set_config('search_path', pg_catalog.concat('pg_catalog',"
    " pg_catalog.regexp_replace(pg_catalog.current_setting('search_path'), '^.', ', \\&')), false)"
)


def set_statements(server_version: int, more: Mapping[str, str]) -> str:
    """The statements that make the settings, and those of ``more``, in one text.

    ``server_version`` is libpq's number, such as 150018.
    """
    values = {**SETTINGS, **more}
    for name, since in _LATER_TIMEOUTS.items():
        if server_version // 10000 >= since:
            values[name] = "0"
    sets = [f"SET {name} = {_literal(value)}" for name, value in values.items()]
    return "; ".join([*sets, _SEARCH_PATH])


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
