"""
The dashboard: one page that shows a running engine, and the events that keep it up to date.

    GET /                 the page, without data
    GET /assets/NAME      its script and style, and uPlot (https://github.com/leeoniya/uPlot)
    GET /history          the lag and the throughput of the last 24 hours
    GET /events           server-sent events:
                            status   each second: the headline, and the status without its tables
                            tables   the tables whose status has changed; all of them at first

The page loads nothing from elsewhere, and its Content-Security-Policy allows no inline script. It
needs no token itself. It asks the user for one when the API wants one, and sends it with each
request, so a page of somebody else cannot use it.

``pipelines.html`` is the index of a supervisor, with a link to the page of each pipeline.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.resources import files
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from engine.ops.history import History
from engine.ops.status import Status, TableStatus
from engine.ops.words import Headline, headline

__all__ = ["Dashboard", "asset", "page"]

#: How often the status is sent.
STATUS_SECONDS = 1.0
#: How long a client may take to read an event.
EVENT_SECONDS = 30.0
#: The greatest number of open streams of events.
STREAMS = 32

#: The files of the page, with their types.
ASSETS = {
    "dashboard.js": "text/javascript",
    "charts.js": "text/javascript",
    "tables.js": "text/javascript",
    "commands.js": "text/javascript",
    "shared.js": "text/javascript",
    "pipelines.js": "text/javascript",
    "dashboard.css": "text/css",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
}
VENDORED = ("uPlot.iife.min.js", "uPlot.min.css")

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


class Shown(msgspec.Struct, frozen=True):
    """The event ``status``. ``status`` has no tables; ``states`` counts them by state."""

    headline: Headline
    status: Status
    states: dict[str, int]


def page(name: str) -> Response:
    """A page: ``index.html`` or ``pipelines.html``."""
    return Response(_content(name), headers=HEADERS, media_type="text/html")


def asset(name: str) -> Response:
    """A file of the pages. Raises HTTPException if there is none of this name."""
    if name not in ASSETS:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return Response(_content(name), headers=HEADERS, media_type=ASSETS[name])


class Dashboard:
    """The page of one pipeline, whose status and history these functions return."""

    def __init__(
        self, status: Callable[[], Status], history: Callable[[], History], config: str = ""
    ) -> None:
        self._status = status
        self._history = history
        self._config = config
        self._streams = 0

    async def get_page(self, _: Request) -> Response:
        """The page."""
        return page("index.html")

    async def get_asset(self, request: Request) -> Response:
        """A file of the page."""
        return asset(request.path_params["name"])

    async def get_history(self, _: Request) -> Response:
        """The history."""
        body = msgspec.json.encode(self._history())
        return Response(body, media_type="application/json")

    async def get_events(self, request: Request) -> Response:
        """The events; ``zone`` is the IANA name of the reader's time zone."""
        if self._streams >= STREAMS:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many dashboards are open; close some"
            )
        zone = _zone(request.query_params.get("zone", ""))
        extend = request.state.extend
        return StreamingResponse(self._events(zone, extend), media_type="text/event-stream")

    async def _events(
        self, zone: ZoneInfo | None, extend: Callable[[float], None]
    ) -> AsyncGenerator[bytes, None]:
        self._streams += 1
        sent: tuple[TableStatus, ...] = ()
        try:
            while True:
                extend(EVENT_SECONDS)
                status = self._status()
                now = datetime.now(zone or UTC)
                shown = Shown(
                    headline(status, now, config=self._config),
                    msgspec.structs.replace(status, tables=()),
                    Counter(table.state for table in status.tables),
                )
                yield _event("status", shown)
                if status.tables is not sent or not sent:
                    known = {id(table) for table in sent}
                    changed = [table for table in status.tables if id(table) not in known]
                    gone = {it.table for it in sent} - {it.table for it in status.tables}
                    yield _event("tables", {"changed": changed, "gone": sorted(gone)})
                    sent = status.tables
                await asyncio.sleep(STATUS_SECONDS)
        finally:
            self._streams -= 1


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


def _content(name: str) -> bytes:
    folder = files(__name__)
    return (folder / "vendor" / name if name in VENDORED else folder / name).read_bytes()


def _zone(name: str) -> ZoneInfo | None:
    """The time zone of this name; None if this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
