"""
The step *check*: whether a cutover can begin. Nothing is changed.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from engine.cutover.checks import (
    Refusal,
    engine_refusals,
    hook_refusals,
    proof_refusals,
    table_refusals,
)
from engine.cutover.parts import Parts, Waits
from engine.errors import TailraceError
from engine.proof import read_proofs
from engine.recovery import count_dead_letters

__all__ = ["Ready", "Refused", "require_ready"]


class Refused(TailraceError):
    """A cutover cannot begin. Nothing was changed."""

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
    found = hook_refusals(settings)
    state = await parts.sink.state()
    found += engine_refusals(state, runs=await parts.engine.runs())
    if state is not None and state.checkpoint is not None:
        progress = state.checkpoint.progress
        letters = await count_dead_letters(parts.sink)
        found += table_refusals(progress, state.outdated, letters)
        proofs = await read_proofs(parts.sink)
        found += proof_refusals(progress, proofs, time.time(), settings.proof_age_seconds)
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
    clients = await asyncio.to_thread(parts.freezer.clients)
    others = f"; connected to the source: {', '.join(clients)}" if clients else ""
    return Ready(f"ready, {lag:.2f} s behind{others}", (), position)
