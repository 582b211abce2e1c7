"""The queue between the reader's thread and the event loop bounds what is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from engine.change import Change, Rows
from engine.pipeline.reader_queue import HUGE_TIMES, ReaderQueue
from engine.schema import Column, Table, TableId, Type
from tests.support.waiting import wait_until

MAX_BYTES = 1000
#: The rows and bytes that ``get`` takes at most.
MOST = 1000, 1000 * MAX_BYTES
TABLE = Table(TableId("shop", "t"), (Column("id", Type("int32"), "int"),), (0,))


class Log:
    """A log of rows of these sizes; ``read`` counts those that the reader has read."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes
        self.read = 0

    def __call__(self) -> Iterator[list[Change]]:
        for size in self._sizes:
            self.read += 1
            yield [Rows(TABLE, "insert", None, [(1,)], size=size)]


async def takes(queue: ReaderQueue, log: Log, read: int) -> int:
    """How many read batches ``get`` takes once ``read`` were read."""
    await asyncio.to_thread(wait_until, lambda: log.read == read and queue.ready, 10, "the reader")
    return len(await queue.get(10, *MOST))


async def closed(queue: ReaderQueue) -> None:
    await queue.close()
    assert not queue.failed


def test_nothing_is_read_while_the_queue_is_full() -> None:
    async def check() -> None:
        log = Log(*[MAX_BYTES // 2] * 6)
        queue = ReaderQueue(log, MAX_BYTES)
        assert await takes(queue, log, 2) == 2
        assert await takes(queue, log, 4) == 2
        await closed(queue)
        assert log.read <= 6

    asyncio.run(check())


def test_a_huge_row_is_applied_before_the_next_one_is_read() -> None:
    async def check() -> None:
        log = Log(*[HUGE_TIMES * MAX_BYTES] * 3)
        queue = ReaderQueue(log, MAX_BYTES)
        assert await takes(queue, log, 1) == 1
        assert log.read == 1
        assert len(await queue.get(10, *MOST)) == 1  # which says that the first one is applied
        assert log.read == 2
        assert len(await queue.get(10, *MOST)) == 1
        await closed(queue)

    asyncio.run(check())
