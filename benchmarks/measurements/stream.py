"""
The engine end to end: a backlog applied to PostgreSQL, and the snapshot of a table.

Each repetition measures the limits, then the engine, each on a new copy of the same database: the
machine's speed drifts, so only times that were measured next to each other can be compared. After
each run the table's sums must be equal on both sides; otherwise TailraceError is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from benchmarks.harness import limits, target
from benchmarks.harness.clients import psql
from benchmarks.harness.far import far_away
from benchmarks.harness.processes import Usage, cpu_seconds, difference, measure
from benchmarks.harness.source import Sums
from benchmarks.harness.surroundings import Comparison, Surroundings
from benchmarks.harness.target import Committed
from benchmarks.harness.watchers import free_port, receiver, watching
from benchmarks.measurements.bench import (
    Bench,
    Source,
    engine_command,
    mapping_of,
    prepare_base,
    scratch_folder,
    write_config,
)
from benchmarks.peers.measure import measure_peers
from benchmarks.peers.peer import Scenario
from benchmarks.reporting.result import Repetition, Result, steady_seconds
from benchmarks.workloads import DATABASE, TableSpec, Workload
from engine.errors import TailraceError

__all__ = ["measure_first_row", "measure_snapshot", "measure_stream"]

#: The engine alone.
NOTHING = Surroundings()

#: Measures a limit on the database at a URL; its output goes to the file.
Limit = Callable[[str, Path], Usage]


def measure_stream(
    bench: Bench, name: str, workload: Workload, compared: Comparison | None = None
) -> Result:
    """Measure the engine applying the workload's backlog, alternating with its limits.

    ``compared``: the limit is the engine itself in other surroundings.
    """
    spec = workload.table
    with (
        bench.source(workload) as source,
        bench.target.database() as base,
        scratch_folder() as folder,
    ):
        asyncio.run(prepare_base(base, source, workload, folder))
        bench.notify(f"{name}: warming up")
        with bench.target.database(base) as url:
            _run_engine(bench, source, url, spec, folder)
            _export(url, workload, folder)
        result = Result(
            name=name,
            rows=workload.changes,
            bytes=source.backlog.bytes,
            workload=workload.shape(),
        )
        if compared is not None:
            _alternate_surroundings(bench, result, source, spec, compared, base)
        else:
            _alternate(bench, result, source, spec, _limits(workload, folder), base, base)
            _measure_peers(bench, result, workload, source, base, folder)
    return result


def measure_snapshot(
    bench: Bench, name: str, workload: Workload, compared: Comparison | None = None
) -> Result:
    """Measure the snapshot of the workload's final table, alternating with its limits.

    ``compared`` is as in ``measure_stream``.
    """
    spec = workload.table
    with (
        bench.source(workload) as source,
        bench.target.database() as base,
        scratch_folder() as folder,
    ):
        asyncio.run(prepare_base(base, source, workload, folder))
        bench.notify(f"{name}: warming up")
        with bench.target.database() as url:
            _run_engine(bench, source, url, spec, folder)
        result = Result(name=name, rows=source.backlog.after.rows, workload=workload.shape())
        found: dict[str, Limit] = {
            "mysql | psql COPY, then its index": lambda url, log: limits.pipe(
                source.url, url, spec, log
            ),
            "mysql | psql COPY, key only": lambda url, log: limits.pipe_with_key_only(
                source.url, url, spec, log
            ),
        }
        if compared is not None:
            _alternate_surroundings(bench, result, source, spec, compared, None)
        else:
            _alternate(bench, result, source, spec, found, base, None)
            _measure_peers(bench, result, workload, source, base, folder)
    return result


def measure_first_row(bench: Bench, name: str, workload: Workload) -> Result:
    """Measure the time from the engine's start to the first row in an empty target."""
    with bench.source(workload) as source, scratch_folder() as folder:
        result = Result(name=name, rows=1, workload=workload.shape())
        for number in range(1, bench.repeat + 1):
            bench.notify(f"{name}: tailrace ({number} of {bench.repeat})")
            with bench.target.database() as url:
                repetition, _ = _run_engine(bench, source, url, workload.table, folder)
            if repetition.start_seconds is not None:
                repetition = msgspec.structs.replace(repetition, seconds=repetition.start_seconds)
            result.repetitions.append(repetition)
    return result


