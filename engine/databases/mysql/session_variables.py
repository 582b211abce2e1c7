"""
The session variables that each of our connections sets.

A server's global variables and its ``init_connect`` are the defaults of every new session. Some
change what a statement returns: ``sql_select_limit`` cuts results short, ``system_versioning_asof``
reads history. So each session gets fixed values. ``SET … = DEFAULT`` would take the global value.

Sources: "Server System Variables" in the manuals of MySQL and of MariaDB.
docs/what-the-log-does-not-say.md lists these variables with their effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = [
    "IDLE_SECONDS",
    "LOCK_WAIT_SECONDS",
    "VARIABLES",
    "Variable",
    "assignments",
]

#: How long the server keeps an idle session.
IDLE_SECONDS: Final = 28_800
#: How long a statement waits for a lock on a table's definition. The client's own timeout is
#: shorter.
LOCK_WAIT_SECONDS: Final = 86_400

_Version = tuple[int, ...]
_ALWAYS: Final[_Version] = ()
_NEVER: Final[_Version] = (1000,)
#: From here on the variables ``tx_…`` are called ``transaction_…``.
_RENAMED: Final[tuple[_Version, _Version]] = ((5, 7, 20), (11, 1, 1))


class Variable(NamedTuple):
    """A session variable, its value as SQL, and the versions that it is set on: of MySQL from
    ``mysql`` on and before ``mysql_end``, and of MariaDB likewise.
    """

    name: str
    value: str
    mysql: _Version = _ALWAYS
    mariadb: _Version = _ALWAYS
    mysql_end: _Version = _NEVER
    mariadb_end: _Version = _NEVER

    def exists(self, mariadb: bool, version: Sequence[int]) -> bool:
        """Whether the variable is set on a server."""
        if mariadb:
            return self.mariadb <= tuple(version) < self.mariadb_end
        return self.mysql <= tuple(version) < self.mysql_end


VARIABLES: Final = (
    # The results of statements.
    Variable("sql_mode", "'ALLOW_INVALID_DATES'"),
    Variable("time_zone", "'+00:00'"),
    Variable("collation_connection", "'utf8mb4_bin'"),
    Variable("sql_select_limit", "18446744073709551615"),
    Variable("sql_big_selects", "1"),
    Variable("sql_auto_is_null", "0"),
    Variable("sql_quote_show_create", "1"),
    Variable("sql_buffer_result", "0"),
    # MariaDB 10.11 finds nothing by a converted list if the temporary table is small.
    Variable("in_predicate_conversion_threshold", "0", mysql=_NEVER, mariadb=(10, 3, 18)),
    Variable("max_sort_length", "8192"),
    Variable("sort_buffer_size", "2097152"),  # MariaDB cannot sort with less than max_sort_length
    # The joined texts of a range (engine.toolkit.checksums.MOST_BYTES); longer ones are cut off.
    Variable("group_concat_max_len", "134217728"),
    Variable("old_mode", "''", mysql=_NEVER, mariadb=(5, 5, 35)),
    # Of this variable alone DEFAULT is not the global value. It has no other literal for "now".
    Variable("system_versioning_asof", "DEFAULT", mysql=_NEVER, mariadb=(10, 3, 4)),
    Variable("use_secondary_engine", "OFF", mysql=(8, 0, 13), mariadb=_NEVER),
    Variable(
        "show_gipk_in_create_table_and_information_schema",
        "1",
        mysql=(8, 0, 30),
        mariadb=_NEVER,
    ),
    # The values of virtual columns, which the server computes when they are read.
    Variable("block_encryption_mode", "'aes-128-ecb'", mysql=(5, 6, 17), mariadb=(11, 2)),
    Variable("default_regex_flags", "''", mysql=_NEVER, mariadb=(10, 0, 11)),
    Variable("default_week_format", "0"),
    Variable("div_precision_increment", "4"),
    Variable("lc_time_names", "'en_US'"),
    # Plans. With a shallow search for a plan MySQL 9.7 needs over a minute for the
    # check of 2,500 tables. Without ranges it reads a table from its start for each chunk.
    Variable("optimizer_search_depth", "62"),
    Variable("range_optimizer_max_mem_size", "8388608", mysql=(5, 7, 9), mariadb=_NEVER),
    # Error messages.
    Variable("lc_messages", "'en_US'"),
    # Transactions.
    Variable("autocommit", "1"),
    Variable("completion_type", "0"),
    Variable("transaction_isolation", "'REPEATABLE-READ'", *_RENAMED),
    Variable("transaction_read_only", "0", *_RENAMED),
    Variable("tx_isolation", "'REPEATABLE-READ'", (), (), *_RENAMED),
    Variable("tx_read_only", "0", (5, 6, 5), (10,), *_RENAMED),
    # The longest duration of a statement, a wait and an idle session.
    Variable("max_execution_time", "0", mysql=(5, 7, 8), mariadb=_NEVER),
    Variable("max_statement_time", "0", mysql=_NEVER, mariadb=(10, 1, 1)),
    Variable("lock_wait_timeout", str(LOCK_WAIT_SECONDS)),
    Variable("net_read_timeout", "60"),
    Variable("net_write_timeout", "600"),
    Variable("wait_timeout", str(IDLE_SECONDS)),
    Variable("idle_transaction_timeout", "0", mysql=_NEVER, mariadb=(10, 3)),
    Variable("idle_readonly_transaction_timeout", "0", mysql=_NEVER, mariadb=(10, 3)),
    Variable("idle_write_transaction_timeout", "0", mysql=_NEVER, mariadb=(10, 3)),
)


def assignments(mariadb: bool, version: Sequence[int]) -> list[str]:
    """The assignments for SET, ``name = value``, of the variables that a server has."""
    return [
        f"SESSION {each.name} = {each.value}" for each in VARIABLES if each.exists(mariadb, version)
    ]
