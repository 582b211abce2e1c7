"""
What each step of a cutover will do and how it is undone, in words, and what a person can do. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.handover import BEFORE_SWITCH, Cutover, StepRecord

__all__ = [
    "CHOICE",
    "COMPARE_AGAIN",
    "LONGER",
    "NOT_STORED",
    "NO_WAY_BACK",
    "REHEARSED",
    "REHEARSED_FINISH",
    "STEPS",
    "Words",
    "undo_now",
    "undo_of",
    "way_back",
    "way_on",
]


class Words(NamedTuple):
    """A step: what it will do, and how to undo it."""

    will: str
    undo: str


_ABORT: Final = "`tailrace cutover CONFIG --abort` lets the source take writes again"
_SWITCHED: Final = "after that it is not undone: the target may have writes that the source lacks"
#: How the step switch is undone, with the hook switch_back and without it.
_BY_HOOK: Final = (
    "until the hook has succeeded, `tailrace cutover CONFIG --abort` calls switch_back;"
    f" {_SWITCHED}"
)
_BY_HAND: Final = (
    "until the hook has succeeded, `tailrace cutover CONFIG --abort --force` puts the source back;"
    f" no hook switch_back puts the applications back; {_SWITCHED}"
)

#: How a step of a rehearsal is undone.
REHEARSED: Final = "nothing is to be undone: the source takes writes as before"
#: The same of the step finish, which is done on the target also in a rehearsal.
REHEARSED_FINISH: Final = (
    f"{REHEARSED}, and sequences that were set and constraints that were validated do no harm"
)

#: The steps in their order, and what an abort does.
STEPS: Final[dict[str, Words]] = {
    "check": Words(
        "look whether both sides are ready; change nothing",
        "nothing is changed",
    ),
    "freeze": Words(
        "have the source refuse all writes, and watch its log stand still; the downtime begins",
        _ABORT,
    ),
    "drain": Words("wait until the target has the frozen log to its end", _ABORT),
    "verify": Words(
        "compare every row of every table, or of those that changed since they were last compared",
        _ABORT,
    ),
    "finish": Words(
        "set the target's sequences past the maxima, validate constraints, collect statistics",
        f"{_ABORT}; what is done on the target does no harm",
    ),
    "arm": Words("make the way back ready", _ABORT),
    "switch": Words(
        "call the hook that sends the applications to the target; the downtime ends",
        _BY_HOOK,
    ),
    "stop": Words(
        "end the engine; the source stays frozen",
        "not undone: the target may have writes that the source lacks",
    ),
    "abort": Words("put the source back as it was before the freeze", "begin a cutover again"),
}

#: What is told of steps, and the hints of errors.
NO_WAY_BACK: Final = (
    "no reverse pipeline is configured: what applications write to the target after the switch does"
    " not reach the source, so going back then loses it. Decide about the switch by that"
)
NOT_STORED: Final = (
    "the target could not store that the cutover is aborted: type `tailrace cutover CONFIG --abort`"
    " when it is back"
)
LONGER: Final = (
    "`tailrace cutover CONFIG --rehearse` tells what takes so long; or set a longer"
    " max_downtime_seconds in [cutover]"
)
COMPARE_AGAIN: Final = (
    "applications may have written to the target: run `tailrace verify CONFIG`. The next cutover"
    " compares every table"
)
CHOICE: Final = (
    "find out where the applications write. If they write to the source: `tailrace cutover CONFIG"
    " --abort`, and begin again. If they write to the target: `tailrace cutover CONFIG --switched`"
    " goes on without another call of the hook, and what the source has got since is not on the"
    " target"
)


def undo_of(step: str, *, switch_back: bool) -> str:
    """How to undo a step. ``switch_back``: that hook is configured."""
    return _BY_HAND if step == "switch" and not switch_back else STEPS[step].undo


def undo_now(cutover: Cutover, step: StepRecord) -> str:
    """How to undo a step of a record as things stand; empty if only a later one can be undone, or
    if ``way_on`` says it.
    """
    holds = cutover.state in (*BEFORE_SWITCH, "rehearsed")
    return step.undo if holds or (cutover.ended and step is cutover.steps[-1]) else ""


def way_on(cutover: Cutover, *, switch_back: bool) -> str:
    """The commands that go on with a cutover in its state, or what is left to know once it is done.
    ``switch_back``: that hook is configured.
    """
    if cutover.state == "done":
        return "`tailrace cutover CONFIG --back` says what going back takes"
    if cutover.ended:
        return ""
    if cutover.direction != "forward":
        return "use the version of Tailrace that has begun it"
    if cutover.state in BEFORE_SWITCH:
        return (
            "`tailrace cutover CONFIG` goes on, and `tailrace cutover CONFIG --abort` puts the"
            " source back"
        )
    if cutover.state == "stop":
        return (
            "`tailrace cutover CONFIG` ends it. There is no abort any more, because the"
            " applications are switched"
        )
    if cutover.state == "abort":
        return "`tailrace cutover CONFIG --abort` puts the source back"
    back = way_back(switch_back=switch_back)
    if cutover.state == "switch_back":
        return back
    return (
        f"`tailrace cutover CONFIG` calls the hook switch again; {back}. If the applications write"
        " to the target already, `tailrace cutover CONFIG --switched` goes on without another call"
    )


def way_back(*, switch_back: bool) -> str:
    """The command that aborts a cutover whose switch was begun."""
    if switch_back:
        return "`tailrace cutover CONFIG --abort` puts the applications and the source back"
    return (
        "`tailrace cutover CONFIG --abort --force` puts the source back: make sure before that no"
        " application writes to the target"
    )
