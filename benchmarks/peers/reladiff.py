"""
reladiff, the successor of data-diff: the comparison of a table by checksums in both databases.

Its checksums need the function MD5, which MySQL 9.7 does not have. Its time leaves out the start
of the interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import msgspec

from benchmarks.harness.processes import measure
from benchmarks.peers.environments import Environment, program
from benchmarks.peers.mariadb import NOTE, create_after, private_mariadb
from benchmarks.peers.peer import PeerRun, PreparedPeer, Scenario
from benchmarks.workloads import DATABASE

__all__ = ["ENVIRONMENT", "Reladiff"]

ENVIRONMENT = Environment("reladiff", ("reladiff[mysql,postgresql]>=0.6",), 60)
KEY, *COLUMNS = "id", "k", "c", "pad"


class _Compared(msgspec.Struct, frozen=True):
    """What the program prints."""

    seconds: float
    differences: int


class Reladiff:
    """The comparison of MariaDB with PostgreSQL."""

    name = "reladiff"
    results = frozenset(("verify",))

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Create the environment if it does not exist, and a source with the table."""
        ENVIRONMENT.python()
        with private_mariadb() as source:
            create_after(source.url, scenario.workload)
            yield PreparedPeer(ENVIRONMENT.version(), partial(_compare, scenario, source.url), NOTE)


def _compare(scenario: Scenario, source_url: str) -> PeerRun:
    assert scenario.base is not None
    log = scenario.folder / "reladiff.json"
    urls = f"{source_url}{DATABASE}", scenario.base
    script = program("reladiff_compare.py")
    usage = measure([ENVIRONMENT.python(), "-P", script, *urls, scenario.table, KEY, *COLUMNS], log)
    *_, last = log.read_bytes().splitlines()  # warnings come first
    compared = msgspec.json.decode(last, type=_Compared)
    return PeerRun(
        seconds=compared.seconds,
        wall_seconds=usage.wall_seconds,
        cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
        correct=compared.differences == 0,
    )
