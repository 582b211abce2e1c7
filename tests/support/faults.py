"""
A sink that fails as told: around any other, to see that nothing is lost or repeated then.

The idea: the four ways in which a target can behave badly towards a write, as *supabase/etl* has
them: it refuses, it does the work and the answer is lost, it holds the answer back, it is slow.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Literal, TypeVar

from engine.change import Change
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Finding, RowReader, Sink, State
from engine.errors import SinkLost
from engine.schema import Table, TableId

__all__ = ["FailAfter", "Fault", "FaultySink", "Hold", "Late", "Reject"]

T = TypeVar("T")
Call = Literal["open", "apply", "commit"]


class Fault:
    """What happens to one call instead of its plain execution."""

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError


class Reject(Fault):
    """The connection breaks before the work is done."""

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        raise SinkLost("the connection broke before the work was done")


class FailAfter(Fault):
    """The work is done, then the connection breaks, so the answer is lost."""

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        await work()
        raise SinkLost("the connection broke before the answer came")


class Hold(Fault):
    """The work is done, and the answer comes when ``release`` is set."""

    def __init__(self, deadline_seconds: float = 30.0) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self._deadline_seconds = deadline_seconds

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        result = await work()
        self.reached.set()
        async with asyncio.timeout(self._deadline_seconds):
            await self.release.wait()
        return result


class Late(Fault):
    """The call is slow: the work begins when ``release`` is set."""

    def __init__(self, deadline_seconds: float = 30.0) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self._deadline_seconds = deadline_seconds

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        self.reached.set()
        async with asyncio.timeout(self._deadline_seconds):
            await self.release.wait()
        return await work()


class FaultySink:
    """Passes everything on to ``sink``, but for the calls for which a fault is planned.

    After a fault the inner connection is closed, as a broken one would be.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._planned: dict[Call, deque[Fault | None]] = defaultdict(deque)
        self.Settings = sink.Settings

    def plan(self, call: Call, *faults: Fault | None) -> None:
        """The next calls meet these faults, one each; None: the call is executed plainly."""
        self._planned[call].extend(faults)

    async def open(self, epoch: int | None = None) -> State:
        return await self._call("open", lambda: self._sink.open(epoch))

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        return await self._call("apply", lambda: self._sink.apply(changes, in_backfill))

    async def commit(self, checkpoint: Checkpoint) -> None:
        await self._call("commit", lambda: self._sink.commit(checkpoint))

    async def rollback(self) -> None:
        await self._sink.rollback()

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        return await self._sink.check(tables)

    async def state(self) -> State | None:
        return await self._sink.state()

    def row_reader(self) -> RowReader:
        return self._sink.row_reader()

    async def close(self) -> None:
        await self._sink.close()

    async def _call(self, call: Call, work: Callable[[], Awaitable[Any]]) -> Any:
        planned = self._planned[call]
        fault = planned.popleft() if planned else None
        if fault is None:
            return await work()
        try:
            return await fault.around(work)
        except SinkLost:
            await self._sink.close()
            raise
