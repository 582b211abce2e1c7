"""
The global variables of a MySQL or MariaDB server, set for the time of a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from engine.databases.mysql.connect import query
from tests.support.servers import AnyServer, connect_mysql

__all__ = ["literal", "set_globally", "variables"]


@contextmanager
def set_globally(server: AnyServer, values: Mapping[str, object]) -> Iterator[None]:
    """Inside, the global variables have these values, as far as the server has the variables."""
    with connect_mysql(server) as connection, ExitStack() as restore:
        query(connection, "SET sql_mode = '', sql_select_limit = 18446744073709551615")
        before = variables(connection, "GLOBAL")
        for name, value in values.items():
            if name in before:
                statement = f"SET GLOBAL {name} = {literal(before[name])}"
                restore.callback(query, connection, statement)
                query(connection, f"SET GLOBAL {name} = %s", (value,))
        yield


def variables(connection: Any, scope: str) -> dict[str, str]:
    """The variables of a scope, by their names in lower case."""
    rows = query(connection, f"SHOW {scope} VARIABLES")
    return {name.lower(): value for name, value in rows}


def literal(value: str) -> str:
    """A value of SHOW VARIABLES as an SQL literal of its type."""
    if value == "DEFAULT" or re.fullmatch(r"-?[0-9.]+", value):
        return value
    return "'" + value.replace("'", "''") + "'"
