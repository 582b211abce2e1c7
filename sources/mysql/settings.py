"""
The settings of a MySQL or MariaDB source, and of binary log files as a source.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

import msgspec

from engine.databases.mysql.settings import Tls, database_of
from engine.errors import ConfigError
from engine.schema import TableId
from engine.toolkit.policies import ReadPolicies

__all__ = ["BinlogFileSettings", "MySQLSettings", "log_path", "selector"]

_SYSTEM_SCHEMAS: Final = ("information_schema", "mysql", "performance_schema", "sys")


ALL_TABLES: Final = ("*.*",)


class MySQLSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A MySQL or MariaDB server to follow.

    The settings of the connection are ``url``, ``timeout_seconds`` (default 30), ``tls`` (default
    ``prefer``) and the other TLS settings, see
    ``engine.databases.mysql.settings.ConnectionSettings``.

    ``tables``: patterns ``schema.table`` of the tables to follow, with ``*`` and ``?``; by default
    all tables of the database in the URL, or, if it names none, of the server. ``exclude``:
    patterns of the tables to leave out of these. Names are case-sensitive if they are so on the
    server. The server's system schemas are never followed.

    ``server_id``: the id of this replica, 1 to 4294967295, which no other replica uses; 0 (default)
    chooses a random id.

    ``heartbeat_seconds``: how often an idle server sends a heartbeat (default 5). After three
    missing heartbeats the connection counts as lost.

    ``values``: how values are read, see ``engine.toolkit.policies.ReadPolicies``.
    """

    url: str
    tables: tuple[str, ...] = ALL_TABLES
    exclude: tuple[str, ...] = ()
    server_id: int = 0
    heartbeat_seconds: float = 5.0
    timeout_seconds: float = 30.0
    tls: Tls = "prefer"
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    values: ReadPolicies = ReadPolicies()

    def __post_init__(self) -> None:
        if not 0 <= self.server_id < 1 << 32:
            raise ConfigError(f"server_id is {self.server_id}", hint="choose 1 to 4294967295, or 0")
        if self.heartbeat_seconds <= 0 or self.timeout_seconds <= 0:
            raise ConfigError("heartbeat_seconds and timeout_seconds must be above 0")
        if self.tables == ALL_TABLES and (database := database_of(self.url)):
            msgspec.structs.force_setattr(self, "tables", (f"{database}.*",))


class BinlogFileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Binary log files on disk, which are read without a server.

    ``url``: ``mysql-binlog:`` and the path of a file, of a folder, or a pattern such as
    ``/backup/binlog.*``. Files are read in the order of the numbers at the end of their names.
    ``tables`` and ``exclude``: as for a server.

    ``schema``: the path of a schema dump (``mysqldump --no-data``), or of a folder of ``.sql``
    files with CREATE statements. They describe the tables at the beginning of the first log file.
    A log without the names of columns needs them (all but ``binlog_row_metadata=FULL``).

    ``lower_case_table_names``: the server's setting, 0 or 1. With 1 (the default on Windows) a log
    has names in lower case, and statements have them as they were typed. With ``unknown`` (default)
    a table whose name occurs in both forms is an error.

    ``values``: as for a server.
    """

    url: str
    tables: tuple[str, ...] = ALL_TABLES
    exclude: tuple[str, ...] = ()
    schema: str = ""
    lower_case_table_names: Literal[0, 1, "unknown"] = "unknown"
    values: ReadPolicies = ReadPolicies()

    @property
    def fold_names(self) -> bool:
        """Whether the server stored names in lower case."""
        return self.lower_case_table_names == 1

    @property
    def select(self) -> Callable[[TableId], bool]:
        """The function that tells whether a table is followed. Raises ConfigError."""
        return selector(self.tables, self.exclude, fold_names=self.fold_names)


def log_path(settings: BinlogFileSettings) -> Path:
    """The path or pattern in the URL. Raises ConfigError."""
    scheme, _, path = settings.url.partition(":")
    if scheme != "mysql-binlog" or not path:
        raise ConfigError(
            "the URL does not name binary log files", hint="write mysql-binlog:/path/binlog.000001"
        )
    return Path(unquote(path.removeprefix("//")))


def selector(
    tables: tuple[str, ...], exclude: tuple[str, ...], *, fold_names: bool = False
) -> Callable[[TableId], bool]:
    """The function that tells whether a table is followed; it remembers its answers.

    ``fold_names``: names are not case-sensitive. Raises ConfigError for a wrong pattern.
    """
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
                schema not in _SYSTEM_SCHEMAS
                and _matches(wanted, schema, name)
                and not _matches(unwanted, schema, name)
            )
        return answer

    return select


def _pattern(text: str, fold_names: bool) -> tuple[str, str]:
    schema, dot, name = (text.lower() if fold_names else text).partition(".")
    if not (schema and dot and name):
        raise ConfigError(
            f"{text!r} is not a pattern of tables", hint="write schema.table, such as shop.*"
        )
    return schema, name


def _matches(patterns: list[tuple[str, str]], schema: str, name: str) -> bool:
    return any(
        fnmatchcase(schema, in_schema) and fnmatchcase(name, in_name)
        for in_schema, in_name in patterns
    )
