"""
The pieces of a page of HTML that needs nothing else: no other file, no script.

Every text is escaped, and characters that control a terminal or the direction of writing are shown
as escapes, so that a value cannot forge a part of the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from engine.ops.log import printable
from engine.report.parts import Server
from engine.report.seal import BEFORE, BEHIND

__all__ = [
    "as_text",
    "badge",
    "code",
    "count",
    "facts",
    "grid",
    "page_of",
    "prose",
    "seconds",
    "server",
]

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
_CODE: Final = re.compile("`([^`]*)`")
#: An option of a command, which is not to be broken at its hyphens.
_OPTION: Final = re.compile(r"(?<= )-[\w-]+")


def page_of(
    title: str, body: Iterable[str], meaning: str, digest: str, key: str
) -> tuple[bytes, bytes]:
    """The page in two pieces, between which the document stands. ``meaning`` says what the words of
    the report mean. ``digest`` is the hash of the content, ``key`` the public key of the signature,
    empty if there is none.
    """
    head = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{as_text(title)}</title>",
        f"<style>\n{_style()}</style>\n</head>\n<body>",
        f"<h1>{as_text(title)}</h1>",
    ]
    lines = [*head, *body, *_footer(meaning, digest, key)]
    before = "\n".join(lines).encode(errors="backslashreplace") + b"\n" + BEFORE
    return before, BEHIND + b"\n</body>\n</html>\n"


@cache
def _style() -> str:
    return (files("engine.report") / "page.css").read_text(encoding="utf-8")


def _footer(meaning: str, digest: str, key: str) -> Iterator[str]:
    yield f"<footer><p>{meaning}</p>"
    yield from facts([("SHA-256", code(digest)), ("Ed25519 key", code(key) or "not signed")])
    yield (
        "<p><code>tailrace report verify FILE</code> checks this page against its hashes, and with"
        " <code>--key</code> who has signed it. The page contains the report as JSON.</p></footer>"
    )


def as_text(text: str) -> str:
    """A text as HTML, on its own in the direction of writing."""
    plain = escape(printable(text))
    return plain if text.isascii() else f"<bdi>{plain}</bdi>"


def code(text: str) -> str:
    """A text as HTML, in the type of code; nothing if it is empty."""
    return f"<code>{as_text(text)}</code>" if text else ""


def prose(text: str) -> str:
    """A text as HTML, in which backquotes mark code."""
    return _CODE.sub(_command, as_text(text))


def _command(found: re.Match[str]) -> str:
    words = _OPTION.sub(r'<span class="option">\g<0></span>', found[1])
    return f"<code>{words}</code>"


def badge(outcome: str) -> str:
    """An outcome, in its color. The style sheet has a class of that name."""
    return f'<span class="badge {outcome}">{outcome}</span>'


def count(number: int) -> str:
    """A number of things."""
    return f"{number:,}"


def seconds(milliseconds: int, digits: int = 1) -> str:
    """A duration."""
    return f"{milliseconds / 1000:,.{digits}f} s"


def server(side: Server) -> str:
    """A side of a pipeline."""
    where = f" at {code(side.address)}" if side.address else ""
    return f"{as_text(side.software or 'unknown')}{where}"


def facts(named: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of names with HTML; those without any are left out."""
    yield "<dl>"
    yield from (f"<dt>{name}</dt><dd>{value}</dd>" for name, value in named if value)
    yield "</dl>"


def grid(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: range) -> Iterator[str]:
    """A table of HTML. The columns ``numbers`` have numbers."""
    kinds = [' class="number"' if n in numbers else "" for n in range(len(names))]
    yield '<div class="wide"><table><thead><tr>'
    heads = zip(names, kinds, strict=True)
    yield "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in heads)
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = zip(row, kinds, strict=True)
        yield f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in cells)}</tr>"
    yield "</tbody></table></div>"
