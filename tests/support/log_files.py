"""
Records statements of a private server as binary log files, for tests of log files as a source.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from pymysql.connections import Connection

from engine.sandbox import Server
from tests.support.servers import AnyServer

__all__ = ["record"]


def record(
    server: AnyServer, connection: Connection, statements: Iterable[str], folder: Path
) -> Path:
    """Run the statements, and copy the log files that hold them, and only them, to the folder."""
    if not isinstance(server, Server):
        pytest.skip("needs a private server, because it copies the server's log files")
    with connection.cursor() as cursor:
        cursor.execute("FLUSH BINARY LOGS")
        first = _files(server)[-1]
        for statement in statements:
            cursor.execute(statement)
        cursor.execute("FLUSH BINARY LOGS")
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files(server)[:-1]:
        if path.name >= first.name:
            shutil.copyfile(path, folder / path.name)
    return folder


def _files(server: Server) -> list[Path]:
    return sorted(server.layout.data.glob("binlog.[0-9]*[0-9]"))
