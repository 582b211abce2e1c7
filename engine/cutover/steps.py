"""
What each step of a cutover will do and how it is undone, in words.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["STEPS", "Words"]


class Words(NamedTuple):
    """A step: what it will do, and how to undo it."""

    will: str
    undo: str


_ABORT: Final = "`tailrace cutover CONFIG --abort` lets the source take writes again"

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
        "`tailrace cutover CONFIG --abort` calls switch_back, before the step stop only",
    ),
    "stop": Words(
        "end the engine; the source stays frozen",
        "not undone: the target may have writes that the source lacks",
    ),
    "abort": Words("put the source back as it was before the freeze", "begin a cutover again"),
}
