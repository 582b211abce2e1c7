"""
Log files into row tuples and nothing else: ``python -m benchmarks.decode FOLDER``.

The idea: it is the engine's own source for log files, framing, checksums, transactions and all; the
changes are counted and dropped. It prints what it found as JSON. In a process of its own, because a
benchmark's own objects would slow down every collection of garbage.
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
    """What was in the log, and how long it took to find out."""

    rows: int
    transactions: int
    bytes: int
    seconds: float


def decode(files: str) -> Decoded:
    """Decode the log files that a pattern names."""
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
    """The pattern of the files is the one argument."""
    pattern = str(Path(sys.argv[1]))
    sys.stdout.buffer.write(msgspec.json.encode(decode(pattern)))


if __name__ == "__main__":
    main()
