"""
Has a codec become slower? ``python -m benchmarks.check benchmarks/results/check.json [--record]``.

The idea: what a row costs is counted in turns of a plain loop that is timed in the same moments, in
processor time, the least of several rounds in turn. So neither the machine's speed nor its load
matter much, and a number that was recorded once can be held against a run elsewhere. The bytes come
from real logs, a few rows of each table in the folder ``check`` beside the file.

Rows are decoded and encoded by plain Python, so that a machine without a C compiler has the same
cases; those with ``-compiled`` in their name are by a kernel, and only looked at where it is built.
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

from benchmarks.kept import kept_log
from benchmarks.profile import Encoding, nets_of
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
#: So often it is measured again before something is called slower.
PASSES = 3
LOOP_TURNS = 40_000
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
    """What a row (``decode-single``: a transaction) costs, in turns of the loop."""

    python: str
    turns_per_row: Costs


class Case(NamedTuple):
    """Work on so many rows."""

    rows: int
    work: Callable[[], object]


def slower(recorded: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """The cases that have become slower, and how many times as slow."""
    times = {name: cost / recorded[name] for name, cost in measured.items() if name in recorded}
    return {name: each for name, each in times.items() if each > ALLOWED}


def main(words: list[str] | None = None) -> int:
    """Exit status 1 where something has become slower."""
    parser = argparse.ArgumentParser("python -m benchmarks.check", description=__doc__)
    parser.add_argument("file", type=Path, help="what was recorded, as JSON")
    parser.add_argument("--record", action="store_true", help="measure and record anew")
    parser.add_argument(
        "--write-logs", action="store_true", help="also make the logs anew, with a private MySQL"
    )
    options = parser.parse_args(words)
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
        print(f"{name:22} {cost:8.2f} turns a row, recorded {before:8.2f}: {cost / before:5.2f}")
    if not recorded.python.startswith(platform.python_version().rpartition(".")[0]):
        print(f"recorded with Python {recorded.python}; this is {platform.python_version()}")
    for name, times in found.items():
        print(f"{name} costs {times:.2f} times what was recorded; {ALLOWED} is allowed")
    if found:
        print(f"if that is meant: python -m benchmarks.check {file} --record")
    return 1 if found else 0


def _read(file: Path) -> Recorded:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Recorded)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{file} holds no recorded costs", hint="--record") from error


class _Meter:
    """The least that each case has taken so far, and the loop in between them."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self._cases = cases
        self._least = dict.fromkeys(cases, float("inf"))
        self._loop = float("inf")

    def measure(self) -> None:
        """Some rounds."""
        gc.collect()
        gc.disable()
        try:
            for _ in range(ROUNDS):
                for name, case in self._cases.items():
                    self._loop = min(self._loop, _seconds(_turn_loop))
                    self._least[name] = min(self._least[name], _seconds(case.work))
        finally:
            gc.enable()

    def costs(self) -> Costs:
        """Turns of the loop for a row."""
        turn = self._loop / LOOP_TURNS
        return {name: self._least[name] / it.rows / turn for name, it in self._cases.items()}


def _seconds(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def _turn_loop() -> None:
    """What codecs do, on nothing: unpack, cut, decode, look up, make a tuple, format."""
    data = b"\x01\x02\x03\x04\x08plain\xc3\xa9s" * 8
    unpack, known, rows = struct.Struct("<IB").unpack_from, {"plain": 1}, list[object]()
    add = rows.append
    for turn in range(LOOP_TURNS):
        at = turn & 63
        number, size = unpack(data, at)
        text = data[5:9].decode()
        add((number, size, text, known.get(text), f"{number}\t{text}"))
        if not turn & 1023:
            rows.clear()


# -- what is measured ------------------------------------------------------------------------------


@contextmanager
def _cases(folder: Path) -> Iterator[dict[str, Case]]:
    """All cases, on the logs in the folder."""
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
            nets = nets_of(found[name])
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
    """Rows of sysbench's table as a query's result has them: a length and the text of each, and
    before all a length of three bytes and a number.
    """
    for row in SBTEST.rows(TEXT_ROWS):
        values = [value.strip("'").encode() for value in row]
        packet = b"".join(bytes((len(value),)) + value for value in values)
        yield len(packet).to_bytes(4, "little") + packet


def _repeated(log: bytes, times: int) -> bytes:
    """A log file whose transactions with rows come again and again, each with the next GTID."""
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
        data, backlog = kept_log(workload)
        largest = max((data / file for file in backlog.files), key=lambda it: it.stat().st_size)
        shutil.copyfile(largest, folder / f"{name}.binlog")


if __name__ == "__main__":
    sys.exit(main())
