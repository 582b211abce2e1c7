"""
Where the engine's processor time goes, step by step: ``benchmarks.profile`` on a kept log.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.kept import kept_log, source_facts, source_server
from benchmarks.processes import measure
from benchmarks.profile import STEPS
from benchmarks.result import Result
from benchmarks.stream import Bench, Source, prepare_base, write_config
from benchmarks.workloads import Workload

__all__ = ["measure_profile"]


def measure_profile(bench: Bench, name: str, workload: Workload) -> Result:
    """CPU seconds per million rows by step, the median of each."""
    data, backlog = kept_log(workload)
    found: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as scratch,
        source_server(data) as server,
        bench.target.database() as base,
    ):
        folder, source = Path(scratch), Source(server.url, server.process_id, backlog)
        bench.facts.update(source_facts(server.url))
        asyncio.run(prepare_base(base, source, workload, folder))
        for number in range(1, bench.repeat + 1):
            bench.tell(f"{name}: {number} of {bench.repeat}")
            with bench.target.database(base) as url:
                config, output = write_config(folder, server.url, url), folder / "steps.json"
                program = (sys.executable, "-m", "benchmarks.profile")
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
