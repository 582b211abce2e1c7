"""
The rows of a backfill on their way into a sink that applies them while more are read.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from engine.change import Change, Chunk, Rows
from engine.contract import Applied
from engine.errors import TailraceError
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics, Work
from engine.pipeline.counters import WorkCounter
from engine.pipeline.twins import Twins
from engine.schema import TableId

__all__ = ["Reads", "UntilPause"]


class UntilPause:
    """The next ones of ``chunks``, until ``pauses`` is true after one of them.

    An error of the source is an end, too, so that what came before can be written and committed;
    ``finish`` then raises it.
    """

    def __init__(self, chunks: AsyncIterator[Chunk], pauses: Callable[[], bool]) -> None:
        self._chunks = chunks
        self._pauses = pauses
        self._ended = False
        #: Whether there was one.
        self.found = False
        #: The error of the source that ended them.
        self.error: TailraceError | None = None

    async def chunks(self) -> AsyncIterator[Chunk]:
        """The chunks."""
        try:
            async for chunk in self._chunks:
                self.found = True
                yield chunk
                if self._pauses():
                    return
            self._ended = True
        except TailraceError as error:
            self.error = error

    def finish(self) -> bool:
        """Whether chunks are left."""
        if self.error is not None:
            raise self.error
        return not self._ended


class Reads:
    """The rows of chunks as changes of the target, and what is counted of them.

    ``done`` is called with a chunk when the sink asks for the next one.
    """

    def __init__(
        self,
        chunks: AsyncIterator[Chunk],
        twins: Twins,
        mapping: Mapping,
        done: Callable[[Chunk], None],
        counter: WorkCounter,
        metrics: Metrics,
    ) -> None:
        self._chunks = chunks
        self._twins = twins
        self._mapping = mapping
        self._done = done
        self._counter = counter
        self._metrics = metrics
        self._started = time.perf_counter()
        self._waited_seconds = 0.0
        self._work: list[dict[tuple[TableId, str], Work]] = []
        #: The rows that were read last, as the source has them.
        self.last: list[Change] = []
        #: The number of rows that were read.
        self.read_rows = 0
        #: The error of the mapping that ended them, which has the name of the source's table.
        self.error: TailraceError | None = None

    async def rows(self) -> AsyncIterator[Rows]:
        """For ``AppliesReads.apply_reads``."""
        while True:
            started = time.perf_counter()
            chunk = await anext(self._chunks, None)
            self._waited_seconds += time.perf_counter() - started
            if chunk is None:
                return
            if chunk.rows:
                read = Rows(chunk.table, "read", None, chunk.rows, size=chunk.size)
                self.last[:] = [read]
                self.read_rows += len(read)
                self._work.append(self._counter.count(self.last))
                for target in self._targets():
                    assert isinstance(target, Rows)
                    yield target
            self._done(chunk)

    def _targets(self) -> Sequence[Change]:
        targets = self._twins.targets(self.last)
        if not self._mapping.active:
            return targets
        try:
            with self._metrics.stage("map"):
                return self._mapping.targets(targets)
        except TailraceError as error:
            self.error = error
            raise

    def count(self, found: Applied) -> None:
        """Count what was applied, and its time without the waits for the source."""
        elapsed = time.perf_counter() - self._started - self._waited_seconds
        self._metrics.stages["backfill"].observe(elapsed)
        for work in self._work:
            self._metrics.applied(work, Applied())
        self._metrics.applied({}, found)
