"""
The OpenAPI 3.1 document of a supervisor: its own operations, and those of each pipeline.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from engine.ops.openapi import OPERATIONS, PUBLIC, Health, Operation, Page, document_of
from engine.ops.supervisor.status import SupervisorStatus

__all__ = ["supervisor_document"]


class Nothing(msgspec.Struct, frozen=True):
    """The body of a request that needs none: ``{}``."""


class Outcome(msgspec.Struct, frozen=True):
    """What a request has done."""

    outcome: str


PIPELINE: Final = "/pipelines/{pipeline}"
NAME: Final = {
    "name": "pipeline",
    "in": "path",
    "required": True,
    "description": "the name of the pipeline",
    "schema": {"type": "string"},
}

OWN: Final = (
    Operation("get", "/", "index", "All pipelines in words.", {200: ("the page", Page)}, PUBLIC),
    Operation("get", "/runbook", "runbook", "The runbook.", {200: ("the page", Page)}, PUBLIC),
    Operation(
        *("get", "/status", "status", "The status of all pipelines."),
        {200: ("it", SupervisorStatus)},
    ),
    Operation("get", "/metrics", "metrics", "The metrics of all.", {200: ("them", str)}),
    Operation(
        *("get", "/health/live", "live", "Whether the process serves requests."),
        {200: ("it does", Health)},
        PUBLIC,
    ),
    Operation(
        *("get", "/health/ready", "ready", "Whether each pipeline is ready or has ended."),
        {200: ("it is", Health), 503: ("it is not, for the reasons", Health)},
        PUBLIC,
    ),
    Operation(
        *("post", "/reload", "reload", "Read the directory again."),
        {200: ("the outcome", Outcome)},
        body=Nothing,
    ),
    Operation(
        *("post", "/stop", "stop", "Have all engines commit and end, and then the supervisor."),
        {200: ("the outcome", Outcome)},
        body=Nothing,
    ),
)


def _of_a_pipeline(it: Operation) -> Operation:
    """An operation of an engine, as the supervisor serves it."""
    more = {**it.more, "parameters": [NAME, *it.more.get("parameters", ())]}
    return it._replace(path=PIPELINE + it.path, name=f"pipeline_{it.name}", more=more)


@cache
def supervisor_document() -> dict[str, Any]:
    """The document. It is the same object at each call: do not change it."""
    return document_of((*OWN, *map(_of_a_pipeline, OPERATIONS)))
