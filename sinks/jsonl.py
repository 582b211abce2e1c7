"""
Change records in files, or on standard output (`jsonl:-`), a JSON line each: docs/records.md.

A folder holds numbered segments and the state:

    changes-00000001.jsonl     a finished segment: never changes again
    changes-00000002.part      the segment that grows; its last bytes may be uncommitted
    state.json                 checkpoint, table versions, and how much of the segment is committed
    epoch                      the number of the newest engine; the file that is locked

*Guarantee* of a folder: exactly once. The one moment at which a transaction becomes durable is the
replacement of ``state.json``, which holds the position and the length of the segment up to it; what
stands after that length is cut off before anything is written again. A segment is finished
(renamed) at a commit, so who reads ``*.jsonl`` sees each committed record once and nothing else,
though late: when the segment is full or old, or the engine stops.

*Guarantee* of standard output: at least once. Nothing is remembered, so each start begins anew.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Annotated, Literal, NoReturn, Protocol
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from engine.change import Change, Rows, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Applied, Finding, State
from engine.errors import Fenced, ParityError, SinkError, SinkLost
from engine.schema import Table, TableId
from engine.toolkit.record import RecordEncoder

__all__ = ["JsonlSettings", "JsonlSink"]

#: How much of an open transaction is kept in memory; the rest waits in a file without a name.
SPOOL_BYTES = 16 * 1024 * 1024
LOCK_SECONDS = 10.0
LOCK_RETRY_SECONDS = 0.01


class JsonlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url`` is ``jsonl:`` and the path of a folder, made where it is missing, or ``jsonl:-`` for
    standard output. ``envelope``: the form of a record. A segment is finished when it holds
    ``segment_bytes``, or at the first commit after ``segment_seconds``.
    """

    url: str
    envelope: Literal["plain", "debezium"] = "plain"
    segment_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    segment_seconds: Annotated[float, Meta(ge=0)] = 10.0


class Output(Protocol):
    """Where lines go. Everything blocks; OSError may come from anything."""

    def open(self, epoch: int | None) -> State: ...
    def write(self, lines: bytes) -> None: ...
    def commit(self, checkpoint: Checkpoint, tables: tuple[Table, ...]) -> None: ...
    def rollback(self) -> None: ...
    def state(self) -> State | None: ...
    def close(self) -> None: ...


class JsonlSink:
    """Writes every change as a record, in order; see the module for the guarantee.

    Records are no rows: drift is not seen, and the changes of a table that is being copied are
    written too, for the reader to apply by key.
    """

    Settings = JsonlSettings

    def __init__(self, settings: JsonlSettings, pipeline: str) -> None:
        path = unquote(settings.url.removeprefix("jsonl:"))
        self._output: Output = (
            StandardOutput() if path == "-" else Folder(Path(path), pipeline, settings)
        )
        self._records = RecordEncoder(envelope=settings.envelope, name=pipeline)
        self._tables: dict[TableId, Table] = {}
        self._committed: dict[TableId, Table] = {}

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        if not isinstance(self._output, Folder):
            return [Finding("ok", "jsonl", "records go to standard output, at least once")]
        return [self._output.check()]

    async def open(self, epoch: int | None = None) -> State:
        with _translate_errors():
            state = await asyncio.to_thread(self._output.open, epoch)
        self._committed = {table.id: table for table in state.tables}
        self._forget()
        return state

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        applied = Applied()
        for change in changes:
            if isinstance(change, Rows):
                kind = (change.table.id, change.op)
                applied.rows[kind] = applied.rows.get(kind, 0) + len(change)
            elif isinstance(change, SchemaChange):
                if change.before is not None:
                    self._tables.pop(change.before.id, None)
                if change.after is not None:
                    self._tables[change.after.id] = change.after
        with _translate_errors():
            await asyncio.to_thread(self._output.write, self._records.encode_all(changes))
        return applied

    async def commit(self, checkpoint: Checkpoint) -> None:
        with _translate_errors():
            tables = tuple(self._tables.values())
            await asyncio.to_thread(self._output.commit, checkpoint, tables)
        self._committed = dict(self._tables)

    async def rollback(self) -> None:
        self._output.rollback()
        self._forget()

    async def state(self) -> State | None:
        with _translate_errors():
            return await asyncio.to_thread(self._output.state)

    def row_reader(self) -> NoReturn:
        raise ParityError("change records cannot be compared with tables", hint="read the records")

    async def close(self) -> None:
        with _translate_errors():
            await asyncio.to_thread(self._output.close)
        self._forget()

    def _forget(self) -> None:
        """Nothing is open any more."""
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
        """What is written is written: at least once."""

    def state(self) -> State | None:
        return self._state if self._state.checkpoint is not None else None

    def close(self) -> None:
        sys.stdout.buffer.flush()


