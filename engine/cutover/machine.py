"""
The state machine of a cutover.

    freeze → drain → verify → finish → arm → switch → stop → done
       └───────┴────────┴───────┴───────┴──────┴─▶ abort → aborted

A state is stored in the target before its step begins. So whatever kills the process, the next one
repeats the step that was under way; every step may be repeated. First it freezes the source again,
because that may have been restarted in between. If its log has grown, what was drained and compared
counts no more. At the switch, and after it, applications may write to the target already, so
nothing can be compared: a table that the log has changed since is told to a person, who decides.

An error before the switch aborts: the downtime must not go on without a result. An error of the
switch itself does not, because applications may have been switched. An abort after that has a state
``switch_back`` before ``abort``, so that no other process switches forward again meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

import msgspec

from engine.cutover.parts import BY_HOOK, Line, Parts, Waits
from engine.cutover.proving import prove
from engine.cutover.readiness import Ready, require_alone, require_drained, require_ready
from engine.cutover.steps import (
    CHOICE,
    COMPARE_AGAIN,
    LONGER,
    NO_WAY_BACK,
    NOT_STORED,
    REHEARSED,
    STEPS,
)
from engine.errors import TailraceError
from engine.handover import (
    BEFORE_SWITCH,
    Cutover,
    CutoverState,
    KeepsCutovers,
    StepRecord,
)
from engine.proof import void_proofs
from engine.verify.report import VerifyReport

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
        self._source = parts.source
        self._sink = parts.sink
        self._freezer = parts.freezer
        self._store = parts.store
        self._hooks = parts.hooks
        self._settings = parts.settings
        #: The record as it was last saved, or should have been.
        self._last: Cutover | None = None
        #: Whether another process has begun the step that is under way.
        self._left = False
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

    async def run(self, *, switched: bool = False) -> Cutover:
        """Begin a cutover, or go on with one that was left; ``switched``: with one that stands at
        the switch, which a person has done. Returns its record when it has ended, or when the
        target has not stored that.

        Raises Refused with nothing changed, and TailraceError for a step that failed.
        """
        cutover = await self._newest()
        if switched:
            cutover = await self._after_switch(cutover)
        elif cutover is None or cutover.ended:
            cutover = await self._begin("freeze", cutover)
            await self._save(cutover)
        elif cutover.state == "abort":
            return await self._put_back(cutover)
        elif cutover.state == "switch_back":
            return await self.abort()
        else:
            self._left = True
            cutover = await self._or_abort(cutover, self._confirm(cutover))
        while not cutover.ended:
            cutover = await self._or_abort(cutover, self._step(cutover))
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
        begun = cutover.state in ("switch", "switch_back")
        if begun and not self._hooks.given("switch_back") and not force:
            raise TailraceError(
                "the switch was begun, so applications may write to the target already",
                hint="set switch_back in [cutover], or make sure that none does and type"
                " `tailrace cutover CONFIG --abort --force`",
            )
        return await self._put_back(cutover, "aborted by command", force=force)

    async def check(self) -> Ready:
        """Raise Refused unless a cutover can begin, and TailraceError if one is under way."""
        _require_ended(await self._store.newest())
        return await self._check()

    async def _check(self) -> Ready:
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
        _require_ended(newest)
        cutover = await self._begin("drain", newest)
        predicted = {"freeze": self._settings.quiet_seconds}
        steps: tuple[CutoverState, ...] = ("drain", "verify", "finish", "arm")
        for step in steps:
            self._tell(Line(step))
            began, at = time.monotonic(), time.time()
            if step == "drain":
                did = f"caught up in {await self._waits.caught_up(self._waits.left(cutover)):.2f} s"
            else:
                cutover, did = await self._work[step](cutover)
            predicted[step] = time.monotonic() - began
            cutover = _with_step(cutover, step, at, predicted[step], did, undo=REHEARSED)
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
            await void_proofs(self._sink)
        elif newest is not None:
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
        self._last = cutover
        return cutover

    async def _save(self, cutover: Cutover) -> None:
        self._last = cutover
        await self._store.save(cutover)

    def _tell(self, line: Line) -> None:
        """Tell a line. Whatever the terminal or a receiver does, the step goes on."""
        with suppress(Exception):
            self._parts.tell(line)

    # -- from step to step -------------------------------------------------------------------------

    async def _step(self, cutover: Cutover) -> Cutover:
        """Do the step of the state, and store the next state."""
        state, known = cutover.state, len(cutover.warnings)
        began, at = time.monotonic(), time.time()
        self._require_time(cutover)
        self._tell(Line(state))
        cutover, did = await self._work[state](cutover)
        seconds = time.monotonic() - began
        cutover = _with_step(cutover, state, at, seconds, did)
        cutover = msgspec.structs.replace(cutover, state=_NEXT[state])
        if cutover.ended:
            cutover = msgspec.structs.replace(cutover, ended_at=time.time())
        await self._save(cutover)
        self._left = False
        self._tell(Line(state, did, seconds, cutover.warnings[known:]))
        return cutover

    async def _or_abort(self, cutover: Cutover, work: Awaitable[Cutover]) -> Cutover:
        """The result of ``work``. An error before the switch aborts."""
        try:
            return await work
        except Exception as error:
            if cutover.state in BEFORE_SWITCH:
                known = self._last or cutover  # it may have the next state, which is not begun
                await self._give_up(msgspec.structs.replace(known, state=cutover.state), error)
            raise

    async def _give_up(self, cutover: Cutover, error: Exception) -> None:
        """Abort because of an error, by what this process knows: the target may be lost. The error
        says what became of that.
        """
        ours = error if isinstance(error, TailraceError) else None
        reason = ours.message if ours else f"a bug in Tailrace ({type(error).__name__})"
        try:
            done = await self._put_back(cutover, reason)
        except Exception as second:  # noqa: BLE001 - whatever it is, a person has to know
            what = second.message if isinstance(second, TailraceError) else type(second).__name__
            hint = (
                f"THE SOURCE MAY STILL BE FROZEN, because the abort failed: {what}."
                " `tailrace cutover CONFIG --abort` tries it again"
            )
            if ours is None:
                raise TailraceError(reason, hint=hint) from error
        else:
            why = f"; {ours.hint}" if ours and ours.hint else ""
            stored = "the cutover is aborted" if done.ended else NOT_STORED
            hint = f"the source takes writes as before; {stored}{why}"
        if ours:
            ours.hint = hint

    async def _put_back(
        self, cutover: Cutover, reason: str = "", *, force: bool = False
    ) -> Cutover:
        """Put the source back, and store that it is. The applications go back first, because what
        they write to the target meanwhile is lost.

        Before the switch the source is put back also if the target cannot store that; the record
        that is returned has not ended then.
        """
        began, at = time.monotonic(), time.time()
        self._tell(Line("abort"))
        did, warnings = [], []
        before_switch = cutover.state in BEFORE_SWITCH
        cutover = msgspec.structs.replace(cutover, reason=cutover.reason or reason)
        if cutover.state in ("switch", "switch_back") and self._hooks.given("switch_back"):
            failure = await self._switch_back(cutover, force=force)
            did += [] if failure else ["switched the applications back"]
            warnings += [failure] if failure else []
        if not before_switch and cutover.state != "abort":
            await void_proofs(self._sink)  # what applications have written there is not in the log
            warnings.insert(0, COMPARE_AGAIN)
        cutover = msgspec.structs.replace(cutover, state="abort")
        stored = await self._save_if(cutover, required=not before_switch)
        if cutover.before == BY_HOOK:
            await self._hooks.call("thaw", cutover)
            did.append("called the hook thaw")
        elif cutover.before is not None:
            await asyncio.to_thread(self._freezer.thaw, cutover.before)
            did.append("put the source back as it was")
        text, seconds = " and ".join(did) or "nothing was to be undone", time.monotonic() - began
        ended = _with_step(_warned(cutover, warnings), "abort", at, seconds, text)
        ended = msgspec.structs.replace(ended, state="aborted", ended_at=time.time())
        stored = stored and await self._save_if(ended, required=not before_switch)
        self._tell(Line("abort", text, seconds, tuple(warnings)))
        return ended if stored else cutover

    async def _switch_back(self, cutover: Cutover, *, force: bool) -> str:
        """Store that the applications are to be switched back, and do it. Returns why it failed,
        which is an error unless a person has said by ``force`` that no application writes to the
        target.
        """
        await self._save(msgspec.structs.replace(cutover, state="switch_back"))
        try:
            await self._hooks.call("switch_back", cutover)
        except TailraceError as error:
            if not force:
                error.hint += (
                    "; or make sure that no application writes to the target, and type"
                    " `tailrace cutover CONFIG --abort --force`"
                )
                raise
            return f"{error.message}; passed over by --force"
        return ""

    async def _save_if(self, cutover: Cutover, *, required: bool) -> bool:
        """Whether the target has stored the record. Raises TailraceError if that is required."""
        try:
            await self._save(cutover)
        except TailraceError:
            if required:
                raise
            return False
        return True

    async def _confirm(self, cutover: Cutover) -> Cutover:
        """Freeze the source again for a cutover that was left. If its log has grown, go back to the
        drain. At the switch this is possible only if no table was changed.
        """
        if cutover.before is None or cutover.state in ("freeze", "stop"):
            return cutover
        frozen = await self._stand_still(cutover)
        if self._source.reached(cutover.end, frozen.end):
            return frozen
        if cutover.state != "switch":
            frozen = msgspec.structs.replace(frozen, state="drain")
        elif written := await self._waits.written(cutover.end, frozen.end):
            raise TailraceError(
                f"the switch was begun, and the source was written after it was frozen: {written}",
                hint=CHOICE,
            )
        await self._save(frozen)
        return frozen

    async def _after_switch(self, cutover: Cutover | None) -> Cutover:
        """The record of a cutover that stands at the switch, when a person says that it is done."""
        if cutover is None or cutover.state != "switch":
            raise TailraceError(
                "no cutover stands at the step switch",
                hint="`tailrace cutover CONFIG --status` shows where it stands",
            )
        self._left, now = True, time.time()
        did = "the applications are switched, as a person has said"
        cutover = _with_step(cutover, "switch", now, 0.0, did)
        cutover = msgspec.structs.replace(cutover, state="stop", switched_at=now)
        await self._save(cutover)
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

    # -- the steps ---------------------------------------------------------------------------------

    async def _freeze(self, cutover: Cutover) -> tuple[Cutover, str]:
        if cutover.before is None:
            by_hook = self._hooks.given("freeze")
            before = BY_HOOK if by_hook else await asyncio.to_thread(self._freezer.before)
            cutover = msgspec.structs.replace(cutover, before=before, frozen_at=time.time())
            await self._save(cutover)
        cutover = await self._stand_still(cutover)
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
        proven = await prove(parts, frozen=cutover.before is not None)
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
        await require_alone(self._parts)
        return cutover, NO_WAY_BACK

    async def _switch(self, cutover: Cutover) -> tuple[Cutover, str]:
        try:
            await self._waits.require_frozen(cutover)
        except TailraceError as error:
            error.hint = CHOICE
            raise
        await self._hooks.call("switch", cutover)
        cutover = msgspec.structs.replace(cutover, switched_at=time.time())
        return cutover, f"switched; the downtime was {cutover.downtime_seconds or 0.0:.2f} s"

    async def _stop(self, cutover: Cutover) -> tuple[Cutover, str]:
        """End the engine, so that it applies nothing that the source may get from now on."""
        did = await self._parts.engine.stop()
        try:
            frozen = await self._stand_still(cutover) if self._left else cutover
            end = frozen.end if self._left else await self._waits.position()
            written = await self._waits.written(cutover.end, end)
        except TailraceError as error:
            warning = (
                f"the source could not be frozen again: {error.message}. Make sure that no"
                " application writes to it"
            )
            return _warned(cutover, [warning]), did
        if written:
            warning = (
                f"THE SOURCE WAS WRITTEN AFTER THE FREEZE: {written}. The target lacks these"
                " changes, or has them over newer rows: compare both before the source is given up"
            )
            return _warned(cutover, [warning]), did
        return cutover, did

    async def _stand_still(self, cutover: Cutover) -> Cutover:
        """Have the source refuse writes, also if it does already, and wait until its log stands
        still. Returns the record with this end of the log.
        """
        if cutover.before == BY_HOOK:
            cutover = msgspec.structs.replace(cutover, freezes=cutover.freezes + 1)
            await self._save(cutover)
            await self._hooks.call("freeze", cutover, cutover.freezes)
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


def _require_ended(newest: Cutover | None) -> None:
    """Raise TailraceError if a cutover is under way."""
    if newest is not None and not newest.ended:
        raise TailraceError(
            f"a cutover is under way: it stands at {newest.state}, begun by {newest.by}",
            hint="`tailrace cutover CONFIG` goes on with it, and --abort ends it",
        )


def _warned(cutover: Cutover, warnings: Sequence[str]) -> Cutover:
    return msgspec.structs.replace(cutover, warnings=(*cutover.warnings, *warnings))


def _with_step(
    cutover: Cutover, step: str, at: float, seconds: float, did: str, *, undo: str = ""
) -> Cutover:
    words = STEPS[step]
    done = StepRecord(step, at, seconds, did, words.will, undo or words.undo)
    return msgspec.structs.replace(cutover, steps=(*cutover.steps, done))
