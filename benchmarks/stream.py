"""
The engine end to end: a backlog applied to PostgreSQL, and a table copied into it.

The idea: limit and engine take turns, repetition by repetition, each on a fresh copy of the same
database, since a machine's speed drifts. After each run both sides must have equal sums.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks import limits, target
from benchmarks.kept import (
    Backlog,
    Sums,
    drop_database,
    kept_log,
    source_facts,
    source_server,
    write_backlog,
)
from benchmarks.peers.peer import Peer, Scene
from benchmarks.peers.turns import measure_peers
from benchmarks.processes import Usage, cpu_seconds, difference, measure
from benchmarks.programs import psql
from benchmarks.result import Repetition, Result
from benchmarks.target import PIPELINE, Committed, Mirror, Target
from benchmarks.workloads import DATABASE, Form, Workload
from engine.errors import TailraceError
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource

__all__ = [
    "Bench",
    "measure_first_row",
    "measure_snapshot",
    "measure_stream",
    "prepare_base",
    "write_config",
]

#: A limit on the database at this URL; its output goes to the file.
Limit = Callable[[str, Path], Usage]


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how often. ``source_url`` is a person's own server, to be written to;
    None: private ones, on kept logs.
    """

    target: Target
    repeat: int
    source_url: str | None = None
    #: Of the sources that were there: versions and settings.
    facts: dict[str, str] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda text: None
    #: Other programs to measure on the same, and how often.
    peers: Sequence[Peer] = ()
    peer_repeat: int = 1

    @contextmanager
    def source(self, workload: Workload) -> Iterator[Source]:
        """A source whose log holds the workload."""
        if self.source_url is not None:
            self.tell(f"{workload.name}: writing the log")
            with self.own_database(self.source_url):
                yield Source(self.source_url, None, write_backlog(self.source_url, workload))
            return
        data, backlog = kept_log(workload)
        with source_server(data) as server:
            self.facts.update(source_facts(server.url))
            yield Source(server.url, server.process_id, backlog)

    @contextmanager
    def own_database(self, url: str) -> Iterator[None]:
        """A person's own server, where the benchmarks' database is gone afterwards."""
        self.facts.update(source_facts(url))
        drop_database(url)
        try:
            yield
        finally:
            drop_database(url)


@dataclass(frozen=True)
class Source:
    """A source with a backlog."""

    url: str
    process_id: int | None
    backlog: Backlog


def measure_stream(bench: Bench, name: str, workload: Workload) -> Result:
    """Apply the workload's backlog, and its limits in turn."""
    with bench.source(workload) as source, bench.target.database() as base, _folder() as folder:
        asyncio.run(prepare_base(base, source, workload, folder))
        bench.tell(f"{name}: warming up")
        with bench.target.database(base) as url:
            _run_engine(bench, source, url, workload.form, folder)
            _export(url, workload, folder)
        result = Result(
            name=name,
            rows=workload.changes,
            bytes=source.backlog.bytes,
            workload=workload.shape(),
        )
        _take_turns(bench, result, source, workload.form, _limits(workload, folder), base, base)
        _measure_peers(bench, result, workload, source, base, folder)
    return result


def measure_snapshot(bench: Bench, name: str, workload: Workload) -> Result:
    """Copy the workload's table as it is in the end, and its limits in turn."""
    form = workload.form
    with bench.source(workload) as source, bench.target.database() as base, _folder() as folder:
        asyncio.run(prepare_base(base, source, workload, folder))
        bench.tell(f"{name}: warming up")
        with bench.target.database() as url:
            _run_engine(bench, source, url, form, folder)
        result = Result(name=name, rows=source.backlog.after.rows, workload=workload.shape())
        found: dict[str, Limit] = {
            "mysql | psql COPY, then its index": lambda url, log: limits.pipe(
                source.url, url, form, log
            ),
            "mysql | psql COPY, key only": lambda url, log: limits.pipe_with_key_only(
                source.url, url, form, log
            ),
        }
        _take_turns(bench, result, source, form, found, base, None)
        _measure_peers(bench, result, workload, source, base, folder)
    return result


def measure_first_row(bench: Bench, name: str, workload: Workload) -> Result:
    """From the start of the process to the first row in a target that is empty."""
    with bench.source(workload) as source, _folder() as folder:
        result = Result(name=name, rows=1, workload=workload.shape())
        for number in range(1, bench.repeat + 1):
            bench.tell(f"{name}: tailrace ({number} of {bench.repeat})")
            with bench.target.database() as url:
                started_at = time.time()
                repetition, commits = _run_engine(bench, source, url, workload.form, folder)
            first = next((commit.at for commit in commits if commit.rows), None)
            if first is not None:
                repetition = msgspec.structs.replace(repetition, seconds=first - started_at)
            result.repetitions.append(repetition)
    return result


def write_config(folder: Path, source_url: str, target_url: str, more: str = "") -> Path:
    """The configuration that all measurements share: nothing but where from and where to."""
    path = folder / "bench.toml"
    path.touch(mode=0o600)
    path.write_text(
        f'[pipeline]\nname = "{PIPELINE}"\n'
        f'[source]\nurl = {_toml(source_url)}\ntables = ["{DATABASE}.*"]\n'
        f"[sink]\nurl = {_toml(target_url)}\n{more}"
    )
    return path


def _toml(url: str) -> str:
    """As a text of TOML, where "$" begins a placeholder."""
    return json.dumps(url.replace("$", "$$"))


def engine_words(config: Path, *options: str) -> list[str | Path]:
    """The words that run the engine as a person would."""
    return [
        sys.executable,
        "-m",
        "engine.cli",
        "run",
        config,
        "--log-format",
        "json",
        *options,
    ]


