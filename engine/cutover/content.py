"""
The content of the report of a cutover (``tailrace cutover --report``): what the page shows and the
JSON holds. It is made from the stored record alone, and holds no values of rows.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from engine.handover import Cutover, CutoverState, ProvenTable, StepRecord
from engine.report.parts import Server, milliseconds, moment

__all__ = ["FORMAT", "Content", "Outcome", "Proven", "Step", "make_content"]

#: The version of the format.
FORMAT: Final = 1

Outcome = Literal["switched", "aborted", "rehearsed", "under way"]
_OUTCOMES: Final[dict[CutoverState, Outcome]] = {
    "done": "switched",
    "aborted": "aborted",
    "rehearsed": "rehearsed",
}


class Step(msgspec.Struct, frozen=True):
    """A step that was done, as ``StepRecord``. ``predicted_milliseconds`` is what it took in the
    last rehearsal; None if that did not do it.
    """

    step: str
    will: str
    did: str
    undo: str
    began: str
    milliseconds: int
    predicted_milliseconds: int | None


class Proven(msgspec.Struct, frozen=True):
    """A table that was proven equal, as ``ProvenTable``."""

    table: str
    rows: int
    method: str
    compared: bool
    began: str
    milliseconds: int
    position: str
    checksum: str
    replaced: tuple[str, ...]


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """A cutover or a rehearsal, as ``Cutover``. ``start`` and ``end`` are positions of the source's
    log, the latter that of the frozen one. ``downtime_milliseconds`` is from the freeze to the
    switch.
    """

    format: int = FORMAT
    report: Literal["cutover"] = "cutover"
    outcome: Outcome
    state: str
    reason: str
    cutover: str
    pipeline: str
    direction: str
    by: str
    tailrace: str
    source: Server
    target: Server
    began: str
    frozen: str
    switched: str
    ended: str
    start: str
    end: str
    before: str
    downtime_milliseconds: int | None
    predicted_milliseconds: int | None
    predicted_at: str
    warnings: tuple[str, ...]
    steps: tuple[Step, ...]
    tables: tuple[Proven, ...]


def make_content(cutover: Cutover) -> Content:
    """The content of the report."""
    sides = cutover.sides
    return Content(
        outcome=_OUTCOMES.get(cutover.state, "under way"),
        state=cutover.state,
        reason=cutover.reason,
        cutover=cutover.id,
        pipeline=cutover.pipeline,
        direction=cutover.direction,
        by=cutover.by,
        tailrace=sides.tailrace,
        source=Server(sides.source, sides.source_address),
        target=Server(sides.target, sides.target_address),
        began=moment(cutover.started_at),
        frozen=_moment(cutover.frozen_at),
        switched=_moment(cutover.switched_at),
        ended=_moment(cutover.ended_at),
        start=cutover.start,
        end=cutover.end,
        before=cutover.before or "",
        downtime_milliseconds=_milliseconds(cutover.downtime_seconds),
        predicted_milliseconds=_milliseconds(cutover.predicted_seconds),
        predicted_at=_moment(cutover.predicted_at),
        warnings=cutover.warnings,
        steps=tuple(_step(it, cutover.predicted.get(it.step)) for it in cutover.steps),
        tables=tuple(map(_proven, cutover.proofs)),
    )


def _step(step: StepRecord, predicted: float | None) -> Step:
    return Step(
        *(step.step, step.will, step.did, step.undo, moment(step.started_at)),
        *(milliseconds(step.seconds), _milliseconds(predicted)),
    )


def _proven(table: ProvenTable) -> Proven:
    return Proven(
        *(table.table, table.rows, table.method, table.compared, moment(table.began_at)),
        *(milliseconds(table.seconds), table.position, table.checksum, table.replaced),
    )


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else moment(seconds)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else milliseconds(seconds)
