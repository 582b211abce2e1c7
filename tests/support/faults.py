"""
A mirrored database on which a test causes a fault, as an operator meets it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from engine.databases.mysql.connect import query
from engine.sandbox import SandboxUnavailable
from tests.support.commands import tailrace
from tests.support.compare import differences
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import Writer
from tests.support.prometheus import Prometheus
from tests.support.servers import do_without
from tests.support.waiting import wait_until

__all__ = ["Mirror"]


class Mirror:
    """A mirrored database with the table t, and an engine that follows it."""

    def __init__(self, writer: Writer, source: str, target: str, folder: Path) -> None:
        self.writer, self.target, self.folder = writer, target, folder
        writer("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)")
        self.config = write_config(folder, source, target, f"{writer.database}.*")
        self.engine: EngineProcess

    def write_config(self, more: str) -> None:
        """Add to the configuration, whose last part is that of the sink."""
        with self.config.open("a") as config:
            config.write(more)

    @contextmanager
    def running(self, *, hurried: bool = False, **variables: Any) -> Iterator[Prometheus]:
        """The engine runs, and a Prometheus watches it, which may be ``hurried``."""
        with EngineProcess(self.config, **variables) as self.engine:
            folder = self.folder / str(self.engine.process.pid)
            folder.mkdir()
            try:
                prometheus = Prometheus(folder, self.engine.port, hurried=hurried)
            except SandboxUnavailable as error:
                do_without(error)
            with prometheus:
                self.wait_level()
                yield prometheus

    def insert(self, value: str = "x") -> None:
        self.writer(f"INSERT INTO t (v) VALUES ('{value}')")

    def wait_error(self, kind: str, text: str) -> dict[str, Any]:
        """Wait for an error that is retried. It has a remedy, and a line in the log."""

        def newest(status: dict[str, Any]) -> bool:
            errors = status["errors"]
            return bool(errors) and errors[0]["kind"] == kind and text in errors[0]["message"]

        error: dict[str, Any] = self.engine.wait_status(newest, what=f"{kind}, {text}")["errors"][0]
        assert error["retried"]
        assert error["remedy"]
        assert "CONFIG" not in error["remedy"]
        # Of errors of one class that follow each other, the log has the first line at once.
        assert wait_until(lambda: self.logged(kind), what="a line of the log")[0]["hint"]
        return error

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """The lines of the log about errors of a class."""
        lines = self.engine.log.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [it for it in found if it.get("error_class") == kind]

    def wait_level(self) -> None:
        """The pipeline streams, and both sides are equal."""
        self.engine.wait_status(lambda it: it["state"] == "streaming")
        with psycopg.connect(self.target, autocommit=True) as there:
            wait_until(
                lambda: not differences(self.writer.connection, there, self.writer.database),
                what="equal sides",
            )

    def remedy(self, code: str) -> str:
        """What `tailrace check` says to type about an error."""
        found = json.loads(tailrace(1, "check", self.config, "--json"))
        (action,) = [it["action"] for it in found if (it["code"], it["level"]) == (code, "error")]
        return str(action)

    def sessions(self, condition: str) -> list[int]:
        """The sessions of the source for which a condition on the process list holds."""
        listed = f"SELECT id FROM information_schema.processlist WHERE {condition}"
        return [int(id) for (id,) in query(self.writer.connection, listed)]

    def kill(self, sessions: Iterable[int]) -> None:
        """End sessions of the source, unless they have ended."""
        for id in sessions:
            with suppress(pymysql.MySQLError):
                self.writer(f"KILL {id}")
