"""
mysql-replication alone: the log decoded by the library that most Python programs read it with.

The idea: it decodes every value and applies nothing, as the engine does in these measurements. The
engine depends on it for its tests, so it needs no environment of its own.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.kept import connect, form_sums
from benchmarks.peers.environments import program
from benchmarks.peers.peer import CannotRun, Ready, Scene, Turn, address, beginning
from benchmarks.processes import Usage, measure
from benchmarks.workloads import Form

__all__ = ["MySQLReplication"]

PACKAGE = "mysql-replication"
#: The columns that are compared: those whose value has the same text in MySQL and in Python.
COLUMNS = {
    "sbtest": "id k c pad",
    "orders": "id customer warehouse external_id total rate name city note status reference",
}


class MySQLReplication:
    """Decoding only."""

    name = "mysql-replication"
    results = frozenset(("decode-bulk", "decode-single", "decode-orders"))

    @contextmanager
    def ready(self, scene: Scene) -> Iterator[Ready]:
        """The source's own sum over the columns that are compared."""
        try:
            version = importlib.metadata.version(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            raise CannotRun(f"needs the package {PACKAGE}") from None
        script, form = program("mysql_replication_decode.py"), scene.workload.form
        columns = COLUMNS[form.name].split()
        with closing(connect(scene.source_url)) as session:
            expected = form_sums(session, _only(form, columns))
        run = _Run(scene, script, columns)
        yield Ready(version, lambda: run.turn(expected.rows, expected.checksum))


def _only(form: Form, columns: list[str]) -> Form:
    texts = (f"IFNULL(CAST({column} AS CHAR), '~')" for column in columns)
    return dataclasses.replace(form, mysql_text=", ".join(texts))


@dataclasses.dataclass(frozen=True)
class _Run:
    scene: Scene
    script: Path
    columns: list[str]

    def turn(self, rows: int, checksum: int) -> Turn:
        """Decode on the clock, and once more to see that the values are right."""
        usage, found = self._read(check=False)
        _, checked = self._read(check=True)
        return Turn(
            seconds=found["seconds"],
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=(found["rows"], checked["checksum"]) == (rows, checksum),
        )

    def _read(self, check: bool) -> tuple[Usage, dict[str, Any]]:
        source = address(self.scene.source_url)
        settings = {
            "source": {name: source[name] for name in ("host", "port", "user", "password")},
            "position": beginning(self.scene.backlog),
            "table": self.scene.table,
            "columns": self.columns,
            "check": check,
        }
        file, log = self.scene.folder / "settings.json", self.scene.folder / "decode.log"
        file.touch(0o600)
        file.write_bytes(msgspec.json.encode(settings))
        usage = measure([sys.executable, self.script, file], log)
        return usage, msgspec.json.decode(log.read_bytes())
