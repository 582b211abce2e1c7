"""
The OpenAPI 3.1 document of the API. Its schemas are those of the structs, made by msgspec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NewType

import msgspec

from engine.commands import PipelineCommand, WholeCommand
from engine.ops.history import History
from engine.ops.status import Status

__all__ = ["OPERATIONS", "PUBLIC", "Health", "Operation", "Page", "document_of", "openapi_document"]


class Problem(msgspec.Struct, frozen=True):
    """An error: what it is, what happened, and what to do."""

    error: str
    detail: str = ""
    hint: str = ""


class Submitted(msgspec.Struct, frozen=True):
    """The number of a command, and where its outcome will be."""

    id: int
    href: str


class Health(msgspec.Struct, frozen=True):
    """Whether the pipeline is ready, and the reason if it is not."""

    status: str
    reason: str = ""
    pipeline: str = ""
    state: str | None = None
    lag_seconds: float | None = None


class CommandRecord(msgspec.Struct, frozen=True):
    """A command with who gave it, when (Unix seconds), and its outcome; null while it waits."""

    id: int
    command: PipelineCommand
    by: str
    at: float
    outcome: str | None = None
    refused: bool = False


#: A page for people, and a stream of server-sent events.
Page = NewType("Page", str)
Events = NewType("Events", str)
#: The media types of answers that are no JSON.
MEDIA: Final[Mapping[object, str]] = {
    str: "text/plain",
    Page: "text/html",
    Events: "text/event-stream",
}


class Operation(NamedTuple):
    """One operation: its ``answers`` are a description and a type for each code of HTTP, ``body``
    is the type of the request's body, and ``more`` are further keys of the document.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: dict[int, tuple[str, object]]
    more: Mapping[str, Any] = MappingProxyType({})
    body: object = None


PUBLIC: dict[str, Any] = {"security": []}
USER = {
    "name": "Tailrace-User",
    "in": "header",
    "description": "the name that the record of commands shows",
    "schema": {"type": "string"},
}
NUMBER = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
ZONE = {
    "name": "zone",
    "in": "query",
    "description": "the IANA name of the time zone of the times in words",
    "schema": {"type": "string"},
}

OPERATIONS = (
    Operation("get", "/metrics", "metrics", "Metrics for Prometheus.", {200: ("them", str)}),
    Operation(
        *("get", "/health/live", "live", "Whether the process serves requests."),
        {200: ("it does", Health)},
        PUBLIC,
    ),
    Operation(
        *("get", "/health/ready", "ready", "Whether the target is fresh."),
        {200: ("it is", Health), 503: ("it is not, for the reason", Health)},
        PUBLIC,
    ),
    Operation("get", "/status", "status", "The pipeline's status.", {200: ("it", Status)}),
    Operation(
        *("get", "/history", "history", "The lag and the throughput of the last 24 hours."),
        {200: ("them", History)},
    ),
    Operation(
        *("get", "/events", "events", "The status each second, as server-sent events."),
        {200: ("they", Events), 503: ("too many clients read them", Problem)},
        {"parameters": [ZONE]},
    ),
    Operation("get", "/", "dashboard", "The dashboard.", {200: ("the page", Page)}, PUBLIC),
    Operation("get", "/runbook", "runbook", "The runbook.", {200: ("the page", Page)}, PUBLIC),
    Operation(
        *("get", "/commands", "commands", "The last commands, the latest first."),
        {200: ("them", list[CommandRecord])},
    ),
    Operation(
        *("post", "/commands", "submit", "Store a command. The engine executes it at a commit."),
        {202: ("it is stored", Submitted)},
        {"parameters": [USER]},
        WholeCommand,
    ),
    Operation(
        *("get", "/commands/{id}", "command", "A command with its outcome."),
        {200: ("it", CommandRecord), 404: ("there is none of this number", Problem)},
        {"parameters": [NUMBER]},
    ),
    Operation(
        *("delete", "/commands/{id}", "cancel", "Cancel a command that waits."),
        {
            200: ("it, with its outcome", CommandRecord),
            404: ("there is none of this number", Problem),
            409: ("it does not wait any more", Problem),
        },
        {"parameters": [NUMBER, USER]},
    ),
)


@cache
def openapi_document() -> dict[str, Any]:
    """The document. It is the same object at each call: do not change it."""
    return document_of(OPERATIONS)


def document_of(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document of an API with these operations."""
    types: list[Any] = [kind for it in operations for _, kind in it.answers.values()]
    types += [it.body for it in operations if it.body is not None]
    types.append(Problem)
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(map(str, types), schemas, strict=True))

    def content(kind: object) -> dict[str, Any]:
        media = next((it for of, it in MEDIA.items() if of is kind), "application/json")
        return {media: {"schema": by_type[str(kind)]}}

    paths: dict[str, dict[str, Any]] = {}
    for it in operations:
        responses: dict[str, Any] = {
            str(code): {"description": text, "content": content(kind)}
            for code, (text, kind) in it.answers.items()
        }
        responses["default"] = {"description": "an error", "content": content(Problem)}
        shown = {"operationId": it.name, "summary": it.summary, "responses": responses, **it.more}
        if it.body is not None:
            shown["requestBody"] = {"required": True, "content": content(it.body)}
        paths.setdefault(it.path, {})[it.method] = shown
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tailrace", "version": version("tailrace")},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }
