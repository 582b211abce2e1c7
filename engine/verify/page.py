"""
The report of a comparison as a page of HTML that needs nothing else: no other file, no script.

Every text is escaped, and characters that control a terminal or the direction of writing are shown
as escapes, so that a value cannot forge a part of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from engine.ops.log import printable
from engine.verify.content import ComparedTable, Content, DifferingRow, Outcome, Server
from engine.verify.report import Replaced
from engine.verify.seal import BEFORE, BEHIND

__all__ = ["page"]

#: Rows of a table that the page lists. The document in the page has more.
LISTED: Final = 200

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
_SIDES: Final = {"missing": "no row on the target", "extra": "no row on the source"}
_VERDICTS: Final[dict[Outcome, str]] = {
    "equal": "Equal: every row of these tables has the same values on both sides.",
    "different": "Different: rows differ between source and target.",
    "inconclusive": "Not proven: no row is known to differ, but not all could be compared.",
}
#: The tables that need a look come first.
_ORDER: Final[Sequence[Outcome]] = ("different", "inconclusive", "equal")
_HOLDS_VALUES: Final = (
    "This report holds keys and values of rows that differ. Keep it as you keep the data. Values of"
    " masked columns are left out."
)
_MEANING: Final = (
    "Equal means that each row that existed throughout the comparison had on the target a value"
    " that the source held when the row was compared. Different means that a row was wrong in each"
    " of several rechecks while it stood still on the source."
)


def page(content: Content, digest: str, key: str) -> tuple[bytes, bytes]:
    """The page in two pieces, between which the document stands. ``digest`` is the hash of the
    content, ``key`` the public key of the signature, empty if there is none."""
    title = f"Comparison of {content.pipeline}"
    head = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text(title)}</title>",
        f"<style>\n{_style()}</style>\n</head>\n<body>",
    ]
    tables = sorted(content.tables, key=lambda table: _ORDER.index(table.outcome))
    lines = [*head, *_summary(content, title), *_overview(tables), *_left_out(content)]
    if tables:
        lines.append("<h2>Tables in detail</h2>")
    for number, table in enumerate(tables, 1):
        lines += _table(table, number)
    lines += _footer(digest, key)
    before = "\n".join(lines).encode(errors="backslashreplace") + b"\n" + BEFORE
    return before, BEHIND + b"\n</body>\n</html>\n"


@cache
def _style() -> str:
    return (files("engine.verify") / "page.css").read_text(encoding="utf-8")


def _text(text: str) -> str:
    """A text as HTML, on its own in the direction of writing."""
    return f"<bdi>{_plain(text)}</bdi>" if not text.isascii() else _plain(text)


def _plain(text: str) -> str:
    return escape(printable(text))


def _summary(content: Content, title: str) -> Iterator[str]:
    yield f"<h1>{_text(title)}</h1>"
    verdict = _VERDICTS[content.outcome]
    yield f'<p class="verdict {content.outcome}">{verdict}</p>'
    holds = any(table.rows for table in content.tables)
    caution = _HOLDS_VALUES if holds else "This report holds no values of rows."
    yield f'<p class="caution">{caution}</p>'
    rows = sum(table.source_rows for table in content.tables)
    tables = f"{len(content.tables):,} compared, {len(content.not_compared):,} not compared"
    yield from _facts(
        [
            ("Source", _server(content.source)),
            ("Target", _server(content.target)),
            ("Began", _text(content.began)),
            ("Ended", _text(content.ended)),
            ("Tables", tables),
            ("Rows on the source", f"{rows:,}"),
            ("Made by", f"Tailrace {_text(content.tailrace)}"),
        ]
    )


def _server(server: Server) -> str:
    where = f" at {_code(server.address)}" if server.address else ""
    return f"{_text(server.software or 'unknown')}{where}"


def _facts(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of names with HTML; those without any are left out."""
    yield "<dl>"
    yield from (f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)
    yield "</dl>"


def _grid(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: range) -> Iterator[str]:
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


def _overview(tables: Sequence[ComparedTable]) -> Iterator[str]:
    if not tables:
        return
    yield "<h2>Tables</h2>"
    names = ("Table", "Result", "Rows, source", "Rows, target")
    yield from _grid(
        (*names, "Changed", "Missing", "Extra", "Left open", "Compared by", "Time"),
        (
            (
                f'<a href="#t{number}">{_text(it.table)}</a>',
                _badge(it.outcome),
                *map(_count, (it.source_rows, it.target_rows)),
                *(_count(n) if n else "" for n in (it.changed, it.missing, it.extra, it.left_open)),
                _text(it.method),
                _seconds(it.milliseconds),
            )
            for number, it in enumerate(tables, 1)
        ),
        range(2, 8),
    )


