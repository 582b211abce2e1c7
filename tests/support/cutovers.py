"""
What tests of the cutover share: a source that is not left frozen, an application's user, SIGKILL at
a step, the record.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pymysql
import pytest

from engine.cli.main import main
from engine.databases.mysql.connect import query
from tests.support.engine_process import EngineProcess
from tests.support.global_variables import variables
from tests.support.servers import AnyServer, connect_mysql

__all__ = [
    "RECORDED",
    "STEPS",
    "application_of",
    "become_ready",
    "killed_at",
    "record",
    "session_of",
    "thawed_at_the_end",
]

STEPS = ("freeze", "drain", "verify", "finish", "arm", "switch", "stop")
#: The steps in a record.
RECORDED = ("check", *STEPS)


@contextmanager
def thawed_at_the_end(server: AnyServer) -> Iterator[Callable[[], dict[str, str]]]:
    """Returns a function that reads what the server says of writes. Others use the server, too."""
    names = ("super_read_only", "read_only")
    with connect_mysql(server) as connection:

        def now() -> dict[str, str]:
            found = variables(connection, "GLOBAL")
            return {name: found[name] for name in names if name in found}

        before = now()
        try:
            yield now
        finally:
            for name in names:
                if name in before:
                    query(connection, f"SET GLOBAL {name} = {before[name]}")


def become_ready(engine: EngineProcess, config: Path) -> None:
    """Do what a cutover requires: all tables are live and equal, and the schema is complete."""
    engine.wait_live()
    assert main(["schema", "apply", str(config), "--yes"]) == 0
    assert main(["verify", str(config)]) == 0


def killed_at(config: Path, step: str, *options: str) -> None:
    """Run the cutover in the folder of its configuration, and send SIGKILL as soon as it says that
    it begins a step.
    """
    command = [sys.executable, "-P", "-m", "engine.cli", "cutover", str(config), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=config.parent) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(f"{step}: "):
                break
        else:
            pytest.fail(f"the step {step} did not begin: {lines}")
        process.kill()


def record(target: str) -> dict[str, Any]:
    """The newest record."""
    with psycopg.connect(target) as connection:
        row = connection.execute(
            "SELECT record FROM tailrace.cutover ORDER BY number DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    found: dict[str, Any] = json.loads(row[0])
    return found


@contextmanager
def application_of(server: AnyServer, database: str) -> Iterator[str]:
    """A user that may write, by name; the name is the password, too."""
    name = f"u_{uuid4().hex[:12]}"
    with connect_mysql(server) as connection:
        query(connection, f"CREATE USER {name}@'%' IDENTIFIED BY '{name}'")
        query(connection, f"GRANT SELECT, INSERT ON {database}.* TO {name}@'%'")
        try:
            yield name
        finally:
            query(connection, f"DROP USER {name}@'%'")


@contextmanager
def session_of(server: AnyServer, database: str, user: str) -> Iterator[pymysql.Connection]:
    """A session of the application, which may be ended by others."""
    session = pymysql.connect(
        host=server.host, port=server.port, user=user, password=user, database=database
    )
    session.autocommit(True)
    try:
        yield session
    finally:
        with suppress(pymysql.err.Error):
            session.close()
