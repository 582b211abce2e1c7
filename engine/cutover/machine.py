"""
The state machine of a cutover.

    freeze → drain → verify → finish → arm → switch → stop → done
       └───────┴────────┴───────┴───────┴──────┴─▶ abort → aborted

A state is stored in the target before its step begins. So whatever kills the process, the next one
repeats the step that was under way; every step may be repeated. First it confirms the freeze,
because the source may have been restarted in between. If its log has grown, what was drained and
compared counts no more.

An error before the switch aborts: the downtime must not go on without a result. An error of the
switch itself does not, because applications may have been switched: a person decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import uuid4

import msgspec

from engine.cutover.checks import table_refusals
from engine.cutover.parts import BY_HOOK, Line, Parts, Waits
from engine.cutover.proving import prove
from engine.cutover.readiness import Ready, Refused, require_ready
from engine.cutover.steps import STEPS
from engine.errors import TailraceError
from engine.handover import (
    BEFORE_SWITCH,
    Cutover,
    CutoverState,
    KeepsCutovers,
    StepRecord,
)
from engine.recovery import count_dead_letters

__all__ = ["Machine"]

_NO_WAY_BACK: Final = (
    "no reverse pipeline is configured: what applications write to the target after the switch does"
    " not reach the source, so going back then loses it. Decide about the switch by that"
)
_NEXT: Final[dict[CutoverState, CutoverState]] = {
    "freeze": "drain",
    "drain": "verify",
    "verify": "finish",
    "finish": "arm",
    "arm": "switch",
    "switch": "stop",
    "stop": "done",
}


class Machine:
    """Works on the cutover of one pipeline."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._waits = Waits(parts)
        self._source = parts.source
        self._sink = parts.sink
        self._freezer = parts.freezer
        self._store = parts.store
        self._hooks = parts.hooks
        self._settings = parts.settings
        self._tell = parts.tell
        self._work: dict[CutoverState, Callable[[Cutover], Awaitable[tuple[Cutover, str]]]] = {
            "freeze": self._freeze,
            "drain": self._drain,
            "verify": self._verify,
            "finish": self._finish,
            "arm": self._arm,
            "switch": self._switch,
            "stop": self._stop,
        }

    # -- the commands ------------------------------------------------------------------------------

    async def run(self) -> Cutover:
        """Begin a cutover, or go on with one that was left. Returns its record when it has ended.

        Raises Refused with nothing changed, and TailraceError for a step that failed.
        """
        cutover = await self._newest()
        if cutover is None or cutover.ended:
            cutover = await self._begin("freeze", cutover)
            await self._store.save(cutover)
        elif cutover.state == "abort":
            return await self._put_back(cutover)
        elif cutover.before is not None and cutover.state != "stop":
            cutover = await self._confirm(cutover)
        while not cutover.ended:
            cutover = await self._step(cutover)
        return cutover

    async def abort(self, *, force: bool = False) -> Cutover:
        """Put the source back as it was. Raises TailraceError if there is nothing to abort, or if
        applications may have been switched and nothing is known that switches them back.
        """
        cutover = await self._newest()
        if cutover is None or cutover.ended:
            raise TailraceError("no cutover is under way, so there is none to abort")
        if cutover.state == "stop":
            raise TailraceError(
                "the applications are switched: the target may have writes that the source lacks",
                hint="`tailrace cutover CONFIG` ends the cutover",
            )
        if cutover.state == "switch" and not self._hooks.given("switch_back") and not force:
            raise TailraceError(
                "the switch was begun, so applications may write to the target already",
                hint="set switch_back in [cutover], or make sure that none does and type"
                " `tailrace cutover CONFIG --abort --force`",
            )
        return await self._put_back(cutover, "aborted by command", switched=cutover.state)

    async def check(self) -> Ready:
        """Raise Refused unless a cutover can begin."""
        self._tell(Line("check"))
        started = time.monotonic()
        ready = await require_ready(self._parts, self._waits)
        self._tell(Line("check", ready.text, time.monotonic() - started, ready.warnings))
        return ready

    async def rehearse(self) -> Cutover:
        """Everything but the freeze and the switch, while the source takes writes. Returns the
        record, which predicts the downtime.
        """
        newest = await self._store.newest()
        if newest is not None and not newest.ended:
            raise TailraceError(
                "a cutover is under way",
                hint="`tailrace cutover CONFIG` goes on with it, and --abort ends it",
            )
        cutover = await self._begin("drain", newest)
        predicted = {"freeze": self._settings.quiet_seconds}
        steps: tuple[CutoverState, ...] = ("drain", "verify", "finish", "arm")
        for step in steps:
            self._tell(Line(step))
            began, at = time.monotonic(), time.time()
            if step == "drain":
                did = f"caught up in {await self._waits.caught_up(self._waits.limit):.2f} s"
            else:
                cutover, did = await self._work[step](cutover)
            predicted[step] = time.monotonic() - began
            cutover = _with_step(cutover, step, at, predicted[step], did)
            self._tell(Line(step, did, predicted[step]))
        now = time.time()
        cutover = msgspec.structs.replace(
            cutover, state="rehearsed", predicted=predicted, predicted_at=now, ended_at=now
        )
        await self._store.save(cutover)
        return cutover

    async def _begin(self, state: CutoverState, newest: Cutover | None) -> Cutover:
        """A record that begins, if all is ready. A prediction holds until a cutover is done."""
        began, at = time.monotonic(), time.time()
        ready = await self.check()
        cutover = Cutover(
            f"cutover_{uuid4().hex}",
            state,
            at,
            self._parts.by,
            pipeline=self._parts.pipeline,
            sides=await self._parts.sides(),
            start=ready.position,
            warnings=ready.warnings,
        )
        if newest is not None and newest.state != "done":
            cutover = msgspec.structs.replace(
                cutover, predicted=newest.predicted, predicted_at=newest.predicted_at
            )
        return _with_step(cutover, "check", at, time.monotonic() - began, ready.text)

    async def _newest(self) -> Cutover | None:
        """The newest cutover. Raises TailraceError for one under way that this machine, whose
        source is that of the pipeline, cannot work on.
        """
        cutover = await self._store.newest()
        if cutover is not None and not cutover.ended and cutover.direction != "forward":
            raise TailraceError(
                "a cutover back to the source is under way, and this version cannot go on with it",
                hint="use the version of Tailrace that has begun it",
            )
        return cutover

    # -- from step to step -------------------------------------------------------------------------

    async def _step(self, cutover: Cutover) -> Cutover:
        """Do the step of the state, and store the next state. An error before the switch aborts."""
        state = cutover.state
        began, at = time.monotonic(), time.time()
        try:
            self._require_time(cutover)
            self._tell(Line(state))
            cutover, did = await self._work[state](cutover)
        except TailraceError as error:
            if state in BEFORE_SWITCH:
                await self._give_up(error)
            raise
        seconds = time.monotonic() - began
        cutover = _with_step(cutover, state, at, seconds, did)
        cutover = msgspec.structs.replace(cutover, state=_NEXT[state])
        if cutover.ended:
            cutover = msgspec.structs.replace(cutover, ended_at=time.time())
        await self._store.save(cutover)
        self._tell(Line(state, did, seconds))
        return cutover

    async def _give_up(self, error: TailraceError) -> None:
        """Abort because of an error. If that fails, too, the error says so."""
        try:
            if (cutover := await self._store.newest()) is not None:
                await self._put_back(cutover, error.message)
        except TailraceError as second:
            error.hint = (
                f"THE SOURCE MAY STILL BE FROZEN, because the abort failed: {second.message}."
                " `tailrace cutover CONFIG --abort` tries it again"
            )
        else:
            why = f"; {error.hint}" if error.hint else ""
            error.hint = f"the cutover is aborted, and the source takes writes as before{why}"

    async def _put_back(
        self, cutover: Cutover, reason: str = "", *, switched: CutoverState | None = None
    ) -> Cutover:
        """Put the source back, and store that it is. The applications go back first, because what
        they write to the target meanwhile is lost.
        """
        began, at = time.monotonic(), time.time()
        self._tell(Line("abort"))
        did = []
        if switched == "switch" and self._hooks.given("switch_back"):
            await self._hooks.call("switch_back", cutover)
            did.append("switched the applications back")
        cutover = msgspec.structs.replace(cutover, state="abort", reason=cutover.reason or reason)
        await self._store.save(cutover)
        if cutover.before == BY_HOOK:
            await self._hooks.call("thaw", cutover)
            did.append("called the hook thaw")
        elif cutover.before is not None:
            await asyncio.to_thread(self._freezer.thaw, cutover.before)
            did.append("put the source back as it was")
        text, seconds = " and ".join(did) or "nothing was to be undone", time.monotonic() - began
        cutover = _with_step(cutover, "abort", at, seconds, text)
        cutover = msgspec.structs.replace(cutover, state="aborted", ended_at=time.time())
        await self._store.save(cutover)
        self._tell(Line("abort", text, seconds))
        return cutover

    async def _confirm(self, cutover: Cutover) -> Cutover:
        """Freeze the source again for a cutover that was left. If its log has grown, go back to the
        drain, unless applications may have been switched.
        """
        if cutover.state == "freeze":
            return cutover
        if cutover.state in BEFORE_SWITCH:
            try:
                await self._refuse_writes(cutover)
                end = await self._waits.still()
            except TailraceError as error:
                await self._give_up(error)
                raise
            if not self._source.reached(cutover.end, end):
                cutover = msgspec.structs.replace(cutover, state="drain", end=end)
                await self._store.save(cutover)
        return cutover

    def _require_time(self, cutover: Cutover) -> None:
        limit = self._settings.max_downtime_seconds
        if cutover.state not in BEFORE_SWITCH or cutover.frozen_at is None or not limit:
            return
        passed = time.time() - cutover.frozen_at
        if passed > limit:
            raise TailraceError(
                f"the source has been frozen for {passed:.0f} s",
                hint="`tailrace cutover CONFIG --rehearse` tells what takes so long; or set"
                " a longer max_downtime_seconds in [cutover]",
            )

    # -- the steps ---------------------------------------------------------------------------------

    async def _freeze(self, cutover: Cutover) -> tuple[Cutover, str]:
        if cutover.before is None:
            by_hook = self._hooks.given("freeze")
            before = BY_HOOK if by_hook else await asyncio.to_thread(self._freezer.before)
            cutover = msgspec.structs.replace(cutover, before=before, frozen_at=time.time())
            await self._store.save(cutover)
        await self._refuse_writes(cutover)
        end = await self._waits.still()
        prepared = self._waits.prepared(end)
        if prepared:
            raise TailraceError(
                f"{len(prepared)} transactions are prepared (XA), and may be committed later",
                hint="XA COMMIT or XA ROLLBACK them",
            )
        cutover = msgspec.structs.replace(cutover, end=end)
        return cutover, f"the log stood still for {self._settings.quiet_seconds:g} s"

    async def _drain(self, cutover: Cutover) -> tuple[Cutover, str]:
        await self._waits.passed(cutover.end, self._waits.limit)
        state = await self._sink.state()
        letters = await count_dead_letters(self._sink)
        if state is not None and state.checkpoint is not None:
            found = table_refusals(state.checkpoint.progress, state.outdated, letters)
            if found:
                raise Refused(found)
        await self._waits.require_frozen(cutover)
        return cutover, "the target has the whole log"

    async def _verify(self, cutover: Cutover) -> tuple[Cutover, str]:
        proven = await prove(self._parts, frozen=cutover.before is not None)
        return msgspec.structs.replace(cutover, proofs=proven.tables), proven.did

    async def _finish(self, cutover: Cutover) -> tuple[Cutover, str]:
        state = await self._sink.state()
        sink = self._sink
        assert isinstance(sink, KeepsCutovers)
        tables = [] if state is None else [table.id for table in state.tables]
        done = await sink.finish(tables, self._settings.sequence_margin)
        left = f"; as they were: {'; '.join(done.left)}" if done.left else ""
        return cutover, (
            f"sequences set: {done.sequences}, constraints validated: {done.constraints},"
            f" statistics of {done.tables} tables{left}"
        )

    async def _arm(self, cutover: Cutover) -> tuple[Cutover, str]:
        if cutover.before is not None:  # no rehearsal
            await self._waits.require_frozen(cutover)
        return cutover, _NO_WAY_BACK

    async def _switch(self, cutover: Cutover) -> tuple[Cutover, str]:
        await self._waits.require_frozen(cutover)
        await self._hooks.call("switch", cutover)
        cutover = msgspec.structs.replace(cutover, switched_at=time.time())
        return cutover, f"switched; the downtime was {cutover.downtime_seconds or 0.0:.2f} s"

    async def _stop(self, cutover: Cutover) -> tuple[Cutover, str]:
        return cutover, await self._parts.engine.stop()

    async def _refuse_writes(self, cutover: Cutover) -> None:
        if cutover.before == BY_HOOK:
            await self._hooks.call("freeze", cutover)
        else:
            await asyncio.to_thread(self._freezer.freeze, self._settings.freeze_seconds)


def _with_step(cutover: Cutover, step: str, at: float, seconds: float, did: str) -> Cutover:
    words = STEPS[step]
    done = StepRecord(step, at, seconds, did, words.will, words.undo)
    return msgspec.structs.replace(cutover, steps=(*cutover.steps, done))
