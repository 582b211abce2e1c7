"""
The engine's processor time by step:
``python -m benchmarks.measurements.profile_process CONFIG FILES POSITION``.

The engine's own parts run one after the other in one process, each on the output of the part
before, and the processor time of each part is added up. Where a part cannot run alone, the parts
before it run with it, and their known time is subtracted. The log is processed in windows of rows,
so that memory use is about the engine's.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from benchmarks.workloads import DATABASE
from engine.change import Change, Heartbeat, Row, Rows, SchemaChange
from engine.checkpoint import Checkpoint
from engine.cli.wiring import load_settings
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.stored import Storage
from engine.pipeline.batching import Batch, Batcher, weigh
from engine.pipeline.reader_queue import ReaderQueue
from engine.schema import Table, TableId
from engine.settings.loader import BatchSettings, Settings
from engine.toolkit.compaction import NetChanges, net_changes
from sinks.postgres.copy import Encoder
from sinks.postgres.sink import PostgresSink
from sinks.postgres.statements import Statements
from sources.mysql.binlog.compression import cut_events
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from sources.mysql.source import MySQLSource

__all__ = ["STEPS", "Encoding", "net_changes_of"]

RECEIVING = "receive and cut packets"
FRAMING = "event framing"
DECODING = "row decoding"
HAND_OVER = "hand-over between threads"
COMPACTION = "batching and compaction"
ENCODING = "encoding for COPY"
WRITING = "writing to PostgreSQL"
STEPS = (RECEIVING, FRAMING, DECODING, HAND_OVER, COMPACTION, ENCODING, WRITING)

WINDOW_ROWS = 50_000
READ_BYTES = 1 << 20
MAGIC_BYTES = 4
TIMEOUT_SECONDS = 60.0

Steps = defaultdict[str, float]


def measure(config: Path, files: str, position: str) -> dict[str, float]:
    """CPU seconds of each step for the whole log after ``position``."""
    settings = load_settings(config)
    steps: Steps = defaultdict(float)
    raw = _used(lambda: _read_raw(files))
    framed = _used(lambda: _count(_file_changes(files, "nothing")))
    decoded = _used(lambda: _count(_file_changes(files, DATABASE)))
    received = _used(lambda: _receive(settings, position))
    steps[FRAMING] = framed - raw
    steps[DECODING] = decoded - framed
    steps[RECEIVING] = received - steps[FRAMING]
    uvloop.run(_apply(settings, files, position, steps))
    return {name: max(0.0, steps[name]) for name in STEPS}


def _used(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _paths(files: str) -> list[Path]:
    pattern = Path(files)
    return sorted(pattern.parent.glob(pattern.name))


def _read_raw(files: str) -> None:
    """Read the log files and cut them into events, without decoding any."""
    for path in _paths(files):
        with path.open("rb") as file:
            file.seek(MAGIC_BYTES)
            rest = b""
            while data := file.read(READ_BYTES):
                _, rest = cut_events(rest + data)


def _file_changes(files: str, schema: str) -> Iterator[list[Change]]:
    url = f"mysql-binlog:{files}"
    return BinlogFileSource(BinlogFileSettings(url=url, tables=(f"{schema}.*",))).stream(None, [])


def _receive(settings: Settings, position: str) -> None:
    """Read the log from the server up to its current end, with no table followed."""
    source = MySQLSource(msgspec.structs.replace(settings.source, tables=("nothing.*",)))
    end = source.position()
    try:
        for changes in source.stream(position, []):
            last = changes[-1]
            if type(last) is Heartbeat and last.at and source.reached(str(last.position), end):
                return
    finally:
        source.stop()
        source.close()


def _count(lists: Iterable[list[Change]]) -> int:
    return sum(len(it) for changes in lists for it in changes if type(it) is Rows)


async def _apply(settings: Settings, files: str, position: str, steps: Steps) -> None:
    """Run the steps from the hand-over to the target's commits, window by window."""
    sink = PostgresSink(settings.sink, settings.pipeline.name)
    state = await sink.open()
    checkpoint = Checkpoint(settings.pipeline.name, state.epoch, position)
    encoding = Encoding(settings.sink.schema)
    try:
        for window in _windows(files):
            before = time.process_time()
            await _hand_over(window, settings.batch)
            steps[HAND_OVER] += time.process_time() - before
            before = time.process_time()
            batches = list(_batches(window, settings.batch))
            steps[COMPACTION] += time.process_time() - before
            for batch in batches:
                before = time.process_time()
                nets = net_changes_of(batch.changes)
                compacted = time.process_time() - before
                encoded = _used(partial(encoding.encode, nets))
                before = time.process_time()
                await sink.apply(batch.changes)
                await sink.commit(checkpoint)
                steps[COMPACTION] += compacted
                steps[ENCODING] += encoded
                steps[WRITING] += time.process_time() - before - compacted - encoded
    finally:
        await sink.close()