def _left_out(content: Content) -> Iterator[str]:
    if not content.not_compared:
        return
    yield "<h2>Not compared</h2>"
    rows = ((_text(it.table), _text(it.state), _text(it.reason)) for it in content.not_compared)
    yield from _grid(("Table", "State", "Reason"), rows, range(0))


def _table(table: ComparedTable, number: int) -> Iterator[str]:
    yield f'<section id="t{number}"><header><h3>{_text(table.table)}</h3>'
    yield f"{_badge(table.outcome)}</header>"
    how = _text(table.method)
    if table.read_because:
        how += f"; all rows were read: {_text(table.read_because)}"
    elif table.method == "checksums":
        how += f"; {_count(table.read_rows)} rows were read"
    rows = f"{_count(table.source_rows)} on the source, {_count(table.target_rows)} on the target"
    yield from _facts(
        [
            ("Rows", rows),
            ("Compared by", how),
            ("Checksum", _checksums(table)),
            ("Began", f"{_text(table.began)}, took {_seconds(table.milliseconds)}"),
            ("Source position", _code(table.position)),
            ("State on the target", _text(table.state)),
            ("Not decided", _text(table.inconclusive)),
            ("Policies", "<br>".join(_policies(table.policies))),
            ("Masked columns", _text(", ".join(table.masked))),
        ]
    )
    yield from _rows(table)
    yield "</section>"


def _checksums(table: ComparedTable) -> str:
    source, target = table.source_checksum, table.target_checksum
    if source == target:
        return f"{_code(source)} on both sides" if source else ""
    both = f"{_code(source)} on the source<br>{_code(target)} on the target"
    read = "<br>The rows behind the difference were read, and are equal."
    return both + (read if table.outcome == "equal" else "")


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>" if text else ""


def _policies(policies: Sequence[Replaced]) -> Iterator[str]:
    """Each policy with its columns; those whose values were counted and changed come first, each
    with the number."""
    for it in policies:
        if it.values:
            name = _code(it.column)
            yield f"{_code(it.policy)} changed {_count(it.values)} values of {name}"
    counted = any(it.values is not None for it in policies)
    for policy in dict.fromkeys(it.policy for it in policies if not it.values):
        columns = ", ".join(it.column for it in policies if it.policy == policy and not it.values)
        verb = "changed no value of" if counted else "holds for"
        yield f"{_code(policy)} {verb} {_text(columns)}"


def _rows(table: ComparedTable) -> Iterator[str]:
    """The rows that differ, a line for each value."""
    shown = table.rows[:LISTED]
    if shown:
        names = ("Key", "Row", "Column", "Source", "Target")
        yield from _grid(names, (line for row in shown for line in _lines(row)), range(0))
    differing = table.changed + table.missing + table.extra
    if differing > len(shown):
        listed = f"{len(shown):,} of {differing:,} rows that differ are listed here"
        if len(table.rows) > len(shown):
            listed += f", {len(table.rows):,} in the JSON"
        yield f'<p class="faint">{listed}. A table without a key has no list.</p>'


def _lines(row: DifferingRow) -> Iterator[Sequence[str]]:
    key = ", ".join(_value(part) for part in row.key)
    shown: str = row.kind
    for it in row.values:
        if it.hidden:
            sides = ["<small>masked</small>"] * 2
        else:
            sides = [_value(it.source), _value(it.target)]
        if row.kind != "changed":
            sides[row.kind == "missing"] = f"<small>{_SIDES[row.kind]}</small>"
        yield key, shown, _code(it.column), *sides
        key = shown = ""


def _value(value: str | None) -> str:
    if not value:
        return f"<small>{'NULL' if value is None else 'empty'}</small>"
    return f'<span class="value">{_text(value)}</span>'


def _badge(outcome: Outcome) -> str:
    return f'<span class="badge {outcome}">{outcome}</span>'


def _count(number: int) -> str:
    return f"{number:,}"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:,.1f} s"


def _footer(digest: str, key: str) -> Iterator[str]:
    yield f"<footer><p>{_MEANING}</p>"
    signed = _code(key) if key else "not signed"
    yield from _facts([("SHA-256", _code(digest)), ("Ed25519 key", signed)])
    yield (
        "<p><code>tailrace report verify FILE</code> checks this page against its hashes, and with"
        " <code>--key</code> who has signed it. The page contains the report as JSON.</p></footer>"
    )
