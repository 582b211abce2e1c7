"""
The adapter to PyMySQL's private parts: the names exist, and no other module uses one.
"""

from __future__ import annotations

import ast
import inspect
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql import connections
from pymysql.connections import Connection
from pymysql.constants import COMMAND

from engine.databases.mysql import pymysql_adapter
from engine.databases.mysql.pymysql_adapter import (
    force_close,
    limit_timeouts,
    read_ok,
    return_text,
    send_command,
    socket_of,
    take_socket,
)
from tests.support.servers import AnyServer, connect_mysql

ROOT = Path(__file__).parents[2]
ADAPTER = Path(pymysql_adapter.__file__)
PACKAGES = ("engine", "sources", "sinks", "benchmarks")


def unconnected() -> Connection[Any]:
    return Connection(
        host="127.0.0.1", defer_connect=True, ssl_disabled=True, connect_timeout=3, read_timeout=7
    )


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


#: The private attributes that a connection of PyMySQL has before it is connected.
PRIVATE = frozenset(filter(is_private, dir(unconnected())))


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each use of a private attribute of another object, with its line: ``other._name``,
    ``getattr(other, "_name")`` and such; ``self._name`` and ``cls._name`` do not count.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and is_private(str(node.value)):
            yield node.lineno, str(node.value)


def test_the_check_finds_private_names() -> None:
    source = "connection._sock\ngetattr(connection, '_rfile')\nself._sock\nself.c._result"
    found = set(private_names(ast.parse(source)))
    assert found == {(1, "_sock"), (2, "_rfile"), (4, "_result")}
    assert {name for _, name in found} <= PRIVATE


def test_no_other_module_uses_private_parts_of_pymysql() -> None:
    users = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != ADAPTER
        for line, name in private_names(ast.parse(path.read_text(encoding="utf-8")))
        if name in PRIVATE
    ]
    assert users == []


def test_the_private_names_of_the_adapter_exist() -> None:
    used = {name for _, name in private_names(ast.parse(ADAPTER.read_text(encoding="utf-8")))}
    assert {"_sock", "_execute_command", "_force_close", "_read_ok_packet"} <= used
    connection = unconnected()
    source = inspect.getsource(connections)
    # ``_current_timeout`` is set by ``connect``, so an unconnected connection does not have it.
    missing = {name for name in used if not hasattr(connection, name) and name not in source}
    assert missing == set()
    assert connection.ssl is False
    assert "self.ctx.wrap_socket(" in source
    assert "exc.original_exception = e" in source


def test_the_timeout_of_the_login_is_that_of_connecting() -> None:
    connection = unconnected()
    timeouts = vars(connection)
    with limit_timeouts(connection):
        assert (timeouts["_read_timeout"], timeouts["_write_timeout"]) == (3, 3)
    assert (timeouts["_read_timeout"], timeouts["_write_timeout"]) == (7, None)


def test_a_closed_connection_has_no_socket() -> None:
    connection = unconnected()
    force_close(connection)
    assert socket_of(connection) is None
    with pytest.raises(pymysql.InterfaceError):
        take_socket(connection, 1.0)


def test_pymysql_sets_its_own_timeout_again(mysql: AnyServer) -> None:
    connection = connect_mysql(mysql)
    try:
        before = connected_socket(connection).gettimeout()
        send_command(connection, COMMAND.COM_QUERY, "DO 1")
        assert take_socket(connection, 12.5).gettimeout() == 12.5
        read_ok(connection)
        assert connected_socket(connection).gettimeout() == before
        return_text(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1, NULL, CAST('2000-01-01' AS DATE)")
            assert cursor.fetchall() == (("1", None, "2000-01-01"),)
    finally:
        connection.close()


def connected_socket(connection: Connection[Any]) -> socket.socket:
    used = socket_of(connection)
    assert used is not None
    return used
