"""
What the checks look at: the session, the server's settings, and the tables to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pymysql.connections import Connection

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.errors import SchemaError
from engine.schema import Table, TableId
from sources.mysql.catalog import read_catalog
from sources.mysql.overrides import Overrides
from sources.mysql.server_info import ServerInfo
from sources.mysql.settings import MySQLSettings, selector

__all__ = ["DAY_SECONDS", "Check", "Context", "read_context", "retention_seconds"]

DAY_SECONDS: Final = 86_400


class Context(NamedTuple):
    """What a check looks at.

    ``variables`` are the server's global variables by their names in lower case. ``wanted`` tells
    whether the configuration selects a table. ``tables`` are the existing tables it selects; those
    whose columns cannot be followed are left out, and ``refused`` has their errors.
    """

    session: Connection[Any]
    info: ServerInfo
    settings: MySQLSettings
    variables: dict[str, str]
    wanted: Callable[[TableId], bool]
    tables: Sequence[Table]
    refused: Mapping[TableId, SchemaError]

    @property
    def logs(self) -> bool:
        """Whether the server has a binary log."""
        return self.variables.get("log_bin") == "ON"


#: A check yields its findings. It raises SourceLost if the connection breaks.
Check = Callable[[Context], Iterator[Finding]]


def read_context(session: Connection[Any], info: ServerInfo, settings: MySQLSettings) -> Context:
    """Query the server. Raises SourceError, SourceLost."""
    variables = {name.lower(): value for name, value in query(session, "SHOW GLOBAL VARIABLES")}
    wanted = selector(settings.tables, settings.exclude, fold_names=info.fold_names)
    refused: dict[TableId, SchemaError] = {}
    found = read_catalog(session, wanted, refused)
    tables = list(map(Overrides(settings.values).apply, found))
    return Context(session, info, settings, variables, wanted, tables, refused)


def retention_seconds(variables: Mapping[str, str]) -> float:
    """How long the server keeps its log; 0 if until it is purged by hand."""
    seconds = float(variables.get("binlog_expire_logs_seconds") or 0)
    return seconds or float(variables.get("expire_logs_days") or 0) * DAY_SECONDS
