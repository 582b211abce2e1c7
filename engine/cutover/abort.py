"""
The abort of a cutover: the source is put back as it was before the freeze.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from engine.cutover.parts import BY_HOOK, Line, Parts, tell
from engine.cutover.record import Record, warned, with_step
from engine.cutover.steps import COMPARE_AGAIN, NOT_STORED, STEPS, way_back
from engine.errors import TailraceError
from engine.handover import BEFORE_SWITCH, Cutover
from engine.proof import void_proofs

__all__ = ["Abort"]


class Abort:
    """Puts the source back."""

    def __init__(self, parts: Parts, record: Record) -> None:
        self._parts = parts
        self._record = record
        self._hooks = parts.hooks

    async def give_up(self, cutover: Cutover, error: Exception) -> None:
        """Abort because of an error, by what this process knows: the target may be lost. The error
        says what became of that.
        """
        ours = error if isinstance(error, TailraceError) else None
        reason = ours.message if ours else f"a bug in Tailrace ({type(error).__name__})"
        try:
            done = await self.put_back(cutover, reason)
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

    async def put_back(self, cutover: Cutover, reason: str = "", *, force: bool = False) -> Cutover:
        """Put the source back, and store that it is. The applications go back first, because what
        they write to the target meanwhile is lost.

        Before the switch the source is put back also if the target cannot store that; the record
        that is returned has not ended then.
        """
        began, at = time.monotonic(), time.time()
        tell(self._parts, Line("abort"))
        did, warnings = [], []
        before_switch = cutover.state in BEFORE_SWITCH
        cutover = msgspec.structs.replace(cutover, reason=cutover.reason or reason)
        if cutover.state in ("switch", "switch_back") and self._hooks.given("switch_back"):
            failure = await self._switch_back(cutover, force=force)
            did += [] if failure else ["switched the applications back"]
            warnings += [failure] if failure else []
        if not before_switch and cutover.state != "abort":
            # What applications have written there is not in the log.
            await void_proofs(self._parts.sink)
            warnings.insert(0, COMPARE_AGAIN)
        cutover = msgspec.structs.replace(cutover, state="abort")
        stored = await self._record.save_if(cutover, required=not before_switch)
        if cutover.before == BY_HOOK:
            await self._hooks.call("thaw", cutover)
            did.append("called the hook thaw")
        elif cutover.before is not None:
            await asyncio.to_thread(self._parts.freezer.thaw, cutover.before)
            did.append("put the source back as it was")
        text, seconds = " and ".join(did) or "nothing was to be undone", time.monotonic() - began
        undo = STEPS["abort"].undo
        ended = with_step(warned(cutover, warnings), "abort", at, seconds, text, undo)
        ended = msgspec.structs.replace(ended, state="aborted", ended_at=time.time())
        stored = stored and await self._record.save_if(ended, required=not before_switch)
        tell(self._parts, Line("abort", text, seconds, tuple(warnings), undo))
        return ended if stored else cutover

    async def _switch_back(self, cutover: Cutover, *, force: bool) -> str:
        """Store that the applications are to be switched back, and do it. Returns why it failed,
        which is an error unless a person has said by ``force`` that no application writes to the
        target.
        """
        await self._record.save(msgspec.structs.replace(cutover, state="switch_back"))
        try:
            await self._hooks.call("switch_back", cutover)
        except TailraceError as error:
            if not force:
                error.hint += f"; or {way_back(switch_back=False)}"
                raise
            return f"{error.message}; passed over by --force"
        return ""