class Progress(msgspec.Struct, frozen=True):
    """A table's snapshot, as the state file holds it."""

    table: TableId
    progress: TableProgress


class StateFile(msgspec.Struct, frozen=True):
    """What ``state.json`` holds. Of segment number ``segment`` the first ``length`` bytes are
    committed, and all of those before it.
    """

    pipeline: str
    segment: int = 1
    length: int = 0
    position: str | None = None
    committed_at: float = 0.0
    epoch: int = 0
    snapshot: tuple[Progress, ...] = ()
    tables: tuple[Table, ...] = ()

    @classmethod
    def of(
        cls, segment: int, length: int, checkpoint: Checkpoint, tables: tuple[Table, ...]
    ) -> StateFile:
        snapshot = tuple(Progress(*item) for item in checkpoint.progress.items())
        return cls(
            *(checkpoint.pipeline, segment, length, checkpoint.position),
            *(checkpoint.committed_at, checkpoint.epoch, snapshot, tables),
        )

    def checkpoint(self) -> Checkpoint | None:
        if self.position is None:
            return None
        snapshot = {item.table: item.progress for item in self.snapshot}
        return Checkpoint(self.pipeline, self.epoch, self.position, self.committed_at, snapshot)


class Folder:
    """The segments and the state in one folder. Shared files are written only under the lock, and
    only by the newest epoch.
    """

    def __init__(self, path: Path, pipeline: str, settings: JsonlSettings) -> None:
        self._path = path
        self._pipeline = pipeline
        self._settings = settings
        self._epoch = 0
        self._finish_at = 0.0
        self._open: IO[bytes] | None = None  # the lines of the open transaction

    def check(self) -> Finding:
        there = next(path for path in (self._path, *self._path.parents) if path.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return Finding("ok", "jsonl", f"records go to {self._path}, exactly once")
        action = f"give this user the right to write in {there}, or choose another folder"
        return Finding("error", "jsonl", f"{self._path} cannot be written", action)

    def open(self, epoch: int | None) -> State:
        self._path.mkdir(parents=True, exist_ok=True)
        self.rollback()
        with self._locked() as lock:
            newest = _read_epoch(lock)
            if epoch is not None and epoch != newest:
                raise _fenced(newest, epoch)
            self._epoch = newest if epoch is not None else newest + 1
            os.pwrite(lock, b"%d\n" % self._epoch, 0)
            os.fsync(lock)
            stored = self._read_state()
            self._tidy(stored)
        self._finish_at = time.monotonic() + self._settings.segment_seconds
        return State(self._epoch, stored.checkpoint(), stored.tables)

    def write(self, lines: bytes) -> None:
        if not lines:
            return
        if self._open is None:
            self._open = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._path))  # noqa: SIM115
        self._open.write(lines)

    def commit(self, checkpoint: Checkpoint, tables: tuple[Table, ...]) -> None:
        with self._locked() as lock:
            self._refuse_if_fenced(lock)
            stored = self._read_state()
            length = self._append(self._part(stored.segment), stored.length)
            now = time.monotonic()
            full = length >= self._settings.segment_bytes or now >= self._finish_at
            self._store(StateFile.of(stored.segment, length, checkpoint, tables), full)
            if full:
                self._finish_at = now + self._settings.segment_seconds
        self.rollback()

    def rollback(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def state(self) -> State | None:
        if not (self._path / "epoch").exists():
            return None
        stored = self._read_state()
        epoch = int((self._path / "epoch").read_bytes() or b"0")
        return State(epoch, stored.checkpoint(), stored.tables)

    def close(self) -> None:
        """Finish the segment, unless a newer engine writes it now; else the next ``open`` will."""
        self.rollback()
        epoch, self._epoch = self._epoch, 0
        if not epoch:
            return
        with suppress(OSError, SinkLost), self._locked() as lock:
            if _read_epoch(lock) == epoch:
                self._store(self._read_state(), finish=True)

    def _append(self, part: Path, length: int) -> int:
        """Add the open transaction's lines after the first ``length`` bytes; the new length."""
        if self._open is None:
            return length
        with part.open("ab") as file:
            file.truncate(length)
            self._open.seek(0)
            copyfileobj(self._open, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def _store(self, state: StateFile, finish: bool) -> None:
        """Replace the state; with ``finish``, say first that the segment is finished, then rename
        it (or ``_tidy`` will).
        """
        finish = finish and state.length > 0
        if finish:
            os.truncate(self._part(state.segment), state.length)
            state = msgspec.structs.replace(state, segment=state.segment + 1, length=0)
        draft = self._path / "state.json.draft"
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path / "state.json")
        self._sync_names()
        if finish:
            self._publish(state.segment - 1)
            self._sync_names()

    def _tidy(self, stored: StateFile) -> None:
        """Do what an engine that was killed has left: finish segments, cut off what is not
        committed.
        """
        for part in sorted(self._path.glob("changes-*.part")):
            number = int(re.sub(r"\D", "", part.stem))
            if number < stored.segment:
                self._publish(number)
            elif number > stored.segment or not stored.length:
                part.unlink()
            else:
                os.truncate(part, stored.length)
        self._sync_names()

    def _publish(self, number: int) -> None:
        self._part(number).replace(self._path / f"changes-{number:08}.jsonl")

    def _part(self, number: int) -> Path:
        return self._path / f"changes-{number:08}.part"

    def _read_state(self) -> StateFile:
        path = self._path / "state.json"
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=StateFile)
        except FileNotFoundError:
            return StateFile(self._pipeline)
        except msgspec.DecodeError as error:
            raise SinkError(
                f"{path} is damaged", hint="restore it, or start anew in an empty folder"
            ) from error
        if stored.pipeline != self._pipeline:
            raise SinkError(
                f"the folder {self._path} belongs to the pipeline '{stored.pipeline}'",
                hint="choose a folder of its own for each pipeline",
            )
        return stored

    def _refuse_if_fenced(self, lock: int) -> None:
        newest = _read_epoch(lock)
        if newest != self._epoch:
            self.rollback()
            raise _fenced(newest, self._epoch)

    def _sync_names(self) -> None:
        """Make renames durable."""
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Generator[int, None, None]:
        """The open, locked file of the epoch. Raises SinkLost if another holds it too long."""
        file = os.open(self._path / "epoch", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _try_lock(file):
                if time.monotonic() > deadline:
                    raise SinkLost(
                        f"another process holds {self._path / 'epoch'}", hint="find and end it"
                    )
                time.sleep(LOCK_RETRY_SECONDS)
            yield file
        finally:
            os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_epoch(file: int) -> int:
    return int(os.pread(file, 32, 0) or b"0")


def _fenced(newest: int, mine: int) -> Fenced:
    return Fenced(
        f"epoch {newest} has taken over from epoch {mine}",
        hint="a newer engine runs this pipeline; stop one of them",
    )


@contextmanager
def _translate_errors() -> Generator[None, None, None]:
    """File errors become ours. A full disk may be emptied, so waiting can mend them."""
    try:
        yield
    except OSError as error:
        raise SinkLost(
            f"the folder cannot be written: {error.strerror or error}",
            hint="check the space, the rights and the disk",
        ) from error
