"""
The decoder alone: the engine's own framing and decoders on a kept log, without servers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks import limits
from benchmarks.decode import Decoded
from benchmarks.kept import kept_log, source_facts, source_server
from benchmarks.peers.peer import Scene
from benchmarks.peers.turns import measure_peers
from benchmarks.processes import measure
from benchmarks.result import Repetition, Result
from benchmarks.stream import Bench
from benchmarks.workloads import Workload
from engine.errors import TailraceError

__all__ = ["measure_decode"]


def measure_decode(bench: Bench, name: str, workload: Workload) -> Result:
    """Decode the workload's log, in turn with the programs of the server's makers."""
    data, backlog = kept_log(workload)
    files = [data / file for file in backlog.files]
    result = Result(
        name=name, rows=workload.changes, bytes=backlog.bytes, workload=workload.shape()
    )
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as scratch,
        source_server(data) as source,
    ):
        bench.facts.update(source_facts(source.url))
        folder = Path(scratch)
        log = folder / "log"
        for number in range(1, bench.repeat + 1):
            bench.tell(f"{name}: {number} of {bench.repeat}")
            raw = limits.read_log(source.url, backlog.files[0], folder, log)
            text = limits.decode_as_text(files, log)
            result.limits.setdefault("mysqlbinlog --raw", []).append(raw.wall_seconds)
            result.limits.setdefault("mysqlbinlog --verbose", []).append(text.wall_seconds)
            result.repetitions.append(_decode(data, workload, log))
        scene = Scene(name, workload, source.url, backlog, bench.target, folder)
        result.peers = measure_peers(scene, bench.peers, bench.peer_repeat, bench.tell)
    return result


def _decode(data: Path, workload: Workload, log: Path) -> Repetition:
    usage = measure([sys.executable, "-m", "benchmarks.decode", data / "binlog.0*"], log)
    decoded = msgspec.json.decode(log.read_bytes(), type=Decoded)
    if decoded.rows != workload.changes:
        raise TailraceError(f"{decoded.rows} rows were decoded, {workload.changes} were written")
    return Repetition(
        seconds=decoded.seconds,
        wall_seconds=usage.wall_seconds,
        engine_cpu_seconds=usage.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
    )
