"""
A sink around another, whose calls fail as planned.

There is one fault for each way in which a target can fail a write, as in *supabase/etl*: it
refuses, it does the work and the answer is lost, it delays the answer, it delays the work.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import ClassVar, Literal, TypeVar

import msgspec

from engine.change import Change
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Capabilities, Finding, Sink, State
from engine.errors import SinkLost
from engine.schema import Table, TableId

__all__ = ["FailAfter", "Fault", "FaultySink", "Hold", "Late", "Reject"]

T = TypeVar("T")
Call = Literal["open", "apply", "commit"]


class Fault(ABC):
    """What happens to one call instead of its plain execution."""

    @abstractmethod
    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        """Execute ``work``, or fail."""


class Reject(Fault):
    """The connection breaks before the work is done."""

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        """Raise ``SinkLost``."""
        raise SinkLost("the connection broke before the work was done")


class FailAfter(Fault):
    """The work is done, then the connection breaks, so the answer is lost."""

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        """Execute ``work``, then raise ``SinkLost``."""
        await work()
        raise SinkLost("the connection broke before the answer came")


class Hold(Fault):
    """The work is done, and the answer comes when ``release`` is set."""

    def __init__(self, deadline_seconds: float = 30.0) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self._deadline_seconds = deadline_seconds

    async def around(self, work: Callable[[], Awaitable[T]]) -> T:
        """Execute ``work``, and return when ``release`` is set."""
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
        """Execute ``work`` when ``release`` is set."""
        self.reached.set()
        async with asyncio.timeout(self._deadline_seconds):
            await self.release.wait()
        return await work()


class FaultySink:
    """Passes every call on to ``sink``, except those for which a fault is planned.

    After a fault the inner sink is closed, as its broken connection would be.
    """

    #: Not used: the inner sink has its settings already.
    Settings: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._planned: dict[Call, deque[Fault | None]] = defaultdict(deque)

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner sink."""
        return self._sink.capabilities

    def plan(self, call: Call, *faults: Fault | None) -> None:
        """The next calls meet these faults, one each. None: the call is executed plainly."""
        self._planned[call].extend(faults)

    async def open(self, epoch: int | None = None) -> State:
        """As the inner sink, or the planned fault."""
        return await self._call("open", lambda: self._sink.open(epoch))

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        """As the inner sink, or the planned fault."""
        return await self._call("apply", lambda: self._sink.apply(changes, in_backfill))

    async def commit(self, checkpoint: Checkpoint) -> None:
        """As the inner sink, or the planned fault."""
        await self._call("commit", lambda: self._sink.commit(checkpoint))

    async def rollback(self) -> None:
        """As the inner sink."""
        await self._sink.rollback()

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        """As the inner sink."""
        return await self._sink.check(tables)

    async def state(self) -> State | None:
        """As the inner sink."""
        return await self._sink.state()

    async def close(self) -> None:
        """As the inner sink."""
        await self._sink.close()

    async def _call(self, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        planned = self._planned[call]
        fault = planned.popleft() if planned else None
        if fault is None:
            return await work()
        try:
            return await fault.around(work)
        except SinkLost:
            await self._sink.close()
            raise
