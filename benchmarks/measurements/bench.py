"""
What all measurements share: where and how often to measure, and how the engine is started.

The engine runs as ``tailrace run`` in a process of its own, with a configuration that names the
source, the target and the tables, and nothing else.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import limits, target
from benchmarks.harness.source import (
    Backlog,
    cached_log,
    drop_database,
    source_info,
    source_server,
    write_backlog,
)
from benchmarks.harness.target import PIPELINE, Mirror, Target
from benchmarks.peers.peer import Peer
from benchmarks.workloads import DATABASE, TableSpec, Workload
from engine.mapping.changes import Mapping
from engine.settings.mapping import TableRules
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource

__all__ = [
    "Bench",
    "Source",
    "engine_command",
    "mapping_of",
    "prepare_base",
    "scratch_folder",
    "write_config",
]


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how often.

    ``source_url`` is a server of the user's own, to which the benchmarks write. If it is None, the
    sources are private servers with cached logs.
    """

    target: Target
    repeat: int
    source_url: str | None = None
    #: The versions and settings of the sources that were used.
    source_info: dict[str, str] = field(default_factory=dict)
    #: Called with a line for each step that begins.
    notify: Callable[[str], None] = lambda text: None
    #: Other programs to measure on the same workloads, and how often.
    peers: Sequence[Peer] = ()
    peer_repeat: int = 1

    @contextmanager
    def source(self, workload: Workload) -> Iterator[Source]:
        """A source whose log holds the workload."""
        if self.source_url is not None:
            self.notify(f"{workload.name}: writing the log")
            with self.own_database(self.source_url):
                yield Source(self.source_url, None, write_backlog(self.source_url, workload))
            return
        data, backlog = cached_log(workload)
        with source_server(data) as server:
            self.source_info.update(source_info(server.url))
            yield Source(server.url, server.process_id, backlog)

    @contextmanager
    def own_database(self, url: str) -> Iterator[None]:
        """Drop the benchmarks' database on the user's server at ``url``, before and afterwards."""
        self.source_info.update(source_info(url))
        drop_database(url)
        try:
            yield
        finally:
            drop_database(url)


@dataclass(frozen=True)
class Source:
    """A source with a backlog; ``process_id`` is None for a server of the user's own."""

    url: str
    process_id: int | None
    backlog: Backlog


def write_config(folder: Path, source_url: str, target_url: str, more: str = "") -> Path:
    """Write the configuration of all measurements: defaults for everything but the two servers.

    ``more`` is further TOML text.
    """
    path = folder / "bench.toml"
    path.touch(mode=0o600)
    path.write_text(
        f'[pipeline]\nname = "{PIPELINE}"\n'
        f'[source]\nurl = {_toml(source_url)}\ntables = ["{DATABASE}.*"]\n'
        f"[sink]\nurl = {_toml(target_url)}\n{more}"
    )
    return path


def mapping_of(spec: TableSpec) -> str:
    """The mapping of a table as TOML text."""
    if not spec.select:
        return ""
    return f'[mapping."{DATABASE}.{spec.name}"]\nselect = {json.dumps(spec.select)}\n'


def _toml(url: str) -> str:
    """The URL as a TOML string, with "$" doubled since it begins a placeholder."""
    return json.dumps(url.replace("$", "$$"))


def engine_command(config: Path, *options: str) -> list[str | Path]:
    """The command that runs the engine with a configuration and options of ``tailrace run``."""
    return [
        sys.executable,
        "-P",
        "-m",
        "engine.cli",
        "run",
        config,
        "--log-format",
        "json",
        *options,
    ]


async def prepare_base(url: str, source: Source, workload: Workload, folder: Path) -> None:
    """Bring the target database at ``url`` to the state before the workload, with a checkpoint."""
    catalog = MySQLSource(MySQLSettings(url=source.url, tables=(f"{DATABASE}.*",))).catalog()
    if select := workload.table.select:
        mapping = Mapping({f"{DATABASE}.{workload.table.name}": TableRules(select=select)})
        catalog = [mapping.target(table) for table in catalog]
    async with Mirror(url) as mirror:
        await mirror.create(catalog, source.backlog.position)
        if workload.preloaded:
            rows = folder / "preload.tsv"
            with rows.open("w", encoding="utf-8") as file:
                for row in workload.preload():
                    file.write("\t".join(value.strip("'") for value in row) + "\n")
            limits.copy(url, workload.table, rows, folder / "limit.log")
        await mirror.create_indexes(catalog)
    target.execute(url, "VACUUM (ANALYZE)")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
        yield Path(name)
