"""
Change records in files, or on standard output (`jsonl:-`), one JSON object a line: docs/records.md.

A folder holds numbered segments, and the state (``engine.toolkit.state_file``):

    changes-00000001.jsonl     a finished segment: never changes again
    changes-00000002.part      the segment that grows; its last bytes may be uncommitted
    state.json                 checkpoint, table versions, and the committed length of the segment
    epoch                      the number of the newest engine; the file that is locked

*Guarantee* of a folder: exactly once. A transaction becomes durable at one moment, the replacement
of ``state.json``. This file holds the position and the length of the segment up to it. Bytes after
that length are cut off before anything else is written. A segment is finished (renamed) at a
commit, so a reader of ``*.jsonl`` sees each committed record once and no other record. It sees them
late: when the segment is full or old, or the engine stops.

*Guarantee* of standard output: at least once. Nothing is stored, so each start begins anew.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Annotated, ClassVar, Literal, Protocol
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from engine.change import Change, Replace, SchemaChange
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Capabilities, Finding, State
from engine.errors import Fenced, SinkLost
from engine.schema import Table, TableId
from engine.toolkit.record import RecordEncoder
from engine.toolkit.state_file import StateFile, Stored, translate_errors

__all__ = ["JsonlSettings", "JsonlSink"]

#: The bytes of an open transaction that stay in memory; the rest waits in a file without a name.
SPOOL_BYTES = 16 * 1024 * 1024


class JsonlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url`` is ``jsonl:`` and the path of a folder, which is made if missing, or ``jsonl:-`` for
    standard output. ``envelope`` is the form of a record. A segment is finished when it holds
    ``segment_bytes``, or at the first commit after ``segment_seconds``.
    """

    url: str
    envelope: Literal["plain", "debezium"] = "plain"
    segment_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    segment_seconds: Annotated[float, Meta(ge=0)] = 10.0


class Output(Protocol):
    """Where lines go. Everything blocks. ``OSError`` may come from any method."""

    def open(self, epoch: int | None) -> State: ...
    def write(self, lines: bytes) -> None: ...
    def commit(self, checkpoint: Checkpoint, tables: tuple[Table, ...]) -> None: ...
    def rollback(self) -> None: ...
    def state(self) -> State | None: ...
    def close(self) -> None: ...


class JsonlSink:
    """Writes every change as a record, in order; see the module for the guarantee.

    Drift is not detected, because records are not rows. Changes of a table during its backfill are
    written, too; the reader applies them by key.
    """

    Settings: ClassVar[type[msgspec.Struct]] = JsonlSettings

    def __init__(self, settings: JsonlSettings, pipeline: str) -> None:
        path = unquote(settings.url.removeprefix("jsonl:"))
        self._output: Output = (
            StandardOutput() if path == "-" else Folder(Path(path), pipeline, settings)
        )
        self._records = RecordEncoder(envelope=settings.envelope, name=pipeline)
        self._tables: dict[TableId, Table] = {}
        self._committed: dict[TableId, Table] = {}
        in_folder = isinstance(self._output, Folder)
        self.capabilities = Capabilities(
            guarantee="exactly once" if in_folder else "at least once",
            transactional=in_folder,
            upsert=False,
            schema_changes=True,
        )

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        if not isinstance(self._output, Folder):
            return [Finding("ok", "jsonl", "records go to standard output, at least once")]
        return [self._output.check()]

    async def open(self, epoch: int | None = None) -> State:
        with translate_errors():
            state = await asyncio.to_thread(self._output.open, epoch)
        self._committed = {table.id: table for table in state.tables}
        self._forget()
        return state

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        changes = [step for change in changes for step in _steps(change)]
        for change in changes:
            if isinstance(change, SchemaChange):
                if change.before is not None:
                    self._tables.pop(change.before.id, None)
                if change.after is not None:
                    self._tables[change.after.id] = change.after
        with translate_errors():
            await asyncio.to_thread(self._output.write, self._records.encode_all(changes))
        return Applied()

    async def commit(self, checkpoint: Checkpoint) -> None:
        with translate_errors():
            tables = tuple(self._tables.values())
            await asyncio.to_thread(self._output.commit, checkpoint, tables)
        self._committed = dict(self._tables)

    async def rollback(self) -> None:
        self._output.rollback()
        self._forget()

    async def state(self) -> State | None:
        with translate_errors():
            return await asyncio.to_thread(self._output.state)

    async def close(self) -> None:
        with translate_errors():
            await asyncio.to_thread(self._output.close)
        self._forget()

    def _forget(self) -> None:
        """Forget the open transaction."""
        self._tables = dict(self._committed)
        self._records.reset()


