"""
The runbook as a web page, so that it is at hand where the engine runs.

    GET /runbook        docs/runbook.md and docs/recovery.md as one page, without data
    GET /runbook.css    its style

Each heading has the anchor that it has on GitHub, so ``docs/runbook.md#tailracelaghigh``, the form
that the alerts have, is ``/runbook#tailracelaghigh`` here. A link from one of the two pages to the
other leads within the page. Of a link to a page that is not served, the text stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.requests import Request
from starlette.responses import Response

from engine.settings.reference import document_path

__all__ = ["PAGES", "anchor", "get_runbook", "get_runbook_style"]

#: The pages, in their order.
PAGES = ("runbook.md", "recovery.md")

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Tailrace: runbook</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="runbook.css">
</head>
<body>
<main>
{}</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 50rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { margin-top: 3rem; }
h1:first-child { margin-top: 0; }
h2 { margin-top: 2.5rem; }
h2:target { background: Mark; color: MarkText; }
pre { padding: .75rem 1rem; overflow-x: auto; overflow-wrap: normal; border: 1px solid GrayText; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
th, td { padding: .3rem .6rem; border: 1px solid GrayText; text-align: left; vertical-align: top; }
"""


async def get_runbook(_: Request) -> Response:
    """The page."""
    return Response(_page(), headers=HEADERS, media_type="text/html")


async def get_runbook_style(_: Request) -> Response:
    """Its style."""
    return Response(STYLE, headers=HEADERS, media_type="text/css")


@cache
def _page() -> str:
    """The page, which is made once."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = []
    for name in PAGES:
        tokens = markdown.parse(document_path(name).read_text(encoding="utf-8"))
        _set_anchors(tokens)
        for token in tokens:
            if token.children:
                token.children = list(_linked(token.children))
        body.append(markdown.renderer.render(tokens, markdown.options, {}))
    return FRAME.format("".join(body))


def _set_anchors(tokens: Iterable[Token]) -> None:
    heading: Token | None = None
    for token in tokens:
        if heading is not None:
            heading.attrSet("id", anchor(token.content))
        heading = token if token.type == "heading_open" else None


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _linked(tokens: Iterable[Token]) -> Iterator[Token]:
    """The tokens with links that work here."""
    dropped = False
    for token in tokens:
        if token.type == "link_open":
            target = _target(str(token.attrGet("href")))
            dropped = not target
            token.attrSet("href", target)
        if not (dropped and token.type in ("link_open", "link_close")):
            yield token


def _target(link: str) -> str:
    """Where a link of the pages leads here; empty if it leads to a page that is not served."""
    if link.startswith(("#", "https:")):
        return link
    path, _, fragment = link.partition("#")
    if path not in PAGES:
        return ""
    if not fragment:
        first = document_path(path).read_text(encoding="utf-8").partition("\n")[0]
        fragment = anchor(first.lstrip("# "))
    return f"#{fragment}"
