"""
pgloader, Debian's package: a table's copy, with its indexes.

The idea: it makes the table itself, as its users let it, and its time is that of the whole process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import target
from benchmarks.kept import Sums
from benchmarks.peers.mariadb import NOTE, loaded, private_mariadb, source_sums
from benchmarks.peers.peer import CannotRun, Ready, Scene, Turn
from benchmarks.processes import measure
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
    """From MariaDB to PostgreSQL, the table's copy."""

    name = "pgloader"
    results = frozenset(("snapshot",))

    @contextmanager
    def ready(self, scene: Scene) -> Iterator[Ready]:
        """The program, and a source with the table."""
        words = _program()
        said = run([*words, "--version"], purpose="asking pgloader", deadline_seconds=60)
        version = said.partition('"')[2].partition('"')[0]
        with private_mariadb() as source:
            loaded(source.url, scene.workload)
            expected = source_sums(source.url, scene.workload.form)
            yield Ready(version, lambda: _load(scene, words, source.url, expected), NOTE)


def _program() -> list[str | Path]:
    """An installed pgloader, or an unpacked one with its libraries.

    Its image lies behind the program in one file, so it cannot be run through another loader.
    """
    found = shutil.which("pgloader")
    if found is not None:
        return [found]
    root = BUNDLE.root()
    libraries = next(iter(root.glob("usr/lib/*-linux-gnu*/libc.so.6")), None)
    if libraries is None:
        raise CannotRun(f"{root} has no libraries for this machine")
    return ["env", f"LD_LIBRARY_PATH={libraries.parent}", root / "usr" / "bin" / "pgloader"]


def _load(scene: Scene, words: list[str | Path], source_url: str, expected: Sums) -> Turn:
    form = scene.workload.form
    with scene.target.database() as url:
        file = scene.folder / "pgloader.load"
        file.touch(0o600)
        source = f"{source_url}{DATABASE}"
        file.write_text(COMMAND.format(source=source, target=url, table=form.name))
        scene.target.calm()
        usage = measure([*words, "--root-dir", scene.folder, file], scene.folder / "pgloader.log")
        return Turn(
            seconds=usage.wall_seconds,
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=target.sums(url, form) == expected,
        )