class StandardOutput:
    """Lines to standard output. The state is forgotten with the process."""

    def __init__(self) -> None:
        self._state = State(0, None, ())

    def open(self, epoch: int | None) -> State:
        self._state = State(self._state.epoch + 1, self._state.checkpoint, self._state.tables)
        return self._state

    def write(self, lines: bytes) -> None:
        sys.stdout.buffer.write(lines)

    def commit(self, checkpoint: Checkpoint, tables: tuple[Table, ...]) -> None:
        sys.stdout.buffer.flush()
        self._state = State(self._state.epoch, checkpoint, tables)

    def rollback(self) -> None:
        """Does nothing: lines that are written stay written, so records are at least once."""

    def state(self) -> State | None:
        return self._state if self._state.checkpoint is not None else None

    def close(self) -> None:
        sys.stdout.buffer.flush()


class Segment(msgspec.Struct, frozen=True):
    """The segment that grows. Its first ``length`` bytes are committed, and all of the segments
    before it.
    """

    segment: int = 1
    length: int = 0


class Folder:
    """The segments in a folder with a state file. They are written only under its lock, and only by
    the newest epoch.
    """

    def __init__(self, path: Path, pipeline: str, settings: JsonlSettings) -> None:
        self._path = path
        self._settings = settings
        self._state = StateFile(path, pipeline, Segment())
        self._finish_at = 0.0
        self._open: IO[bytes] | None = None  # the lines of the open transaction

    def check(self) -> Finding:
        there = self._state.unwritable()
        if there is None:
            return Finding("ok", "jsonl", f"records go to {self._path}, exactly once")
        action = f"give this user the right to write in {there}, or choose another folder"
        return Finding("error", "jsonl", f"{self._path} cannot be written", action, code="JL001")

    def open(self, epoch: int | None) -> State:
        self.rollback()
        state = self._state.open(epoch, self._tidy)
        self._finish_at = time.monotonic() + self._settings.segment_seconds
        return state

    def write(self, lines: bytes) -> None:
        if not lines:
            return
        if self._open is None:
            self._open = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._path))  # noqa: SIM115
        self._open.write(lines)

    def commit(self, checkpoint: Checkpoint, tables: tuple[Table, ...]) -> None:
        try:
            with self._state.writing() as stored:
                self._commit(stored.own, checkpoint, tables)
        except Fenced:
            self.rollback()
            raise
        self.rollback()

    def rollback(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def state(self) -> State | None:
        return self._state.state()

    def close(self) -> None:
        """Finish the segment. If a newer engine has it, or the disk refuses, the next ``open``
        will.
        """
        self.rollback()
        if not self._state.is_open:
            return
        try:
            with suppress(OSError, SinkLost, Fenced), self._state.writing() as stored:
                self._store(stored, finish=True)
        finally:
            self._state.close()

    def _commit(self, own: Segment, checkpoint: Checkpoint, tables: tuple[Table, ...]) -> None:
        length = self._append(self._part(own.segment), own.length)
        now = time.monotonic()
        full = length >= self._settings.segment_bytes or now >= self._finish_at
        self._store(Stored(checkpoint, tables, Segment(own.segment, length)), full)
        if full:
            self._finish_at = now + self._settings.segment_seconds

    def _append(self, part: Path, length: int) -> int:
        """Write the open transaction's lines after the first ``length`` bytes; the new length."""
        if self._open is None:
            return length
        with part.open("ab") as file:
            file.truncate(length)
            self._open.seek(0)
            copyfileobj(self._open, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def _store(self, stored: Stored[Segment], finish: bool) -> None:
        """Replace the state. With ``finish``, the state says that the segment is finished, and then
        the segment is renamed (after a crash in between, ``_tidy`` renames it).
        """
        own = stored.own
        finish = finish and own.length > 0
        if finish:
            os.truncate(self._part(own.segment), own.length)
            stored = stored._replace(own=Segment(own.segment + 1))
        self._state.replace(stored)
        if finish:
            self._publish(own.segment)
            self._state.sync_names()

    def _tidy(self, own: Segment) -> None:
        """Finish the segments that a killed engine has left, and cut off what is not committed."""
        for part in sorted(self._path.glob("changes-*.part")):
            number = int(re.sub(r"\D", "", part.stem))
            if number < own.segment:
                self._publish(number)
            elif number > own.segment or not own.length:
                part.unlink()
            else:
                os.truncate(part, own.length)

    def _publish(self, number: int) -> None:
        self._part(number).replace(self._path / f"changes-{number:08}.jsonl")

    def _part(self, number: int) -> Path:
        return self._path / f"changes-{number:08}.part"


def _steps(change: Change) -> Sequence[Change]:
    """A replaced table is recorded as one that is dropped, and another that is renamed."""
    return change.steps if isinstance(change, Replace) else (change,)