def _take_turns(
    bench: Bench,
    result: Result,
    source: Source,
    form: Form,
    found: Mapping[str, Limit],
    limit_template: str | None,
    engine_template: str | None,
) -> None:
    """Measure limits and engine, one after the other, as often as is wanted."""
    with _folder() as folder:
        for number in range(1, bench.repeat + 1):
            for name, limit in found.items():
                bench.tell(f"{result.name}: {name} ({number} of {bench.repeat})")
                with bench.target.database(limit_template) as url:
                    bench.target.calm()
                    usage = limit(url, folder / "limit.log")
                    _check(name, target.sums(url, form), source.backlog.after)
                result.limits.setdefault(name, []).append(usage.wall_seconds)
            bench.tell(f"{result.name}: tailrace ({number} of {bench.repeat})")
            with bench.target.database(engine_template) as url:
                copied = engine_template is None
                repetition, commits = _run_engine(bench, source, url, form, folder, copied=copied)
            result.repetitions.append(repetition)
            result.commits = commits


def _measure_peers(
    bench: Bench, result: Result, workload: Workload, source: Source, base: str, folder: Path
) -> None:
    """Let the peers have what the engine has had; ``folder`` holds the exported rows."""
    scene = Scene(
        result=result.name,
        workload=workload,
        source_url=source.url,
        backlog=source.backlog,
        target=bench.target,
        folder=folder,
        base=base,
        prepare=lambda url: asyncio.run(prepare_base(url, source, workload, folder)),
        rows=folder / "rows.tsv",
    )
    result.peers = measure_peers(scene, bench.peers, bench.peer_repeat, bench.tell)


def _run_engine(
    bench: Bench, source: Source, url: str, form: Form, folder: Path, *, copied: bool = False
) -> tuple[Repetition, list[Committed]]:
    """Run the engine until it has caught up, and see that both sides are equal; ``copied`` says
    that it copies the table.
    """
    config = write_config(folder, source.url, url)
    bench.target.calm()
    first = target.transaction_id(url)
    source_before = cpu_seconds(source.process_id)
    target_before = cpu_seconds(bench.target.process_id)
    usage = measure(engine_words(config, "--until-caught-up"), folder / "engine.log")
    source_used = difference(source_before, lambda: cpu_seconds(source.process_id))
    target_used = difference(target_before, lambda: cpu_seconds(bench.target.process_id))
    commits = target.commits(url, form, first, target.transaction_id(url))
    _check("tailrace", target.sums(url, form), source.backlog.after)
    repetition = Repetition(
        seconds=_between(commits, copied=copied) or usage.wall_seconds,
        wall_seconds=usage.wall_seconds,
        engine_cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
        source_cpu_seconds=source_used,
        target_cpu_seconds=target_used,
    )
    return repetition, commits


def _between(commits: list[Committed], *, copied: bool) -> float | None:
    """From the first commit, which takes the pipeline over, to the last one with rows; of a copy,
    to the very last one, since indexes are built after the rows.
    """
    if not commits:
        return None
    last = max((commit.at for commit in commits if commit.rows), default=commits[-1].at)
    return (commits[-1].at if copied else last) - commits[0].at


def _check(name: str, found: Sums, expected: Sums) -> None:
    if found != expected:
        raise TailraceError(f"{name} left {found} in the target, the source holds {expected}")


async def prepare_base(url: str, source: Source, workload: Workload, folder: Path) -> None:
    """A target that was mirrored up to the place where the workload begins."""
    catalog = MySQLSource(MySQLSettings(url=source.url, tables=(f"{DATABASE}.*",))).catalog()
    async with Mirror(url) as mirror:
        await mirror.create(catalog, source.backlog.position)
        if workload.preloaded:
            rows = folder / "preload.tsv"
            with rows.open("w", encoding="utf-8") as file:
                for row in workload.preload():
                    file.write("\t".join(value.strip("'") for value in row) + "\n")
            limits.copy(url, workload.form, rows, folder / "limit.log")
        await mirror.settle(catalog)
    target.run(url, "VACUUM (ANALYZE)")


def _limits(workload: Workload, folder: Path) -> dict[str, Limit]:
    form, rows, keys = workload.form, folder / "rows.tsv", folder / "keys.tsv"
    if workload.kind == "insert":
        found: dict[str, Limit] = {"COPY": lambda url, log: limits.copy(url, form, rows, log)}
        if "KEY k" in form.definition:
            found["COPY, key only"] = lambda url, log: limits.copy_with_key_only(
                url, form, rows, log
            )
        return found
    if workload.kind == "update":
        return {"COPY and one UPDATE": lambda url, log: limits.update(url, form, rows, log)}
    return {"COPY and one DELETE": lambda url, log: limits.delete(url, form, keys, log)}


def _export(url: str, workload: Workload, folder: Path) -> None:
    """Write the files that the limits load: the rows, or keys, that the workload has changed."""
    rows, keys, table = folder / "rows.tsv", folder / "keys.tsv", f"{DATABASE}.{workload.form.name}"
    if workload.kind == "insert":
        commands = [rf"\copy (SELECT * FROM {table} ORDER BY id) TO '{rows}'"]
    else:
        keys.write_text("".join(f"{key}\n" for key in workload.touched()))
        select = f"SELECT t.* FROM touched JOIN {table} t ON id = key ORDER BY number"
        commands = [
            "CREATE TEMP TABLE touched (number serial, key int)",
            rf"\copy touched (key) FROM '{keys}'",
            rf"\copy ({select}) TO '{rows}'",
        ]
    words = psql(url, folder)
    for command in commands:
        words += ["--command", command]
    measure(words, folder / "export.log")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
        yield Path(name)