def _windows(files: str) -> Iterator[list[list[Change]]]:
    """The lists of changes as the source yields them, in windows of about ``WINDOW_ROWS`` rows.

    Schema changes are left out: the target has the tables.
    """
    window: list[list[Change]] = []
    rows = 0
    for changes in _file_changes(files, DATABASE):
        window.append([it for it in changes if not isinstance(it, SchemaChange | Heartbeat)])
        rows += weigh(changes)[0]
        if rows >= WINDOW_ROWS:
            yield window
            window, rows = [], 0
    yield window


async def _hand_over(window: list[list[Change]], limits: BatchSettings) -> None:
    queue = ReaderQueue(lambda: iter(window), limits.queue_bytes)
    while not queue.ended:
        await queue.get(TIMEOUT_SECONDS, limits.max_rows, limits.max_bytes)
    await queue.close()


def _batches(window: list[list[Change]], limits: BatchSettings) -> Iterator[Batch]:
    """The batches that the pipeline makes while the log has more to read."""
    batcher = Batcher(limits.max_rows, limits.max_bytes, TIMEOUT_SECONDS)
    for changes in window:
        batcher.add(changes, *weigh(changes), 0.0)
        if batcher.full(0.0) and (batch := batcher.take(0.0)) is not None:
            yield batch
    if (batch := batcher.take(0.0)) is not None:
        yield batch


def net_changes_of(changes: Iterable[Change]) -> list[NetChanges]:
    """The net changes of a batch, computed as the sink does."""
    runs: dict[TableId, list[Rows]] = {}
    for change in changes:
        if type(change) is Rows:
            runs.setdefault(change.table.id, []).append(change)
    return [net for its_runs in runs.values() for net in net_changes(its_runs)]


class Encoding:
    """The sink's encoders without the connection: one set for each table, built once."""

    def __init__(self, schema: str = "") -> None:
        self._naming = Naming(schema)
        self._statements: dict[Table, Statements] = {}

    def encode(self, nets: Iterable[NetChanges]) -> None:
        """Encode all rows, and drop the text."""
        for net in nets:
            for encoder, rows in self._encoders(net):
                deque(encoder.pieces(rows), maxlen=0)

    def _encoders(self, net: NetChanges) -> Iterator[tuple[Encoder, list[Row]]]:
        statements = self._statements.get(net.table)
        if statements is None:
            statements = Statements(net.table, self._naming.sql(net.table.id), Storage())
            self._statements[net.table] = statements
        if net.deletes:
            yield statements.keys().encoder, net.deletes
        for mask, rows in (*net.updates.items(), *net.inserts.items()):
            yield statements.rows(mask).encoder, rows


def main() -> None:
    """The module's docstring names the three arguments."""
    config, files, position = sys.argv[1:4]
    sys.stdout.buffer.write(msgspec.json.encode(measure(Path(config), files, position)))


if __name__ == "__main__":
    main()
