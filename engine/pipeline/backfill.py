"""
Backfill tables between two batches of the stream.

The idea: copying is a guest. It has a turn only when the target is at a commit, takes as long as
the stream has nothing to say, and leaves the target at a commit again. What may be small shares:
chunks of several tables share a target transaction, and tables that seem to be empty are asked for
many at a time, so that one more of them costs next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing

from engine.change import Chunk, Rows, Truncate
from engine.contract import Sink, Source
from engine.errors import SchemaError, ShapeChanged
from engine.ops.metrics import Metrics
from engine.pipeline.table_progress import ProgressTracker
from engine.schema import Table, TableId
from engine.settings.loader import BackfillSettings

__all__ = ["Backfill"]

#: How much copying one target transaction holds at least, unless the stream has its turn before.
COMMIT_SECONDS = 0.2
#: Of so many tables it is asked at a time whether they are empty.
EMPTY_TABLES = 250


class Backfill:
    """Copies the tables of ``snapshot`` from ``source`` into ``sink``, turn by turn.

    ``save`` commits what was applied together with the snapshot's progress; ``copied`` is told how
    many rows were applied; ``others_wait`` and ``stopping`` say why a turn should end.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        snapshot: ProgressTracker,
        settings: BackfillSettings,
        metrics: Metrics,
        *,
        save: Callable[[], Awaitable[None]],
        copied: Callable[[int], None],
        others_wait: Callable[[], bool],
        stopping: Callable[[], bool],
    ) -> None:
        self._source = source
        self._sink = sink
        self._snapshot = snapshot
        self._settings = settings
        self._metrics = metrics
        self._save_all = save
        self._count_rows = copied
        self._others_wait = others_wait
        self._stopping = stopping
        self._open = False  # something is applied that is not saved
        self._started = self._saved_at = 0.0
        self._position = ""
        self._asked: set[TableId] = set()  # whether they are empty
        self._blocked: tuple[Table, str] | None = None

    def possible(self, position: str) -> bool:
        """Whether there is something to copy for a stream that is applied up to ``position``."""
        if self._snapshot.next_table() is None:
            return False
        return self._blocked is None or self._source.reached(position, self._blocked[1])

    async def turn(self, position: str) -> None:
        """Copy for a while; the stream is applied up to ``position``, and the target is at a
        commit, as it is again afterwards.
        """
        self._started, self._position = time.monotonic(), position
        while self.possible(position) and (table := self._snapshot.next_table()) is not None:
            try:
                await self._copy(table)
            except ShapeChanged as error:
                await self._wait_for_shape(table, error)
            if self._turn_is_over():
                break
        await self._settle()
        if self._open:
            await self._save()

    async def _copy(self, table: Table) -> None:
        if not table.key:
            await self._copy_whole(table)
        elif self._seems_empty(table):
            await self._pass_empty()
        else:
            await self._copy_chunks(table)

    def _turn_is_over(self) -> bool:
        """Backfill goes on while nothing else waits for its turn, else for ``slice_seconds``."""
        if self._stopping():
            return True
        elapsed = time.monotonic() - self._started
        return elapsed >= self._settings.slice_seconds and self._others_wait()

    async def _save(self) -> None:
        await self._save_all()
        self._open = False
        self._saved_at = time.monotonic()

    async def _settle(self) -> None:
        """Where nothing was written to the source while a table was copied, it is right already.
        Many tables take many transactions, since each holds locks for as long as it lasts.
        """
        while settled := self._snapshot.passed(self._position, self._source.reached):
            await self._sink.apply(settled)
            await self._save()

    # -- tables without rows -----------------------------------------------------------------------

    def _seems_empty(self, table: Table) -> bool:
        progress = self._snapshot.progress[table.id]
        return (
            progress.state == "pending"
            and not progress.estimate
            and bool(table.key)
            and table.id not in self._asked
        )

    async def _pass_empty(self) -> None:
        """Be done with some of the tables that seem to be empty, as far as they are; the others
        are copied like any.
        """
        tables = list(filter(self._seems_empty, self._snapshot.pending))[:EMPTY_TABLES]
        self._asked.update(table.id for table in tables)
        chunks = await asyncio.to_thread(self._source.empty, tables, self._position)
        for chunk in chunks:
            self._snapshot.copied(chunk)
        if chunks:
            self._open, self._blocked = True, None
            await self._settle()

    # -- chunks ------------------------------------------------------------------------------------

    async def _copy_chunks(self, table: Table) -> None:
        """Copy chunk by chunk until the turn is over. Small ones, perhaps of several tables, share
        a commit.
        """
        async with aclosing(self._chunks(table)) as chunks:
            async for chunk in chunks:
                await self._apply(chunk)
                self._open = True
                if time.monotonic() - self._saved_at >= COMMIT_SECONDS:
                    await self._save()
                if self._turn_is_over():
                    break

    async def _copy_whole(self, table: Table) -> None:
        """Copy a table without a key in one target transaction, since it is read at one
        position.
        """
        if self._open:
            await self._save()
        saved = False
        try:
            await self._sink.apply([Truncate(table)], {table.id})
            async with aclosing(self._chunks(table)) as chunks:
                async for chunk in chunks:
                    await self._apply(chunk)
                    if self._stopping():
                        break
            if self._snapshot.progress[table.id].state == "catching_up":
                await self._save()
                saved = True
        finally:
            if not saved:
                self._snapshot.restart(table.id)
                await self._sink.rollback()

    async def _apply(self, chunk: Chunk) -> None:
        if chunk.rows:
            rows = Rows(chunk.table, "read", None, chunk.rows, size=chunk.size)
            with self._metrics.stage("copy"):
                self._metrics.applied(await self._sink.apply([rows], {chunk.table.id}))
        self._snapshot.copied(chunk)
        self._blocked = None
        self._count_rows(len(chunk.rows))

    async def _chunks(self, table: Table) -> AsyncGenerator[Chunk, None]:
        """The table's chunks from its cursor on; the next is read while one is written."""
        chunks = self._source.chunks(
            table,
            self._snapshot.progress[table.id].cursor,
            self._position,
            rows=self._settings.chunk_rows,
            readers=self._settings.readers,
        )
        ahead = asyncio.ensure_future(asyncio.to_thread(next, chunks, None))
        try:
            while (chunk := await ahead) is not None:
                ahead = asyncio.ensure_future(asyncio.to_thread(next, chunks, None))
                yield chunk
        finally:
            # Shielded: a generator cannot be closed while a thread runs it.
            await asyncio.shield(_close_after(ahead, chunks))

    async def _wait_for_shape(self, table: Table, error: ShapeChanged) -> None:
        """The log is behind the live table: copy again when the stream has passed what is in it
        now.

        If it has and the shape still differs, the change is not in the log, so it never comes.
        """
        if self._blocked is not None and self._blocked[0] == table:
            raise SchemaError(
                "the table was altered in a way that the log does not tell",
                hint="undo the change, or remove the table from the pipeline and add it again",
                table=table.id,
                position=self._position,
            ) from error
        self._blocked = (table, await asyncio.to_thread(self._source.position))


async def _close_after(
    ahead: asyncio.Future[Chunk | None], chunks: Generator[Chunk, None, None]
) -> None:
    await asyncio.gather(ahead, return_exceptions=True)
    await asyncio.to_thread(chunks.close)
