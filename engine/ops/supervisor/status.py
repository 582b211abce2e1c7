"""
The status of a supervisor: what ``/status`` of it returns, and the states of processes in words.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from engine.ops.status import Status
from engine.ops.words import Headline, Level

__all__ = [
    "SUPERVISOR_VERSION",
    "ProcessState",
    "ProcessStatus",
    "SupervisedStatus",
    "SupervisorStatus",
    "without_answer",
]

SUPERVISOR_VERSION: Final = 1

ProcessState = Literal[
    "running", "restarting", "stopping", "ended", "standing by", "configuration error"
]


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The process of one pipeline. ``since`` is when its state began (Unix seconds), ``message``
    and ``remedy`` are those of its last error, ``restarts`` counts since the last ``apply`` that
    has started it, and ``next_start`` is when it is started again.
    """

    pipeline: str
    file: str
    process: ProcessState
    since: float
    pid: int | None = None
    restarts: int = 0
    exit_status: int | None = None
    next_start: float | None = None
    message: str = ""
    remedy: str = ""


class SupervisedStatus(ProcessStatus, frozen=True, kw_only=True):
    """A pipeline: its process, its state in words, and the status of its engine without the tables,
    which ``tables`` counts by state. ``status`` is None if no engine answers.
    """

    headline: Headline
    status: Status | None = None
    tables: dict[str, int] = msgspec.field(default_factory=dict)


class SupervisorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All pipelines of a directory, ordered by name. ``supervisor`` is the version of this form."""

    supervisor: int = SUPERVISOR_VERSION
    pipelines: tuple[SupervisedStatus, ...] = ()


def without_answer(process: ProcessStatus) -> Headline:
    """The state in words of a pipeline whose engine does not answer."""
    because = f": {process.message}" if process.message else ""
    level: Level = "error"
    match process.process:
        case "running":
            level, text = "busy", "The engine starts, or does not answer."
        case "stopping":
            level, text = "busy", "Stopping: whole transactions are committed first."
        case "restarting":
            text = f"The engine has failed, and is started again{because}."
        case "standing by":
            level, text = "warning", "Standing by: a newer engine elsewhere runs this pipeline."
        case "configuration error":
            text = f"Not started, the configuration cannot be used{because}."
        case _:
            level, text = "warning", f"Stopped{because}."
    return Headline(level, text, process.remedy)
