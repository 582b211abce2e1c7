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
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

import msgspec

from engine.contract import PreparesTransactions, Sink, Source
from engine.cutover.checks import (
    Refusal,
    engine_refusals,
    hook_refusals,
    proof_refusals,
    table_refusals,
)
from engine.errors import TailraceError
from engine.handover import (
    BEFORE_SWITCH,
    Cutover,
    CutoverState,
    CutoverStore,
    Freezer,
    KeepsCutovers,
    StepRecord,
)
from engine.proof import read_proofs
from engine.recovery import count_dead_letters
from engine.settings.cutover import CutoverSettings
from engine.verify.report import VerifyReport

if TYPE_CHECKING:  # the client for HTTP takes a while to import
    from engine.cutover.hooks import Hooks

__all__ = ["Engine", "Line", "Machine", "Rehearsal", "Refused"]

#: How often a position is asked for.
POLL_SECONDS: Final = 0.05
#: The ``before`` of a source that a hook has frozen.
BY_HOOK: Final = "hook"

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


class Line(NamedTuple):
    """What is told of a step: before it (``did`` is empty), and after it."""

    step: str
    did: str = ""
    seconds: float = 0.0


class Refused(TailraceError):
    """A cutover cannot begin. Nothing was changed."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__("; ".join(it.reason for it in refusals))
        self.refusals = refusals


class Rehearsal(NamedTuple):
    """What a rehearsal has found: the seconds of each step of the downtime, and their sum."""

    seconds: dict[str, float]
    downtime_seconds: float


class Engine(NamedTuple):
    """The engine of the pipeline, which goes on in a process of its own."""

    runs: Callable[[], Awaitable[bool]]
    #: Ends it, and says what became of it.
    stop: Callable[[], Awaitable[str]]


class Machine:
    """Works on the cutover of one pipeline. ``tell`` is called before and after each step."""

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        freezer: Freezer,
        store: CutoverStore,
        engine: Engine,
        hooks: Hooks,
        settings: CutoverSettings,
        compare: Callable[[], Awaitable[VerifyReport]],
        tell: Callable[[Line], None],
        by: str,
    ) -> None:
        self._source = source
        self._sink = sink
        self._freezer = freezer
        self._store = store
        self._engine = engine
        self._hooks = hooks
        self._settings = settings
        self._compare = compare
        self._tell = tell
        self._by = by
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
        cutover = await self._store.newest()
        if cutover is None or cutover.ended:
            await self.check()
            id = f"cutover_{uuid4().hex}"
            cutover = Cutover(id, "freeze", time.time(), self._by)
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
        cutover = await self._store.newest()
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

    async def check(self) -> None:
        """Raise Refused unless a cutover can begin."""
        self._tell(Line("check"))
        started = time.monotonic()
        found = hook_refusals(self._settings)
        state = await self._sink.state()
        found += engine_refusals(state, runs=await self._engine.runs())
        if state is not None and state.checkpoint is not None:
            progress = state.checkpoint.progress
            letters = await count_dead_letters(self._sink)
            found += table_refusals(progress, state.outdated, letters)
            proofs = await read_proofs(self._sink)
            most = self._settings.proof_age_seconds
            found += proof_refusals(progress, proofs, time.time(), most)
        if not self._hooks.given("freeze"):
            reason = await asyncio.to_thread(self._freezer.why_not)
            found += [Refusal(f"the source cannot be frozen: {reason}", "")] if reason else []
        prepared = await self._prepared(await asyncio.to_thread(self._source.position))
        if prepared:
            remedy = "XA COMMIT or XA ROLLBACK them"
            found.append(Refusal(f"{len(prepared)} transactions are prepared (XA)", remedy))
        if found:
            raise Refused(found)
        lag = await self._caught_up(self._settings.max_lag_seconds)
        clients = await asyncio.to_thread(self._freezer.clients)
        others = f"; connected to the source: {', '.join(clients)}" if clients else ""
        text = f"ready, {lag:.2f} s behind{others}"
        self._tell(Line("check", text, time.monotonic() - started))

    async def rehearse(self) -> Rehearsal:
        """Everything but the freeze and the switch, while the source takes writes."""
        cutover = await self._store.newest()
        if cutover is not None and not cutover.ended:
            raise TailraceError(
                "a cutover is under way",
                hint="`tailrace cutover CONFIG` goes on with it, and --abort ends it",
            )
        await self.check()
        seconds = {"freeze": self._settings.quiet_seconds}
        cutover = Cutover("rehearsal", "drain", time.time(), self._by)
        steps: tuple[CutoverState, ...] = ("drain", "verify", "finish", "arm")
        for step in steps:
            self._tell(Line(step))
            began = time.monotonic()
            if step == "drain":
                did = f"caught up in {await self._caught_up(self._limit):.2f} s"
            else:
                cutover, did = await self._work[step](cutover)
            seconds[step] = time.monotonic() - began
            self._tell(Line(step, did, seconds[step]))
        return Rehearsal(seconds, sum(seconds.values()))

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
        cutover = msgspec.structs.replace(
            cutover,
            state=_NEXT[state],
            steps=(*cutover.steps, StepRecord(state, at, seconds, did)),
        )
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
        cutover = msgspec.structs.replace(
            cutover,
            state="aborted",
            steps=(*cutover.steps, StepRecord("abort", at, seconds, text)),
        )
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
                end = await self._still()
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
        end = await self._still()
        prepared = await self._prepared(end)
        if prepared:
            raise TailraceError(
                f"{len(prepared)} transactions are prepared (XA), and may be committed later",
                hint="XA COMMIT or XA ROLLBACK them",
            )
        cutover = msgspec.structs.replace(cutover, end=end)
        return cutover, f"the log stood still for {self._settings.quiet_seconds:g} s"

    async def _drain(self, cutover: Cutover) -> tuple[Cutover, str]:
        await self._passed(cutover.end, self._limit)
        state = await self._sink.state()
        letters = await count_dead_letters(self._sink)
        if state is not None and state.checkpoint is not None:
            found = table_refusals(state.checkpoint.progress, state.outdated, letters)
            if found:
                raise Refused(found)
        await self._require_frozen(cutover)
        return cutover, "the target has the whole log"

    async def _verify(self, cutover: Cutover) -> tuple[Cutover, str]:
        report = await self._compare()
        wrong = [it for it in report.tables if it.differing or it.missing or it.extra]
        if not wrong and cutover.before is None:  # a rehearsal, whose rows change meanwhile
            wrong = [it for it in report.tables if not it.equal and not it.hot]
        elif not wrong:
            wrong = [it for it in report.tables if not it.equal]
        if wrong or not report.tables:
            names = ", ".join(sorted(it.table for it in wrong)[:5]) or "no table was compared"
            raise TailraceError(
                f"the target is not proven equal: {names}",
                hint="`tailrace verify CONFIG` lists the rows",
            )
        rows = sum(it.rows for it in report.tables)
        return cutover, f"{len(report.tables)} tables with {rows:,} rows are equal"

    async def _finish(self, cutover: Cutover) -> tuple[Cutover, str]:
        state = await self._sink.state()
        sink = self._sink
        assert isinstance(sink, KeepsCutovers)
        tables = [] if state is None else [table.id for table in state.tables]
        done = await sink.finish(tables, self._settings.sequence_margin)
        left = f"; as they were: {'; '.join(done.left)}" if done.left else ""
        return cutover, (
            f"{done.sequences} sequences set, {done.constraints} constraints validated,"
            f" statistics of {done.tables} tables{left}"
        )

    async def _arm(self, cutover: Cutover) -> tuple[Cutover, str]:
        if cutover.before is not None:  # no rehearsal
            await self._require_frozen(cutover)
        return cutover, _NO_WAY_BACK

    async def _switch(self, cutover: Cutover) -> tuple[Cutover, str]:
        await self._require_frozen(cutover)
        await self._hooks.call("switch", cutover)
        cutover = msgspec.structs.replace(cutover, switched_at=time.time())
        return cutover, f"switched; the downtime was {cutover.downtime_seconds or 0.0:.2f} s"

    async def _stop(self, cutover: Cutover) -> tuple[Cutover, str]:
        return cutover, await self._engine.stop()

    # -- what steps need ---------------------------------------------------------------------------

    @property
    def _limit(self) -> float:
        """How long a step may wait for the engine."""
        return self._settings.max_downtime_seconds or 3600.0

    async def _refuse_writes(self, cutover: Cutover) -> None:
        if cutover.before == BY_HOOK:
            await self._hooks.call("freeze", cutover)
        else:
            await asyncio.to_thread(self._freezer.freeze, self._settings.freeze_seconds)

    async def _still(self) -> str:
        """The end of the log, when it has not moved for a while. Raises TailraceError if it does
        not stand still in time.
        """
        deadline = time.monotonic() + self._settings.freeze_seconds + self._settings.quiet_seconds
        end, since = await asyncio.to_thread(self._source.position), time.monotonic()
        while time.monotonic() - since < self._settings.quiet_seconds:
            if time.monotonic() > deadline:
                raise TailraceError(
                    "the source is still written after it was frozen",
                    hint="a user with SUPER or READ ONLY ADMIN passes read_only, and a replica goes"
                    " on: end these sessions, or set freeze and thaw in [cutover]",
                )
            await asyncio.sleep(POLL_SECONDS)
            now = await asyncio.to_thread(self._source.position)
            if now != end:
                end, since = now, time.monotonic()
        return end

    async def _require_frozen(self, cutover: Cutover) -> None:
        """Raise TailraceError if the source takes writes, or has taken some since the freeze."""
        frozen = cutover.before == BY_HOOK or await asyncio.to_thread(self._freezer.is_frozen)
        end = await asyncio.to_thread(self._source.position)
        if not frozen or not self._source.reached(cutover.end, end):
            raise TailraceError(
                "the source was written after it was frozen, or takes writes again",
                hint="find out who writes; then `tailrace cutover CONFIG --abort`, and begin again",
            )

    async def _caught_up(self, seconds: float) -> float:
        """How long the target takes to have the log up to its end now."""
        began = time.monotonic()
        await self._passed(await asyncio.to_thread(self._source.position), seconds)
        return time.monotonic() - began

    async def _passed(self, position: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = await self._sink.state()
            checkpoint = None if state is None else state.checkpoint
            if checkpoint is not None and self._source.reached(checkpoint.position, position):
                return
            await asyncio.sleep(POLL_SECONDS)
        raise TailraceError(
            f"the target has not caught up within {seconds:g} s",
            hint="`tailrace status CONFIG` shows the lag, and whether the engine runs",
        )

    async def _prepared(self, position: str) -> list[str]:
        source = self._source
        return source.unresolved(position) if isinstance(source, PreparesTransactions) else []
