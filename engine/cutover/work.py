"""
What each step of a cutover does. ``machine.py`` has the order of the steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from engine.cutover.parts import BY_HOOK, Parts, Waits
from engine.cutover.proving import prove
from engine.cutover.readiness import require_alone, require_drained
from engine.cutover.record import Record, warned
from engine.cutover.steps import CHOICE, LONGER, NO_WAY_BACK, way_back
from engine.errors import TailraceError
from engine.handover import BEFORE_SWITCH, Cutover, CutoverState, KeepsCutovers, Numbers
from engine.verify.report import VerifyReport

__all__ = ["Work"]

#: The warning about sessions from before the freeze, around their users.
_OLDER: Final = "connected to the source since before the freeze: "
_END_THEM: Final = (
    ". A session keeps rights that were revoked: end those that can write (KILL), in the hook"
    " freeze"
)


class Work:
    """The work of the steps. Each takes the record, and returns it with what the step has found,
    and what was done in words. Each may be repeated.
    """

    def __init__(self, parts: Parts, waits: Waits, record: Record) -> None:
        self._parts = parts
        self._waits = waits
        self._record = record
        self._sink = parts.sink
        self._freezer = parts.freezer
        self._hooks = parts.hooks
        self._settings = parts.settings
        #: The newest session of the source when the hook freeze had ended last.
        self._newest: int | None = None
        #: Whether another process has begun the step that is under way.
        self.left = False
        self._of: Mapping[CutoverState, Callable[[Cutover], Awaitable[tuple[Cutover, str]]]] = {
            "freeze": self._freeze,
            "drain": self._drain,
            "verify": self._verify,
            "finish": self._finish,
            "arm": self._arm,
            "switch": self._switch,
            "stop": self._stop,
        }

    async def do(self, step: CutoverState, cutover: Cutover) -> tuple[Cutover, str]:
        """Do a step."""
        return await self._of[step](cutover)

    async def _freeze(self, cutover: Cutover) -> tuple[Cutover, str]:
        if cutover.before is None:
            by_hook = self._hooks.given("freeze")
            before = BY_HOOK if by_hook else await asyncio.to_thread(self._freezer.before)
            cutover = msgspec.structs.replace(cutover, before=before, frozen_at=time.time())
            await self._record.save(cutover)
        cutover = await self.stand_still(cutover)
        cutover = warned(cutover, await self._older(cutover))
        return cutover, f"the log stood still for {self._settings.quiet_seconds:g} s"

    async def _drain(self, cutover: Cutover) -> tuple[Cutover, str]:
        await self._waits.passed(cutover.end, self._waits.left(cutover))
        await self._waits.require_frozen(cutover)
        await require_drained(self._parts, cutover.end)
        return cutover, "the target has the whole log"

    async def _verify(self, cutover: Cutover) -> tuple[Cutover, str]:
        async def compare(names: Sequence[str]) -> VerifyReport:
            try:
                async with asyncio.timeout(self._waits.left(cutover)):
                    return await self._parts.compare(names)
            except TimeoutError as error:
                raise TailraceError(
                    "the tables were not compared within max_downtime_seconds", hint=LONGER
                ) from error

        parts = self._parts._replace(compare=compare)
        left = self._waits.left(cutover)
        proven = await prove(parts, left, frozen=cutover.before is not None)
        return msgspec.structs.replace(cutover, proofs=proven.tables), proven.did

    async def _finish(self, cutover: Cutover) -> tuple[Cutover, str]:
        state = await self._sink.state()
        sink = self._sink
        assert isinstance(sink, KeepsCutovers)
        tables = [] if state is None else [table.id for table in state.tables]
        counters = {} if state is None else await self._parts.counters(state)
        done = await sink.finish(tables, Numbers(self._settings.sequence_margin, counters))
        return warned(cutover, done.left), (
            f"sequences set: {done.sequences}, constraints validated: {done.constraints},"
            f" statistics of {done.tables} tables"
        )

    async def _arm(self, cutover: Cutover) -> tuple[Cutover, str]:
        if cutover.before is not None:  # no rehearsal
            await self._waits.require_frozen(cutover)
        await require_alone(self._parts)
        return cutover, NO_WAY_BACK

    async def _switch(self, cutover: Cutover) -> tuple[Cutover, str]:
        try:
            await self._waits.require_frozen(cutover)
        except TailraceError as error:
            error.hint = CHOICE
            raise
        try:
            await self._hooks.call("switch", cutover)
        except TailraceError as error:
            error.hint += f"; or {way_back(switch_back=self._hooks.given('switch_back'))}"
            raise
        cutover = msgspec.structs.replace(cutover, switched_at=time.time())
        return cutover, f"switched; the downtime was {cutover.downtime_seconds or 0.0:.2f} s"

    async def _stop(self, cutover: Cutover) -> tuple[Cutover, str]:
        """End the engine, so that it applies nothing that the source may get from now on."""
        did = await self._parts.engine.stop()
        try:
            frozen = cutover
            if self.left or not await self._waits.frozen(cutover):
                frozen = await self.stand_still(cutover)
                cutover = msgspec.structs.replace(cutover, freezes=frozen.freezes)
            written = await self._waits.written(cutover.end, frozen.end)
        except TailraceError as error:
            warning = (
                f"the source could not be frozen again: {error.message}. Make sure that no"
                " application writes to it"
            )
            return warned(cutover, [warning]), did
        if written:
            warning = (
                f"THE SOURCE WAS WRITTEN AFTER THE FREEZE: {written}. The target lacks these"
                " changes, or has them over newer rows: compare both before the source is given up"
            )
            cutover = warned(cutover, [warning])
        try:
            older = await self._older(cutover)
        except TailraceError as error:
            older = [f"it is not known who is connected to the source: {error.message}"]
        return warned(cutover, older), did

    async def _older(self, cutover: Cutover) -> list[str]:
        """The warning about sessions of the source from before the freeze by a hook. They keep the
        rights on databases that they had, so they can write although the log stands still. Users
        that the record names already are left out.
        """
        if self._newest is None:
            return []
        found = await asyncio.to_thread(self._freezer.clients, self._newest)
        known = _named(cutover.warnings)
        users = [it for it in found.users if _user(it) not in known]
        return [f"{_OLDER}{', '.join(users)}{_END_THEM}"] if users else []

    async def stand_still(self, cutover: Cutover) -> Cutover:
        """Have the source refuse writes, also if it does already, and wait until its log stands
        still. Returns the record with this end of the log.
        """
        if cutover.before == BY_HOOK:
            cutover = msgspec.structs.replace(cutover, freezes=cutover.freezes + 1)
            await self._record.save(cutover)
            await self._hooks.call("freeze", cutover, cutover.freezes)
            self._newest = await asyncio.to_thread(self._freezer.newest_session)
        else:
            await asyncio.to_thread(self._freezer.freeze, self._settings.freeze_seconds)
        end = await self._waits.still()
        prepared = self._waits.prepared(end) if cutover.state in BEFORE_SWITCH else ()
        if prepared:
            raise TailraceError(
                f"{len(prepared)} transactions are prepared (XA), and may be committed later",
                hint="XA COMMIT or XA ROLLBACK them",
            )
        return msgspec.structs.replace(cutover, end=end)


def _named(warnings: Sequence[str]) -> set[str]:
    """The users that these warnings about earlier sessions name."""
    texts = [it.removeprefix(_OLDER) for it in warnings if it.startswith(_OLDER)]
    return {_user(it) for text in texts for it in text.removesuffix(_END_THEM).split(", ")}


def _user(name: str) -> str:
    """A user of ``Connected``, without the number of its sessions."""
    return name.rpartition(" (")[0]
