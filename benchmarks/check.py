"""
Check the codecs for regressions: ``python -m benchmarks.check benchmarks/results/check.json``.

The cost of a row is expressed in iterations of a plain Python loop, which is timed alternately with
the codecs. Both times are processor time, the minimum of several rounds. The cost therefore depends
little on the machine's speed and load, and a recorded cost can be compared with a run on another
machine. The input are a few rows of each table, in real logs in the folder ``check`` next to the
file.

All cases run in plain Python, so that a machine without a C compiler has them, too. Where the
accelerators are built, the cases with ``-compiled`` in their name measure these as well.
"""

from __future__ import annotations

import argparse
import gc
import platform
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.harness.source import cached_log
from benchmarks.measurements.profile_process import Encoding, net_changes_of
from benchmarks.workloads import DATABASE, ORDERS, SBTEST, Workload
from engine.change import Change, Rows
from engine.errors import ConfigError
from engine.toolkit.accelerator import python_only
from sinks.postgres import accelerator as encoder
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.compression import cut_events
from sources.mysql.codec import accelerator as decoder
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from sources.mysql.snapshot.text_rows import TextRows

__all__ = ["Recorded", "main", "slower"]

#: More than this many times the recorded cost is a regression.
ALLOWED = 1.4
ROUNDS = 8
#: The number of measurements before a codec counts as slower.
PASSES = 3
LOOP_ITERATIONS = 40_000
#: The logs in the folder, and how often their transactions are repeated.
LOGS = {
    "bulk": (Workload("bulk", SBTEST, "insert", 250, 250), 120),
    "single": (Workload("single", SBTEST, "insert", 50, 1), 60),
    "orders": (Workload("orders", ORDERS, "insert", 100, 100), 30),
}
TEXT_ROWS = 20_000
MAGIC = b"\xfebin"
CHECKSUM_BYTES = 4

Costs = dict[str, float]


class Recorded(msgspec.Struct, frozen=True):
    """The cost of a row (``decode-single``: of a transaction) in iterations of the loop.

    The field's name, ``turns_per_row``, is that of the recorded files.
    """

    python: str
    turns_per_row: Costs


class Case(NamedTuple):
    """A function to measure, and the number of rows that it processes."""

    rows: int
    work: Callable[[], object]


def slower(recorded: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """The cases that cost more than ``ALLOWED`` times the recorded cost, with that ratio."""
    times = {name: cost / recorded[name] for name, cost in measured.items() if name in recorded}
    return {name: each for name, each in times.items() if each > ALLOWED}


def main(arguments: list[str] | None = None) -> int:
    """Run the check; the exit status is 1 if a codec has become slower."""
    parser = argparse.ArgumentParser("python -m benchmarks.check", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON file with the recorded costs")
    parser.add_argument("--record", action="store_true", help="measure, and overwrite the file")
    parser.add_argument(
        "--write-logs", action="store_true", help="first write new logs, with a private MySQL"
    )
    options = parser.parse_args(arguments)
    if options.write_logs:
        _write_logs(options.file.with_suffix(""))
    with _cases(options.file.with_suffix("")) as cases:
        return _record(options.file, cases) if options.record else _check(options.file, cases)


def _record(file: Path, cases: Mapping[str, Case]) -> int:
    meter = _Meter(cases)
    for _ in range(PASSES):
        meter.measure()
    costs = {name: round(cost, 3) for name, cost in meter.costs().items()}
    recorded = Recorded(platform.python_version(), costs)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(recorded), indent=2) + b"\n")
    return 0


def _check(file: Path, cases: Mapping[str, Case]) -> int:
    recorded = _read(file)
    meter = _Meter(cases)
    for _ in range(PASSES):
        meter.measure()
        found = slower(recorded.turns_per_row, meter.costs())
        if not found:
            break
    for name, cost in meter.costs().items():
        before = recorded.turns_per_row.get(name, cost)
        ratio = cost / before
        print(f"{name:22} {cost:8.2f} iterations a row, recorded {before:8.2f}: {ratio:5.2f}")
    if not recorded.python.startswith(platform.python_version().rpartition(".")[0]):
        print(f"recorded with Python {recorded.python}, measured with {platform.python_version()}")
    for name, times in found.items():
        print(f"{name} costs {times:.2f} times the recorded cost; {ALLOWED} times is allowed")
    if found:
        print(f"to accept the new costs: python -m benchmarks.check {file} --record")
    return 1 if found else 0


def _read(file: Path) -> Recorded:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Recorded)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{file} holds no recorded costs",
            hint=f"Record them: python -m benchmarks.check {file} --record",
        ) from error