def _alternate(
    bench: Bench,
    result: Result,
    source: Source,
    spec: TableSpec,
    found: Mapping[str, Limit],
    limit_template: str | None,
    engine_template: str | None,
) -> None:
    """Measure the limits and then the engine, ``bench.repeat`` times.

    The templates are the databases that the runs start from. The engine takes a snapshot if it has
    no template.
    """
    with scratch_folder() as folder:
        for number in range(1, bench.repeat + 1):
            for name, limit in found.items():
                bench.notify(f"{result.name}: {name} ({number} of {bench.repeat})")
                with bench.target.database(limit_template) as url:
                    bench.target.checkpoint()
                    usage = limit(url, folder / "limit.log")
                    _check(name, target.sums(url, spec), source.backlog.after)
                result.limits.setdefault(name, []).append(usage.wall_seconds)
            bench.notify(f"{result.name}: tailrace ({number} of {bench.repeat})")
            with bench.target.database(engine_template) as url:
                snapshot = engine_template is None
                repetition, commits = _run_engine(
                    bench, source, url, spec, folder, snapshot=snapshot
                )
            result.repetitions.append(repetition)
            result.commits = commits


def _alternate_surroundings(
    bench: Bench,
    result: Result,
    source: Source,
    spec: TableSpec,
    compared: Comparison,
    template: str | None,
) -> None:
    """Measure the engine without and with its surroundings, ``bench.repeat`` times.

    ``template`` is the database that the runs start from. Without one they take a snapshot. Steady
    rates are those between the first and the last commit of rows: with far servers, a start takes a
    fixed number of round trips, whatever follows, so it is a figure of its own.
    """
    both = ((compared.name, compared.without), ("", compared.surroundings))
    with scratch_folder() as folder:
        for number in range(1, bench.repeat + 1):
            # In turns, so that what comes second has no advantage.
            for name, around in both if number % 2 else both[::-1]:
                bench.notify(f"{result.name}: {name or 'tailrace'} ({number} of {bench.repeat})")
                with bench.target.database(template) as url:
                    repetition, commits = _run_engine(
                        *(bench, source, url, spec, folder),
                        snapshot=template is None,
                        around=around,
                    )
                if compared.steady:
                    steady = steady_seconds(commits, result.rows) or repetition.seconds
                    repetition = msgspec.structs.replace(repetition, seconds=steady)
                if name and repetition.start_seconds is not None:
                    result.limit_start_seconds.append(repetition.start_seconds)
                if name:
                    result.limits.setdefault(name, []).append(repetition.seconds)
                    result.limit_cpu_seconds.append(repetition.engine_cpu_seconds)
                else:
                    result.repetitions.append(repetition)
                    result.commits = commits


def _measure_peers(
    bench: Bench, result: Result, workload: Workload, source: Source, base: str, folder: Path
) -> None:
    """Measure the peers on the source, target and workload of the engine.

    ``folder`` holds the exported rows.
    """
    scenario = Scenario(
        result=result.name,
        workload=workload,
        source_url=source.url,
        backlog=source.backlog,
        target=bench.target,
        folder=folder,
        base=base,
        make_base=lambda url: asyncio.run(prepare_base(url, source, workload, folder)),
        rows=folder / "rows.tsv",
    )
    result.peers = measure_peers(scenario, bench.peers, bench.peer_repeat, bench.notify)


