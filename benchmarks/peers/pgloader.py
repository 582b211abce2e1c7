"""
pgloader, from its Debian package: one load of a table with its indexes.

It creates the table itself, as its users usually let it. Its time is that of the whole process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.harness import target
from benchmarks.harness.processes import measure
from benchmarks.harness.source import Sums
from benchmarks.peers.mariadb import NOTE, create_after, private_mariadb, source_sums
from benchmarks.peers.peer import CannotRun, PeerRun, PreparedPeer, Scenario
from benchmarks.workloads import DATABASE
from engine.sandbox.command import run
from engine.sandbox.debian import Bundle

__all__ = ["BUNDLE", "Pgloader"]

BUNDLE = Bundle("pgloader", "bookworm", ("pgloader",), 60)
COMMAND = """
LOAD DATABASE FROM {source} INTO {target}
WITH include drop, create tables, create indexes, reset no sequences, workers = 2, concurrency = 1
INCLUDING ONLY TABLE NAMES MATCHING '{table}';
"""


class Pgloader:
    """From MariaDB to PostgreSQL, the load of a table."""

    name = "pgloader"
    results = frozenset(("snapshot",))

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Find or unpack the program, and start a source with the table."""
        command = _program()
        purpose = "asking for the version of pgloader"
        output = run([*command, "--version"], purpose=purpose, deadline_seconds=60)
        version = output.partition('"')[2].partition('"')[0]
        with private_mariadb() as source:
            create_after(source.url, scenario.workload)
            expected = source_sums(source.url, scenario.workload.table)
            load = partial(_load, scenario, command, source.url, expected)
            yield PreparedPeer(version, load, NOTE)


def _program() -> list[str | Path]:
    """The command of an installed pgloader, or of an unpacked one with its libraries.

    The Lisp image is appended to the executable, so it cannot be started through the unpacked
    dynamic loader as the other programs are.
    """
    found = shutil.which("pgloader")
    if found is not None:
        return [found]
    root = BUNDLE.root()
    libraries = next(iter(root.glob("usr/lib/*-linux-gnu*/libc.so.6")), None)
    if libraries is None:
        raise CannotRun(f"{root} has no libraries for this machine")
    return ["env", f"LD_LIBRARY_PATH={libraries.parent}", root / "usr" / "bin" / "pgloader"]


def _load(
    scenario: Scenario, command: list[str | Path], source_url: str, expected: Sums
) -> PeerRun:
    spec = scenario.workload.table
    with scenario.target.database() as url:
        file = scenario.folder / "pgloader.load"
        file.touch(0o600)
        source = f"{source_url}{DATABASE}"
        file.write_text(COMMAND.format(source=source, target=url, table=spec.name))
        scenario.target.checkpoint()
        command = [*command, "--root-dir", scenario.folder, file]
        usage = measure(command, scenario.folder / "pgloader.log")
        return PeerRun(
            seconds=usage.wall_seconds,
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=target.sums(url, spec) == expected,
        )
