"""
The step *check*: whether a cutover can begin. Nothing is changed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from engine.contract import State
from engine.cutover.checks import (
    Refusal,
    client_findings,
    engine_refusals,
    hook_findings,
    proof_refusals,
    proof_warnings,
    schema_findings,
    table_refusals,
)
from engine.cutover.parts import LOG_SECONDS, Parts, Waits
from engine.cutover.proving import holding
from engine.errors import TailraceError
from engine.handover import KeepsCutovers, Numbers
from engine.proof import read_proofs
from engine.recovery import count_dead_letters
from engine.structure import ComparesSchema

__all__ = ["Ready", "Refused", "require_alone", "require_drained", "require_ready"]


#: After a cutover that is done. An engine that is started then has nothing to apply.
SWITCHED: Final = Refusal(
    "the applications are switched to the target already, and the source is still frozen",
    "`tailrace cutover CONFIG --status` shows that cutover; keep the engine from being started",
)


class Refused(TailraceError):
    """A cutover cannot begin, or go on. Nothing was changed, unless the hint says what was."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__("; ".join(it.reason for it in refusals))
        self.refusals = refusals


class Ready(NamedTuple):
    """A cutover can begin: what was found, what a person should know, and the end of the log."""

    text: str
    warnings: tuple[str, ...]
    position: str


async def require_ready(parts: Parts, waits: Waits) -> Ready:
    """What was found. Raises Refused unless a cutover can begin."""
    settings = parts.settings
    newest = await parts.store.newest()
    if newest is not None and newest.state == "done" and await waits.frozen(newest):
        raise Refused([SWITCHED])
    found, warnings = hook_findings(settings)
    found += [
        Refusal(f"the hook {name} cannot be executed: {program}", f"correct {name} in [cutover]")
        for name, program in parts.hooks.missing()
    ]
    state = await parts.sink.state()
    found += engine_refusals(state, runs=await parts.engine.runs())
    if state is not None and state.checkpoint is not None:
        progress = state.checkpoint.progress
        letters = await count_dead_letters(parts.sink)
        found += table_refusals(progress, parts.outdated(state), letters)
        proofs = await read_proofs(parts.sink)
        found += proof_refusals(progress, proofs, time.time(), settings.proof_age_seconds)
        warnings += proof_warnings(progress, proofs)
        for refusals, texts in (await _schema(parts), await _target(parts, state)):
            found += refusals
            warnings += texts
        if settings.verify == "changed" and (reason := (await holding(parts, LOG_SECONDS)).reason):
            warnings.append(f"tables that did not change would be compared, too, because {reason}")
    if not parts.hooks.given("freeze"):
        reason = await asyncio.to_thread(parts.freezer.why_not)
        found += [Refusal(f"the source cannot be frozen: {reason}", "")] if reason else []
    position = await waits.position()
    prepared = waits.prepared(position)
    if prepared:
        remedy = "XA COMMIT or XA ROLLBACK them"
        found.append(Refusal(f"{len(prepared)} transactions are prepared (XA)", remedy))
    if found:
        raise Refused(found)
    lag = await waits.caught_up(settings.max_lag_seconds)
    connected = await asyncio.to_thread(parts.freezer.clients)
    others = f"; connected to the source: {', '.join(connected.users)}" if connected.users else ""
    warnings += [connected.hidden] if connected.hidden else []
    return Ready(f"ready, {lag:.2f} s behind{others}", tuple(warnings), position)


async def require_drained(parts: Parts, end: str) -> None:
    """Raise TailraceError unless the target has the source's log up to ``end``, where that ends,
    and Refused unless its tables are as the source has them.
    """
    state = await parts.sink.state()
    if state is None or state.checkpoint is None:
        raise Refused(engine_refusals(state, runs=True))
    if not parts.source.reached(end, state.checkpoint.position):
        raise TailraceError(
            "the target has more of the log than the source, whose log was reset",
            hint="`tailrace status CONFIG` says whether the engine can go on",
        )
    letters = await count_dead_letters(parts.sink)
    found = table_refusals(state.checkpoint.progress, parts.outdated(state), letters)
    if found:
        raise Refused(found)


async def require_alone(parts: Parts) -> None:
    """Raise Refused if another session is about to commit rows to the target's tables."""
    state = await parts.sink.state()
    sink = parts.sink
    assert isinstance(sink, KeepsCutovers)
    tables = [] if state is None else [table.id for table in state.tables]
    refusals, _ = client_findings(await sink.clients(tables))
    if refusals:
        raise Refused(refusals)


async def _schema(parts: Parts) -> tuple[list[Refusal], list[str]]:
    """What the target's schema lacks."""
    sink, wait = parts.sink, False
    if isinstance(sink, ComparesSchema):
        wait = bool(await sink.why_no_foreign_keys())
    return schema_findings(
        await parts.differences(),
        required=parts.settings.require_schema,
        foreign_keys_wait=wait,
    )


async def _target(parts: Parts, state: State) -> tuple[list[Refusal], list[str]]:
    """Whether the target's tables can be made ready, and who else writes them."""
    sink = parts.sink
    assert isinstance(sink, KeepsCutovers)
    ids = [table.id for table in state.tables]
    numbers = Numbers(parts.settings.sequence_margin, await parts.counters(state))
    obstacles = await sink.obstacles(ids, numbers)
    refusals, warnings = client_findings(await sink.clients(ids))
    return [*(Refusal(it.reason, it.remedy) for it in obstacles), *refusals], warnings