def _run_engine(
    bench: Bench,
    source: Source,
    url: str,
    spec: TableSpec,
    folder: Path,
    *,
    snapshot: bool = False,
    around: Surroundings = NOTHING,
) -> tuple[Repetition, list[Committed]]:
    """Run the engine until it has caught up, and compare both sides.

    ``snapshot`` says that the engine reads the table instead of the log.
    """
    bench.target.checkpoint()
    first = target.transaction_id(url)
    source_before = cpu_seconds(source.process_id)
    target_before = cpu_seconds(bench.target.process_id)
    port = free_port() if around.watched else None
    with (
        far_away(source.url, around.round_trip_seconds) as there,
        far_away(url, around.round_trip_seconds) as here,
        receiver(around.traced) as endpoint,
        watching(port),
    ):
        more = f'{mapping_of(spec)}[telemetry]\nendpoint = "{endpoint}"\n'
        command = engine_command(write_config(folder, there, here, more), "--until-caught-up")
        if port is not None:
            command += ["--listen", f"127.0.0.1:{port}"]
        started_at = time.time()
        usage = measure(command, folder / "engine.log")
    source_used = difference(source_before, lambda: cpu_seconds(source.process_id))
    target_used = difference(target_before, lambda: cpu_seconds(bench.target.process_id))
    commits = target.commits(url, spec, first, target.transaction_id(url))
    _check("tailrace", target.sums(url, spec), source.backlog.after)
    first_rows = next((commit.at for commit in commits if commit.rows), None)
    repetition = Repetition(
        seconds=_between(commits, snapshot=snapshot) or usage.wall_seconds,
        wall_seconds=usage.wall_seconds,
        engine_cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
        source_cpu_seconds=source_used,
        target_cpu_seconds=target_used,
        start_seconds=None if first_rows is None else first_rows - started_at,
    )
    return repetition, commits


def _between(commits: list[Committed], *, snapshot: bool) -> float | None:
    """The seconds from the engine's first commit to its last one with rows.

    The first commit takes over the pipeline. For a snapshot the last commit of all counts, because
    indexes are created after the rows. None if the commits' times are unknown.
    """
    if not commits:
        return None
    last = max((commit.at for commit in commits if commit.rows), default=commits[-1].at)
    return (commits[-1].at if snapshot else last) - commits[0].at


def _check(name: str, found: Sums, expected: Sums) -> None:
    if found != expected:
        raise TailraceError(f"after {name} the target holds {found}, the source holds {expected}")


def _limits(workload: Workload, folder: Path) -> dict[str, Limit]:
    spec, rows, keys = workload.table, folder / "rows.tsv", folder / "keys.tsv"
    if workload.kind == "insert":
        found: dict[str, Limit] = {"COPY": lambda url, log: limits.copy(url, spec, rows, log)}
        if "KEY k" in spec.definition:
            found["COPY, key only"] = lambda url, log: limits.copy_with_key_only(
                url, spec, rows, log
            )
        return found
    if workload.kind == "update":
        return {"COPY and one UPDATE": lambda url, log: limits.update(url, spec, rows, log)}
    return {"COPY and one DELETE": lambda url, log: limits.delete(url, spec, keys, log)}


def _export(url: str, workload: Workload, folder: Path) -> None:
    """Write the files that the limits load: the rows or keys that the workload changed."""
    rows, keys, table = (
        folder / "rows.tsv",
        folder / "keys.tsv",
        f"{DATABASE}.{workload.table.name}",
    )
    if workload.kind == "insert":
        statements = [rf"\copy (SELECT * FROM {table} ORDER BY id) TO '{rows}'"]
    else:
        keys.write_text("".join(f"{key}\n" for key in workload.touched()))
        select = f"SELECT t.* FROM touched JOIN {table} t ON id = key ORDER BY number"
        statements = [
            "CREATE TEMP TABLE touched (number serial, key int)",
            rf"\copy touched (key) FROM '{keys}'",
            rf"\copy ({select}) TO '{rows}'",
        ]
    command = psql(url, folder)
    for statement in statements:
        command += ["--command", statement]
    measure(command, folder / "export.log")
