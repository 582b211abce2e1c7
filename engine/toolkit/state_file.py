"""
The state of a pipeline in a folder, for sinks that have no transactions of their own.

A folder belongs to one pipeline and holds, besides the sink's own files:

    state.json   the checkpoint, the table versions, and what the sink keeps with them
    epoch        the number of the newest engine; the file that is locked

``state.json`` is written to a draft, made durable (fsync), and renamed over the old one. So it is
always whole, and its replacement is the moment at which a commit happens. A sink states in its own
part (``own``) how much of its files belongs to that commit:

    {"layout": 2,
     "state": {"pipeline": "shop", "epoch": 3, "position": "…", "committed_at": 1.5,
               "progress": [{"table": {…}, "progress": {…}}], "tables": [{…}]},
     "own": {"segment": 1, "length": 3737}}

Fencing: ``open`` raises the number in ``epoch``, and ``writing`` refuses an engine whose number is
not the newest. Both hold the lock of that file, so an older engine cannot write after a newer one
has opened the folder.

Layouts: a file without ``layout`` has layout 1, where all fields are at the top level. ``open``
upgrades it; ``read`` and ``state`` convert it in memory. In layout 2 ``pipeline`` is not at the top
level, so version 0.1.0, which does not read ``layout``, refuses the file as damaged. It would take
the other fields for absent, and delete the segments.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import State
from engine.errors import Fenced, SinkError, SinkLost, SinkRejected
from engine.schema import Table, TableId
from engine.toolkit.state_migration import (
    LAYOUT,
    UPGRADED,
    require_known,
    upgrade_progress,
    upgrade_table,
)

__all__ = ["StateFile", "Stored", "translate_errors"]

log = logging.getLogger("tailrace.state")

LOCK_SECONDS = 10.0
LOCK_RETRY_SECONDS = 0.01

Own = TypeVar("Own", bound=msgspec.Struct)


class Stored(NamedTuple, Generic[Own]):
    """What ``state.json`` holds: ``checkpoint`` is None before the first commit."""

    checkpoint: Checkpoint | None
    tables: tuple[Table, ...]
    own: Own


class _Progress(msgspec.Struct, frozen=True):
    table: TableId
    progress: TableProgress


class _State(msgspec.Struct, frozen=True):
    pipeline: str
    epoch: int = 0
    position: str | None = None
    committed_at: float = 0.0
    progress: tuple[_Progress, ...] = ()
    tables: tuple[Table, ...] = ()


class _File(msgspec.Struct, frozen=True):
    layout: int
    state: _State
    own: msgspec.Raw


class _Layout(msgspec.Struct):
    layout: int = 1


class StateFile(Generic[Own]):
    """The state of ``pipeline`` in ``folder``; ``initial`` is ``own`` before the first commit.

    Everything blocks. ``OSError`` may come from any method; see ``translate_errors``.
    """

    def __init__(self, folder: Path, pipeline: str, initial: Own) -> None:
        self.folder = folder
        self._pipeline = pipeline
        self._initial = initial
        self._epoch = 0

    @property
    def is_open(self) -> bool:
        """Whether ``open`` was called, and ``close`` was not."""
        return self._epoch > 0

    def unwritable(self) -> Path | None:
        """The folder in which files cannot be created; None if they can be. Changes nothing."""
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else there

    def open(self, epoch: int | None, tidy: Callable[[Own], None]) -> State:
        """Take a new epoch, or confirm ``epoch``, as ``Sink.open``; the folder is made if missing.

        ``tidy`` is called under the lock, to remove what a killed engine has left. Raises
        ``Fenced``, or ``SinkError`` if the state belongs to another pipeline, is damaged or has a
        newer layout; then nothing is changed, and a running engine keeps its epoch.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked() as lock:
            newest = _read_epoch(lock)
            if epoch is not None and epoch != newest:
                raise _fenced(newest, epoch)
            layout, stored = self._read()
            self._epoch = newest if epoch is not None else newest + 1
            os.pwrite(lock, b"%d\n" % self._epoch, 0)
            os.fsync(lock)
            if layout != LAYOUT:
                self.replace(stored)
                extra = {"from_layout": layout, "to_layout": LAYOUT, "tables": len(stored.tables)}
                log.info(UPGRADED, extra=extra)
            tidy(stored.own)
            self.sync_names()
        return State(self._epoch, stored.checkpoint, stored.tables)

    def read(self) -> Stored[Own]:
        """The stored state; the initial one if there is none. Changes nothing."""
        return self._read()[1]

    def state(self) -> State | None:
        """The stored state as ``Sink.state`` has it, with the newest epoch; None if the folder has
        not been opened yet.
        """
        path = self.folder / "epoch"
        if not path.exists():
            return None
        stored = self.read()
        return State(int(path.read_bytes() or b"0"), stored.checkpoint, stored.tables)

    @contextmanager
    def writing(self) -> Generator[Stored[Own], None, None]:
        """Hold the lock, and give the stored state. Raises ``Fenced`` if there is a newer epoch."""
        with self._locked() as lock:
            newest = _read_epoch(lock)
            if newest != self._epoch:
                raise _fenced(newest, self._epoch)
            yield self.read()

    def replace(self, stored: Stored[Own]) -> None:
        """Replace ``state.json``. Call it inside ``writing``."""
        checkpoint = stored.checkpoint
        state = _State(self._pipeline, tables=stored.tables)
        if checkpoint is not None:
            state = _State(
                *(checkpoint.pipeline, checkpoint.epoch, checkpoint.position),
                committed_at=checkpoint.committed_at,
                progress=tuple(_Progress(*item) for item in checkpoint.progress.items()),
                tables=stored.tables,
            )
        file = _File(LAYOUT, state, msgspec.Raw(msgspec.json.encode(stored.own)))
        draft = self.folder / "state.json.draft"
        with draft.open("wb") as output:
            output.write(msgspec.json.encode(file))
            output.flush()
            os.fsync(output.fileno())
        draft.replace(self.folder / "state.json")
        self.sync_names()

    def sync_names(self) -> None:
        """Make creations and renames in the folder durable."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Give the folder up; the epoch stays the newest until another engine opens it."""
        self._epoch = 0

    def _read(self) -> tuple[int, Stored[Own]]:
        """The layout of the file, and its content."""
        path = self.folder / "state.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return LAYOUT, Stored(None, (), self._initial)
        try:
            layout = msgspec.json.decode(text, type=_Layout).layout
            require_known(layout, str(path))
            file = msgspec.json.decode(_from_layout_1(text) if layout == 1 else text, type=_File)
            own = msgspec.json.decode(file.own, type=type(self._initial))
        except msgspec.DecodeError as error:
            raise SinkError(
                f"{path} is damaged", hint="restore it, or start anew in an empty folder"
            ) from error
        state = file.state
        if state.pipeline != self._pipeline:
            raise SinkError(
                f"the folder {self.folder} belongs to the pipeline '{state.pipeline}'",
                hint="choose a folder of its own for each pipeline",
            )
        checkpoint = None
        if state.position is not None:
            progress = {item.table: item.progress for item in state.progress}
            checkpoint = Checkpoint(
                state.pipeline, state.epoch, state.position, state.committed_at, progress
            )
        return layout, Stored(checkpoint, state.tables, own)

    @contextmanager
    def _locked(self) -> Generator[int, None, None]:
        """The open, locked file of the epoch. Raises ``SinkLost`` if another process keeps it."""
        file = os.open(self.folder / "epoch", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _try_lock(file):
                if time.monotonic() > deadline:
                    raise SinkLost(
                        f"another process holds {self.folder / 'epoch'}", hint="find and end it"
                    )
                time.sleep(LOCK_RETRY_SECONDS)
            yield file
        finally:
            os.close(file)


@contextmanager
def translate_errors() -> Generator[None, None, None]:
    """Inside, ``OSError`` becomes ``SinkLost``, which is retried: a full disk may be emptied. If
    the path is not a folder, or not a writable one, it becomes ``SinkRejected``.
    """
    try:
        yield
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise SinkRejected(
            f"the folder cannot be used: {error.strerror or error}",
            hint="name a folder that may be written in [sink] url",
        ) from error
    except OSError as error:
        raise SinkLost(
            f"the folder cannot be written: {error.strerror or error}",
            hint="check the space, the rights and the disk",
        ) from error


def _from_layout_1(text: bytes) -> bytes:
    """The content of a file of layout 1 in layout 2. Raises ``msgspec.DecodeError``."""
    own = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    named = ("pipeline", "epoch", "position", "committed_at")
    state: dict[str, object] = {name: own.pop(name) for name in named if name in own}
    snapshot = own.pop("snapshot", msgspec.Raw(b"[]"))
    state["progress"] = [
        {"table": item.table, "progress": upgrade_progress(item.progress)}
        for item in msgspec.json.decode(snapshot, type=list[_Progress1])
    ]
    tables = own.pop("tables", msgspec.Raw(b"[]"))
    state["tables"] = [
        msgspec.Raw(upgrade_table(bytes(table)))
        for table in msgspec.json.decode(tables, type=list[msgspec.Raw])
    ]
    return msgspec.json.encode({"layout": 2, "state": state, "own": own})


class _Progress1(msgspec.Struct):
    table: TableId
    progress: dict[str, object]


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
