"""
The queue between the thread that reads and decodes the log and the event loop, bounded in bytes.

The bound is the back-pressure: a full queue blocks the reader's thread, which stops receiving, so
the source's server waits. Huge rows are also applied before the next ones are read, so they are not
in memory together. The event loop is woken once for all batches that wait, not once per change.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from engine.change import Change
from engine.errors import TailraceError
from engine.pipeline.batching import first_commit, weigh

__all__ = ["ReadBatch", "ReaderQueue"]

#: Read batches that are so many times as large as the queue are applied before the next is read.
HUGE_TIMES = 4


class ReadBatch(msgspec.Struct, frozen=True, gc=False):
    """The changes of one read of the log, with ``rows`` and ``size`` as ``weigh`` counts them."""

    changes: list[Change]
    rows: int
    size: int


class ReaderQueue:
    """Runs ``read`` on its own thread and hands what it yields to the event loop, in order.

    About ``max_bytes`` (as ``weigh`` counts) may wait; nothing is read while there is more. A call
    of ``get`` says that what was taken before is applied, or is small. ``get`` raises the reader's
    error after everything that was read before it.

    ``measure`` is called on that thread, for each read batch: with the seconds until ``read`` had
    it, and with those until there was room for it.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[list[Change]]],
        max_bytes: int,
        measure: Callable[[float, float], None] | None = None,
    ) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._measure = measure
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._room = threading.Condition()
        self._waiting: deque[ReadBatch] = deque()
        self._size = 0
        #: The bytes of huge batches that were taken, until the next ``get``.
        self._taken = 0
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tailrace-reader", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether ``get`` would return something at once."""
        return bool(self._waiting)

    @property
    def size(self) -> int:
        """The bytes that wait, as ``weigh`` counts them."""
        return self._size

    @property
    def waiting_since(self) -> float:
        """When the source committed the first transaction that waits; 0.0 if there is none."""
        with self._room:
            waiting = list(self._waiting)
        return first_commit(change for batch in waiting for change in batch.changes)

    @property
    def failed(self) -> bool:
        """Whether ``get`` would raise the reader's error at once."""
        return self._error is not None and not self._waiting

    @property
    def ended(self) -> bool:
        """Whether the log has ended without an error, and everything was taken."""
        return self._ended and not self._waiting and self._error is None

    async def get(self, timeout_seconds: float, max_rows: int, max_bytes: int) -> list[ReadBatch]:
        """Take what waits, up to the read with which it is so many rows or bytes. Returns an empty
        list after the timeout, or at once if the log has ended.

        Raises the reader's error once everything before it was taken.
        """
        with self._room:
            self._taken = 0
            self._room.notify()
        if not self._waiting and not self._ended:
            self._arrived.clear()
            if not self._waiting and not self._ended:
                try:
                    async with asyncio.timeout(timeout_seconds):
                        await self._arrived.wait()
                except TimeoutError:
                    return []
        taken: list[ReadBatch] = []
        rows = size = 0
        with self._room:
            while self._waiting and rows < max_rows and size < max_bytes:
                taken.append(self._waiting.popleft())
                rows += taken[-1].rows
                size += taken[-1].size
            self._size -= size
            huge = HUGE_TIMES * self._max_bytes
            self._taken = sum(it.size for it in taken if it.size > huge)
            self._room.notify()
        if not taken and self._error is not None:
            raise self._error
        return taken

    async def close(self) -> None:
        """Wait until the reader has ended. The caller has stopped the source."""
        with self._room:
            self._closed = True
            self._room.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            started = time.perf_counter()
            for changes in self._read():
                had = time.perf_counter()
                if not self._put(changes):
                    break
                put = time.perf_counter()
                if self._measure is not None:
                    self._measure(had - started, put - had)
                started = put
                changes = []  # they are not kept while the reader waits
        except BaseException as error:  # noqa: BLE001 - get() raises it again on the event loop
            self._error = error
            if not isinstance(error, TailraceError):
                error.add_note("raised by the thread that reads the log")
        self._ended = True
        self._wake()

    def _put(self, changes: list[Change]) -> bool:
        batch = ReadBatch(changes, *weigh(changes))
        with self._room:
            self._waiting.append(batch)
            self._size += batch.size
            first = len(self._waiting) == 1
        if first:
            self._wake()
        with self._room:
            self._room.wait_for(lambda: self._closed or self._size + self._taken < self._max_bytes)
            return not self._closed

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._arrived.set)
