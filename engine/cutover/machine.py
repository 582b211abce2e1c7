"""
The state machine of a cutover.

    freeze → drain → verify → finish → arm → switch → stop → done
       └───────┴────────┴───────┴───────┴──────┴─▶ abort → aborted

A state is stored in the target before its step begins. So whatever kills the process, the next one
repeats the step that was under way; every step may be repeated. First it freezes the source again,
because that may have been restarted in between. If its log has grown, what was drained and compared
counts no more. If the log has less than before, it was reset, or is that of another server, and the
cutover is aborted. At the switch, and after it, applications may write to the target already, so
nothing can be compared: a table that the log has changed since is told to a person, who decides.

An error before the switch aborts: the downtime must not go on without a result. An error of the
switch itself does not, because applications may have been switched. An abort after that has a state
``switch_back`` before ``abort``, so that no other process switches forward again meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Final
from uuid import uuid4

import msgspec

from engine.cutover.abort import Abort
from engine.cutover.parts import Line, Parts, Waits, tell
from engine.cutover.readiness import Ready, Refused, require_ready
from engine.cutover.record import Record, require_ended, with_step
from engine.cutover.steps import (
    CHOICE,
    LONGER,
    REHEARSED,
    REHEARSED_FINISH,
    undo_of,
    way_back,
    way_on,
)
from engine.cutover.work import Work
from engine.errors import TailraceError
from engine.handover import BEFORE_SWITCH, Cutover, CutoverState
from engine.proof import void_proofs

__all__ = ["Machine"]

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
        self._record = Record(parts.store)
        self._work = Work(parts, self._waits, self._record)
        self._abort = Abort(parts, self._record)
        self._settings = parts.settings

    # -- the commands ------------------------------------------------------------------------------

    async def run(self, *, switched: bool = False) -> Cutover:
        """Begin a cutover, or go on with one that was left; ``switched``: with one that stands at
        the switch, which a person has done. Returns its record when it has ended, or when the
        target has not stored that.

        Raises Refused with nothing changed, and TailraceError for a step that failed.
        """
        cutover = await self._record.newest()
        if switched:
            cutover = await self._after_switch(cutover)
        elif cutover is None or cutover.ended:
            cutover = await self._begin("freeze", cutover)
            await self._record.save(cutover)
        elif cutover.state == "abort":
            return await self._abort.put_back(cutover)
        elif cutover.state == "switch_back":
            return await self.abort()
        else:
            self._work.left = True
            cutover = await self._or_abort(cutover, self._confirm(cutover))
        while not cutover.ended:
            cutover = await self._or_abort(cutover, self._step(cutover))
        return cutover

    async def abort(self, *, force: bool = False) -> Cutover:
        """Put the source back as it was. Raises TailraceError if there is nothing to abort, or if
        applications may have been switched and nothing is known that switches them back.
        """
        cutover = await self._record.newest()
        if cutover is None or cutover.ended:
            raise TailraceError(
                "no cutover is under way, so there is none to abort",
                hint="" if cutover is None else way_on(cutover, switch_back=False),
            )
        if cutover.state == "stop":
            raise TailraceError(
                "the applications are switched: the target may have writes that the source lacks",
                hint=way_on(cutover, switch_back=False),
            )
        begun = cutover.state in ("switch", "switch_back")
        back = way_back(switch_back=False)
        if begun and not self._parts.hooks.given("switch_back") and not force:
            raise TailraceError(
                "the switch was begun, so applications may write to the target already",
                hint=f"set switch_back in [cutover], and type the command again; or {back}",
            )
        return await self._abort.put_back(cutover, "aborted by command", force=force)

    async def check(self) -> Ready:
        """Raise Refused unless a cutover can begin, and TailraceError if one is under way."""
        await self._require_ended()
        return await self._check()

    def undo(self, step: str) -> str:
        """How to undo a step."""
        return undo_of(step, switch_back=self._parts.hooks.given("switch_back"))

    async def _require_ended(self) -> Cutover | None:
        newest = await self._parts.store.newest()
        require_ended(newest, switch_back=self._parts.hooks.given("switch_back"))
        return newest

    async def _check(self) -> Ready:
        tell(self._parts, Line("check"))
        started = time.monotonic()
        ready = await require_ready(self._parts, self._waits)
        seconds, undo = time.monotonic() - started, self.undo("check")
        tell(self._parts, Line("check", ready.text, seconds, ready.warnings, undo))
        return ready

    async def rehearse(self) -> Cutover:
        """Everything but the freeze and the switch, while the source takes writes. Returns the
        record, which predicts the downtime.
        """
        newest = await self._require_ended()
        cutover = await self._begin("drain", newest)
        predicted = {"freeze": self._settings.quiet_seconds}
        steps: tuple[CutoverState, ...] = ("drain", "verify", "finish", "arm")
        for step in steps:
            tell(self._parts, Line(step))
            began, at, known = time.monotonic(), time.time(), len(cutover.warnings)
            if step == "drain":
                did = f"caught up in {await self._waits.caught_up(self._waits.left(cutover)):.2f} s"
            else:
                cutover, did = await self._rehearsed(step, cutover)
            predicted[step] = time.monotonic() - began
            undo = REHEARSED_FINISH if step == "finish" else REHEARSED
            cutover = with_step(cutover, step, at, predicted[step], did, undo)
            told = Line(step, did, predicted[step], cutover.warnings[known:], undo)
            tell(self._parts, told)
        now = time.time()
        cutover = msgspec.structs.replace(
            cutover, state="rehearsed", predicted=predicted, predicted_at=now, ended_at=now
        )
        await self._parts.store.save(cutover)
        return cutover

    async def _rehearsed(self, step: CutoverState, cutover: Cutover) -> tuple[Cutover, str]:
        """The work of a step. If it is refused, the error says what was done before."""
        try:
            return await self._work.do(step, cutover)
        except Refused as refused:
            if any(it.step == "finish" for it in cutover.steps):
                refused.hint = f"the step finish was done on the target; {REHEARSED_FINISH}"
            raise

    async def _begin(self, state: CutoverState, newest: Cutover | None) -> Cutover:
        """A record that begins, if all is ready. A prediction holds until a cutover is done."""
        began, at = time.monotonic(), time.time()
        ready = await self._check()
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
        if newest is not None and newest.state == "done":
            await void_proofs(self._parts.sink)
        elif newest is not None:
            cutover = msgspec.structs.replace(
                cutover, predicted=newest.predicted, predicted_at=newest.predicted_at
            )
        seconds = time.monotonic() - began
        return with_step(cutover, "check", at, seconds, ready.text, self.undo("check"))

    # -- from step to step -------------------------------------------------------------------------

    async def _step(self, cutover: Cutover) -> Cutover:
        """Do the step of the state, and store the next state."""
        state, known = cutover.state, len(cutover.warnings)
        began, at = time.monotonic(), time.time()
        self._require_time(cutover)
        tell(self._parts, Line(state))
        cutover, did = await self._work.do(state, cutover)
        seconds, undo = time.monotonic() - began, self.undo(state)
        cutover = with_step(cutover, state, at, seconds, did, undo)
        cutover = msgspec.structs.replace(cutover, state=_NEXT[state])
        if cutover.ended:
            cutover = msgspec.structs.replace(cutover, ended_at=time.time())
        await self._record.save(cutover)
        self._work.left = False
        tell(self._parts, Line(state, did, seconds, cutover.warnings[known:], undo))
        return cutover

    async def _or_abort(self, cutover: Cutover, work: Awaitable[Cutover]) -> Cutover:
        """The result of ``work``. An error before the switch aborts."""
        try:
            return await work
        except Exception as error:
            if cutover.state in BEFORE_SWITCH:
                # What was saved last may have the next state, which is not begun.
                known = msgspec.structs.replace(self._record.last or cutover, state=cutover.state)
                await self._abort.give_up(known, error)
            raise

    async def _confirm(self, cutover: Cutover) -> Cutover:
        """Freeze the source again for a cutover that was left. If its log has grown, go back to the
        drain. At the switch this is possible only if no table was changed. A log that has less than
        before does not show what was written.
        """
        if cutover.before is None or cutover.state in ("freeze", "stop"):
            return cutover
        frozen = await self._work.stand_still(cutover)
        if cutover.end == frozen.end:
            return frozen
        if cutover.state != "switch":
            self._waits.require_whole(cutover.end, frozen.end)
            frozen = msgspec.structs.replace(frozen, state="drain")
        elif written := await self._waits.written(cutover.end, frozen.end):
            raise TailraceError(
                f"the switch was begun, and the source was written after it was frozen: {written}",
                hint=CHOICE,
            )
        await self._record.save(frozen)
        return frozen

    async def _after_switch(self, cutover: Cutover | None) -> Cutover:
        """The record of a cutover that stands at the switch, when a person says that it is done."""
        if cutover is None or cutover.state != "switch":
            raise TailraceError(
                "no cutover stands at the step switch",
                hint="`tailrace cutover CONFIG --status` shows where it stands",
            )
        self._work.left, now = True, time.time()
        did = "the applications are switched, as a person has said"
        cutover = with_step(cutover, "switch", now, 0.0, did, self.undo("switch"))
        cutover = msgspec.structs.replace(cutover, state="stop", switched_at=now)
        await self._record.save(cutover)
        return cutover

    def _require_time(self, cutover: Cutover) -> None:
        limit = self._settings.max_downtime_seconds
        if cutover.state not in BEFORE_SWITCH or cutover.frozen_at is None or not limit:
            return
        passed = time.time() - cutover.frozen_at
        if passed > limit:
            raise TailraceError(
                f"the source has been frozen for {passed:.0f} s",
                hint=LONGER,
            )
