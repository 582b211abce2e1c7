"""
The engine's processor time by step: ``profile_process`` on a cached log.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.harness.processes import measure
from benchmarks.harness.source import cached_log, source_info, source_server
from benchmarks.measurements.bench import Bench, Source, prepare_base, write_config
from benchmarks.measurements.profile_process import STEPS
from benchmarks.reporting.result import Result
from benchmarks.workloads import Workload

__all__ = ["measure_profile"]


def measure_profile(bench: Bench, name: str, workload: Workload) -> Result:
    """Measure CPU seconds per million rows for each step; the medians of the repetitions."""
    data, backlog = cached_log(workload)
    found: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as scratch,
        source_server(data) as server,
        bench.target.database() as base,
    ):
        folder, source = Path(scratch), Source(server.url, server.process_id, backlog)
        bench.source_info.update(source_info(server.url))
        asyncio.run(prepare_base(base, source, workload, folder))
        for number in range(1, bench.repeat + 1):
            bench.notify(f"{name}: {number} of {bench.repeat}")
            with bench.target.database(base) as url:
                config, output = write_config(folder, server.url, url), folder / "steps.json"
                program = (sys.executable, "-P", "-m", "benchmarks.measurements.profile_process")
                measure((*program, config, data / "binlog.0*", backlog.position), output)
                found.append(msgspec.json.decode(output.read_bytes(), type=dict[str, float]))
    million = workload.changes / 1e6
    return Result(
        name=name,
        rows=workload.changes,
        bytes=backlog.bytes,
        workload=workload.shape(),
        steps={step: round(median(it[step] for it in found) / million, 3) for step in STEPS},
    )
