"""
``tailrace verify`` on the source that data-diff and reladiff have, so that all three compare the
same tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.harness import target
from benchmarks.harness.comparison import compare
from benchmarks.harness.processes import measure
from benchmarks.measurements.bench import engine_command, scratch_folder, write_config
from benchmarks.peers.mariadb import create_after, private_mariadb
from benchmarks.peers.peer import PeerRun, PreparedPeer, Scenario

__all__ = ["TailraceOnMariaDB"]

NOTE: Final = "on a private MariaDB 10.11 with the same workload, as data-diff and reladiff"


class TailraceOnMariaDB:
    """The comparison of MariaDB with its backfilled copy."""

    name = "tailrace"
    results = frozenset(("verify",))

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Create a source with the table, and mirror it."""
        with (
            private_mariadb() as source,
            scenario.target.database() as url,
            scratch_folder() as folder,
        ):
            create_after(source.url, scenario.workload)
            config = write_config(folder, source.url, url)
            measure(engine_command(config, "--until-caught-up"), folder / "engine.log")
            target.execute(url, f"VACUUM ANALYZE {scenario.table}")
            yield PreparedPeer(version("tailrace"), partial(_run, config, scenario), NOTE)


def _run(config: Path, scenario: Scenario) -> PeerRun:
    report, usage = compare(config, scenario.workload.changes)
    return PeerRun(
        seconds=report.seconds,
        wall_seconds=usage.wall_seconds,
        cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
        correct=report.equal,
    )