class _Meter:
    """The minimum time of each case so far, and of the loop, which runs before each case."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self._cases = cases
        self._minimum = dict.fromkeys(cases, float("inf"))
        self._loop = float("inf")

    def measure(self) -> None:
        """Run ``ROUNDS`` rounds of all cases, without garbage collection."""
        gc.collect()
        gc.disable()
        try:
            for _ in range(ROUNDS):
                for name, case in self._cases.items():
                    self._loop = min(self._loop, _seconds(_run_loop))
                    self._minimum[name] = min(self._minimum[name], _seconds(case.work))
        finally:
            gc.enable()

    def costs(self) -> Costs:
        """The cost of a row of each case, in iterations of the loop."""
        iteration = self._loop / LOOP_ITERATIONS
        return {name: self._minimum[name] / it.rows / iteration for name, it in self._cases.items()}


def _seconds(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def _run_loop() -> None:
    """The reference loop: the operations of a codec on constant data.

    It unpacks, slices, decodes, looks up, builds a tuple and formats.
    """
    data = b"\x01\x02\x03\x04\x08plain\xc3\xa9s" * 8
    unpack, known, rows = struct.Struct("<IB").unpack_from, {"plain": 1}, list[object]()
    add = rows.append
    for iteration in range(LOOP_ITERATIONS):
        at = iteration & 63
        number, size = unpack(data, at)
        text = data[5:9].decode()
        add((number, size, text, known.get(text), f"{number}\t{text}"))
        if not iteration & 1023:
            rows.clear()


# -- the cases -------------------------------------------------------------------------------------


@contextmanager
def _cases(folder: Path) -> Iterator[dict[str, Case]]:
    """All cases, with the logs in the folder as input."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as scratch:
        cases, found = {}, {}
        for name, (workload, times) in LOGS.items():
            log = Path(scratch) / f"{name}.000001"
            log.write_bytes(_repeated((folder / f"{name}.binlog").read_bytes(), times))
            rows = workload.changes * times
            cases[f"decode-{name}"] = Case(rows, partial(_in_python, partial(_decode, log)))
            if decoder.AVAILABLE:
                cases[f"decode-{name}-compiled"] = Case(rows, partial(_decode, log))
            found[name] = _decode(log)
        for name in ("bulk", "orders"):
            nets = net_changes_of(found[name])
            rows = sum(map(len, nets))
            encode = partial(Encoding().encode, nets)
            cases[f"encode-{name}"] = Case(rows, partial(_in_python, encode))
            if encoder.AVAILABLE:
                cases[f"encode-{name}-compiled"] = Case(rows, partial(Encoding().encode, nets))
        table = next(it.table for it in found["bulk"] if type(it) is Rows)
        text = b"".join(_text_packets())
        with python_only():
            cases["decode-text"] = Case(TEXT_ROWS, partial(TextRows(table).take, text, 0))
        if decoder.AVAILABLE:
            cases["decode-text-compiled"] = Case(TEXT_ROWS, partial(TextRows(table).take, text, 0))
        yield cases


def _in_python(work: Callable[[], object]) -> None:
    with python_only():
        work()


def _decode(log: Path) -> list[Change]:
    settings = BinlogFileSettings(url=f"mysql-binlog:{log}", tables=(f"{DATABASE}.*",))
    source = BinlogFileSource(settings)
    return [change for changes in source.stream(None, []) for change in changes]


def _text_packets() -> Iterator[bytes]:
    """Rows of sysbench's table as the packets of a query's result.

    A packet begins with its length in three bytes and a sequence number. Each value is a length
    byte and text.
    """
    for row in SBTEST.rows(TEXT_ROWS):
        values = [value.strip("'").encode() for value in row]
        packet = b"".join(bytes((len(value),)) + value for value in values)
        yield len(packet).to_bytes(4, "little") + packet


def _repeated(log: bytes, times: int) -> bytes:
    """The log with its row transactions repeated ``times`` times, each with the next GTID.

    End positions and checksums of the events are computed again.
    """
    events, _ = cut_events(log[len(MAGIC) :])
    rows = [number for number, event in enumerate(events) if event[4] == ev.TABLE_MAP]
    starts = [number for number, event in enumerate(events) if event[4] == ev.GTID]
    first = max(number for number in starts if number < rows[0])
    last = max(number for number, event in enumerate(events) if event[4] == ev.XID)
    head, transactions = events[:first], events[first : last + 1]
    parts = [MAGIC, *head]
    size, gtid = sum(map(len, parts)), int.from_bytes(events[first][36:44], "little")
    for event in transactions * times:
        size += len(event)
        body = bytearray(event[:-CHECKSUM_BYTES])
        body[13:17] = size.to_bytes(4, "little")
        if event[4] == ev.GTID:
            body[36:44] = gtid.to_bytes(8, "little")
            gtid += 1
        parts.append(bytes(body) + zlib.crc32(body).to_bytes(4, "little"))
    return b"".join(parts)


def _write_logs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (workload, _) in LOGS.items():
        data, backlog = cached_log(workload)
        largest = max((data / file for file in backlog.files), key=lambda it: it.stat().st_size)
        shutil.copyfile(largest, folder / f"{name}.binlog")


if __name__ == "__main__":
    sys.exit(main())
