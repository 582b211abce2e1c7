"""
mysql-replication: the log decoded by the library that most Python programs use for it.

It decodes every value and applies nothing, as the engine does in these results. The package is in
Tailrace's extra ``bench``, so this peer needs no environment of its own.
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

from benchmarks.harness.processes import Usage, measure
from benchmarks.harness.source import connect, table_sums
from benchmarks.peers.environments import program
from benchmarks.peers.peer import (
    CannotRun,
    PeerRun,
    PreparedPeer,
    Scenario,
    address,
    start_position,
)
from benchmarks.workloads import TableSpec

__all__ = ["MySQLReplication"]

PACKAGE = "mysql-replication"
#: The columns in the checksum: those whose values have the same text in MySQL and in Python.
COLUMNS = {
    "sbtest": "id k c pad",
    "orders": "id customer warehouse external_id total rate name city note status reference",
}


class MySQLReplication:
    """Decoding only."""

    name = "mysql-replication"
    results = frozenset(("decode-bulk", "decode-single", "decode-orders"))

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Compute the source's checksum over the compared columns."""
        try:
            version = importlib.metadata.version(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            raise CannotRun(
                f"needs the package {PACKAGE}", hint="pip install 'tailrace[bench]'"
            ) from None
        script, spec = program("mysql_replication_decode.py"), scenario.workload.table
        columns = COLUMNS[spec.name].split()
        with closing(connect(scenario.source_url)) as session:
            expected = table_sums(session, _only(spec, columns))
        run = _Run(scenario, script, columns)
        yield PreparedPeer(version, lambda: run.measure(expected.rows, expected.checksum))


def _only(spec: TableSpec, columns: list[str]) -> TableSpec:
    texts = (f"IFNULL(CAST({column} AS CHAR), '~')" for column in columns)
    return dataclasses.replace(spec, mysql_text=", ".join(texts))


@dataclasses.dataclass(frozen=True)
class _Run:
    scenario: Scenario
    script: Path
    columns: list[str]

    def measure(self, rows: int, checksum: int) -> PeerRun:
        """Decode the log for the time, and once more for the checksum."""
        usage, found = self._read(check=False)
        _, checked = self._read(check=True)
        return PeerRun(
            seconds=found["seconds"],
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=(found["rows"], checked["checksum"]) == (rows, checksum),
        )

    def _read(self, check: bool) -> tuple[Usage, dict[str, Any]]:
        source = address(self.scenario.source_url)
        settings = {
            "source": {name: source[name] for name in ("host", "port", "user", "password")},
            "position": start_position(self.scenario.backlog),
            "table": self.scenario.table,
            "columns": self.columns,
            "check": check,
        }
        file, log = self.scenario.folder / "settings.json", self.scenario.folder / "decode.log"
        file.touch(0o600)
        file.write_bytes(msgspec.json.encode(settings))
        usage = measure([sys.executable, self.script, file], log)
        return usage, msgspec.json.decode(log.read_bytes())
