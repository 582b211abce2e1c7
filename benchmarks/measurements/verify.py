"""
The comparison of both sides: a table of equal rows, by checksums and by reading every row.

Both run as ``tailrace verify`` in a process of its own, alternating. ``seconds`` is the time of the
comparison itself, without the start of the process. The limit is the comparison by rows, so the
ratio says how much faster checksums are.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import target
from benchmarks.harness.comparison import compare
from benchmarks.harness.processes import cpu_seconds, difference, measure
from benchmarks.measurements.bench import (
    Bench,
    Source,
    engine_command,
    scratch_folder,
    write_config,
)
from benchmarks.peers.measure import measure_peers
from benchmarks.peers.peer import Scenario
from benchmarks.reporting.result import Repetition, Result
from benchmarks.workloads import DATABASE, Workload

__all__ = ["measure_verify"]

#: The name of the limit.
BY_ROWS = "every row read"


def measure_verify(bench: Bench, name: str, workload: Workload) -> Result:
    """Measure the comparison of the workload's final table with its backfilled copy."""
    result = Result(name=name, rows=workload.changes, workload=workload.shape())
    with (
        bench.source(workload) as source,
        bench.target.database() as url,
        scratch_folder() as folder,
    ):
        config = write_config(folder, source.url, url)
        bench.notify(f"{name}: backfilling")
        measure(engine_command(config, "--until-caught-up"), folder / "engine.log")
        target.execute(url, f"VACUUM ANALYZE {DATABASE}.{workload.table.name}")
        for number in range(1, bench.repeat + 1):
            bench.notify(f"{name}: {BY_ROWS} ({number} of {bench.repeat})")
            report, _ = compare(config, result.rows, "--rows")
            result.limits.setdefault(BY_ROWS, []).append(report.seconds)
            bench.notify(f"{name}: tailrace ({number} of {bench.repeat})")
            result.repetitions.append(_repetition(bench, source, config, result.rows))
        scenario = Scenario(
            name, workload, source.url, source.backlog, bench.target, folder, base=url
        )
        result.peers = measure_peers(scenario, bench.peers, bench.peer_repeat, bench.notify)
    return result


def _repetition(bench: Bench, source: Source, config: Path, rows: int) -> Repetition:
    source_before = cpu_seconds(source.process_id)
    target_before = cpu_seconds(bench.target.process_id)
    report, usage = compare(config, rows)
    return Repetition(
        seconds=report.seconds,
        wall_seconds=usage.wall_seconds,
        engine_cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
        source_cpu_seconds=difference(source_before, lambda: cpu_seconds(source.process_id)),
        target_cpu_seconds=difference(target_before, lambda: cpu_seconds(bench.target.process_id)),
    )
