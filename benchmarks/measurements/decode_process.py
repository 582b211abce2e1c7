"""
Decode log files into row tuples: ``python -m benchmarks.measurements.decode_process PATTERN``.

It runs the engine's own source for log files, with framing, checksums and transactions. The
changes are counted and dropped, and the counts are printed as JSON. This is a process of its own
because the benchmarks' objects would slow down each garbage collection.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from benchmarks.workloads import DATABASE
from engine.change import Commit, Rows
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings

__all__ = ["Decoded", "decode"]


class Decoded(msgspec.Struct, frozen=True):
    """What the log holds, and the seconds that decoding took."""

    rows: int
    transactions: int
    bytes: int
    seconds: float


def decode(files: str) -> Decoded:
    """Decode the log files that match a pattern."""
    source = BinlogFileSource(
        BinlogFileSettings(url=f"mysql-binlog:{files}", tables=(f"{DATABASE}.*",))
    )
    rows = transactions = size = 0
    started = time.perf_counter()
    for changes in source.stream(None, []):
        for change in changes:
            if type(change) is Rows:
                rows += len(change)
                size += change.size
            elif type(change) is Commit:
                transactions += 1
    return Decoded(rows, transactions, size, time.perf_counter() - started)


def main() -> None:
    """The one argument is the pattern of the files."""
    pattern = str(Path(sys.argv[1]))
    sys.stdout.buffer.write(msgspec.json.encode(decode(pattern)))


if __name__ == "__main__":
    main()
