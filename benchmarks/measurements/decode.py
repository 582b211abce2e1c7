"""
The decoder alone: the engine's own framing and row decoders on a cached log, without a target.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.harness import limits
from benchmarks.harness.processes import measure
from benchmarks.harness.source import cached_log, source_info, source_server
from benchmarks.measurements.bench import Bench
from benchmarks.measurements.decode_process import Decoded
from benchmarks.peers.measure import measure_peers
from benchmarks.peers.peer import Scenario
from benchmarks.reporting.result import Repetition, Result
from benchmarks.workloads import Workload
from engine.errors import TailraceError

__all__ = ["measure_decode"]


def measure_decode(bench: Bench, name: str, workload: Workload) -> Result:
    """Measure the decoding of the workload's log, alternating with mysqlbinlog."""
    data, backlog = cached_log(workload)
    files = [data / file for file in backlog.files]
    result = Result(
        name=name, rows=workload.changes, bytes=backlog.bytes, workload=workload.shape()
    )
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as scratch,
        source_server(data) as source,
    ):
        bench.source_info.update(source_info(source.url))
        folder = Path(scratch)
        log = folder / "log"
        for number in range(1, bench.repeat + 1):
            bench.notify(f"{name}: {number} of {bench.repeat}")
            raw = limits.read_log(source.url, backlog.files[0], folder, log)
            text = limits.decode_as_text(files, log)
            result.limits.setdefault("mysqlbinlog --raw", []).append(raw.wall_seconds)
            result.limits.setdefault("mysqlbinlog --verbose", []).append(text.wall_seconds)
            result.repetitions.append(_decode(data, workload, log))
        scenario = Scenario(name, workload, source.url, backlog, bench.target, folder)
        result.peers = measure_peers(scenario, bench.peers, bench.peer_repeat, bench.notify)
    return result


def _decode(data: Path, workload: Workload, log: Path) -> Repetition:
    program = (sys.executable, "-P", "-m", "benchmarks.measurements.decode_process")
    usage = measure([*program, data / "binlog.0*"], log)
    decoded = msgspec.json.decode(log.read_bytes(), type=Decoded)
    if decoded.rows != workload.changes:
        raise TailraceError(
            f"the log holds {workload.changes} rows, but {decoded.rows} rows were decoded"
        )
    return Repetition(
        seconds=decoded.seconds,
        wall_seconds=usage.wall_seconds,
        engine_cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
    )
