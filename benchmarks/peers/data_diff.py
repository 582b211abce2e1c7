"""
data-diff, and reladiff, its successor: the comparison of a table by checksums in both databases.

Their checksums need the function MD5, which MySQL 9.7 does not have. Their time leaves out the
start of the interpreter.
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

__all__ = ["DATA_DIFF", "RELADIFF", "DataDiff"]

KEY, *COLUMNS = "id", "k", "c", "pad"


class _Compared(msgspec.Struct, frozen=True):
    """What the program prints."""

    seconds: float
    differences: int


class DataDiff:
    """The comparison of MariaDB with PostgreSQL by one of the two; ``package`` is what is imported.
    The first call of ``prepare`` downloads it.
    """

    results = frozenset(("verify",))

    def __init__(self, package: str, environment: Environment) -> None:
        self.name = environment.name
        self.environment = environment
        self._package = package

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Create the environment if it does not exist, and a source with the table."""
        self.environment.python()
        with private_mariadb() as source:
            create_after(source.url, scenario.workload)
            compare = partial(self._compare, scenario, source.url)
            yield PreparedPeer(self.environment.version(), compare, NOTE)

    def _compare(self, scenario: Scenario, source_url: str) -> PeerRun:
        assert scenario.base is not None
        log = scenario.folder / f"{self.name}.json"
        urls = f"{source_url}{DATABASE}", scenario.base
        script = program("data_diff_compare.py")
        words = [self._package, *urls, scenario.table, KEY, *COLUMNS]
        usage = measure([self.environment.python(), "-P", script, *words], log)
        *_, last = log.read_bytes().splitlines()  # warnings come first
        compared = msgspec.json.decode(last, type=_Compared)
        return PeerRun(
            seconds=compared.seconds,
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=compared.differences == 0,
        )


RELADIFF = DataDiff("reladiff", Environment("reladiff", ("reladiff[mysql,postgresql]>=0.6",), 60))
#: Its requirements without bounds have versions by now that it does not work with.
DATA_DIFF = DataDiff(
    "data_diff",
    Environment(
        "data-diff",
        ("data-diff[mysql]", "psycopg2-binary", "pydantic==1.10.12", "dbt-core<1.9"),
        250,
    ),
)
