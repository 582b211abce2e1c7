"""The OpenAPI document of the API, and the pages that it serves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import jsonschema
import pytest
from openapi_spec_validator import validate

from engine.ops.access import Access
from engine.ops.api import Api
from engine.ops.dashboard import Dashboard
from engine.ops.history import History
from engine.ops.metrics import Metrics
from engine.ops.openapi import openapi_document
from engine.ops.status import Status
from engine.settings.api import ApiSettings
from sinks.memory import MemorySink
from tests.support.http_api import BACKFILL, READ, ask, command_store, serving


@pytest.fixture
def store() -> Iterator[MemorySink]:
    with command_store() as store:
        yield store


def test_the_openapi_document_is_valid_and_true(store: MemorySink) -> None:
    async def work(port: int) -> None:
        document = (await ask(port, "GET", "/openapi.json")).body
        validate(document)
        submitted = await ask(port, "POST", "/commands", BACKFILL, content_type="application/json")
        answers = {
            ("/status", "get", "200"): await ask(port, "GET", "/status"),
            ("/health/ready", "get", "200"): await ask(port, "GET", "/health/ready"),
            ("/health/live", "get", "200"): await ask(port, "GET", "/health/live"),
            ("/history", "get", "200"): await ask(port, "GET", "/history"),
            ("/commands", "post", "202"): submitted,
            ("/commands", "get", "200"): await ask(port, "GET", "/commands"),
            ("/commands/{id}", "get", "200"): await ask(port, "GET", submitted.body["href"]),
            ("/commands/{id}", "get", "404"): await ask(port, "GET", "/commands/999"),
            ("/commands/{id}", "delete", "200"): await ask(port, "DELETE", submitted.body["href"]),
            ("/commands/{id}", "delete", "409"): await ask(port, "DELETE", submitted.body["href"]),
            ("/commands", "post", "default"): await ask(port, "POST", "/commands", b"{}"),
        }
        for (path, method, code), answer in answers.items():
            schema = document["paths"][path][method]["responses"][code]["content"]
            whole = {**schema["application/json"]["schema"], "components": document["components"]}
            jsonschema.validate(answer.body, whole)
        for path, media in (
            ("/", "text/html"),
            ("/runbook", "text/html"),
            ("/metrics", "text/plain"),
        ):
            assert media in document["paths"][path]["get"]["responses"]["200"]["content"]
            assert (await ask(port, "GET", path)).headers["content-type"].startswith(media)

    serving(ApiSettings(), work, commands=store)


def test_the_openapi_document_has_every_route() -> None:
    dashboard = Dashboard(Status, History)
    app = Api(Access(ApiSettings(), "127.0.0.1"), Metrics("p"), Status, dashboard=dashboard).app()
    served = {
        (str(getattr(route, "path", "")).replace(":int", ""), method.lower())
        for route in app.routes
        for method in getattr(route, "methods", ())
        if method != "HEAD"
    }
    described = {
        (path, method)
        for path, methods in openapi_document()["paths"].items()
        for method in methods
    }
    parts = {(path, "get") for path in ("/openapi.json", "/assets/{name}", "/runbook.css")}
    assert served - parts == described


def test_the_runbook_is_a_page_whose_links_work() -> None:
    """It needs no token, and loads nothing but its style."""

    async def work(port: int) -> None:
        found = await ask(port, "GET", "/runbook")
        assert found.code == 200
        assert found.headers["content-type"].startswith("text/html")
        assert found.headers["content-security-policy"].startswith("default-src 'none'")
        page = found.body.decode()
        anchors = re.findall(r' id="([^"]+)"', page)
        assert len(set(anchors)) == len(anchors)
        assert {"tailracelaghigh", "a-table-is-quarantined"} <= set(anchors)
        links = set(re.findall(r'href="([^"]+)"', page))
        assert {it for it in links if it.strip("#") not in anchors} == {"data:,", "runbook.css"}
        assert not re.search(r"<script|<img| style=|]\(", page)
        style = await ask(port, "GET", "/runbook.css")
        assert (style.code, style.headers["content-type"].partition(";")[0]) == (200, "text/css")

    serving(ApiSettings(read_token=READ), work)
