"""
The report of a comparison as a page of HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from engine.report.html import as_text, badge, code, count, facts, grid, page_of, seconds, server
from engine.verify.content import ComparedTable, Content, DifferingRow, Outcome
from engine.verify.report import Replaced

__all__ = ["page"]

#: Rows of a table that the page lists. The document in the page has more.
LISTED: Final = 200

_SIDES: Final = {"missing": "no row on the target", "extra": "no row on the source"}
_VERDICTS: Final[dict[Outcome, str]] = {
    "equal": "Equal: every row of these tables has the same values on both sides.",
    "different": "Different: rows differ between source and target.",
    "sampled": "Sampled: no row of the samples differs, and not all rows were compared.",
    "inconclusive": "Not proven: no row is known to differ, but not all could be compared.",
}
#: The tables that need a look come first.
_ORDER: Final[Sequence[Outcome]] = ("different", "inconclusive", "sampled", "equal")
_HOLDS_VALUES: Final = (
    "This report holds keys and values of rows that differ. Keep it as you keep the data. Values of"
    " masked columns are left out."
)
_MEANING: Final = (
    "Equal means that each row that existed throughout the comparison had on the target a value"
    " that the source held when the row was compared. Different means that a row was wrong in each"
    " of several rechecks while it stood still on the source."
)


def page(
    content: Content, digest: str, key: str, place: Callable[[str], str] = str
) -> tuple[bytes, bytes]:
    """The page in two pieces, between which the document stands. ``digest`` is the hash of the
    content, ``key`` the public key of the signature, empty if there is none. ``place`` returns the
    form of a position that people read."""
    title = f"Comparison of {content.pipeline}"
    return page_of(title, _body(content, place), _MEANING, digest, key)


def _body(content: Content, place: Callable[[str], str]) -> Iterator[str]:
    tables = sorted(content.tables, key=lambda table: _ORDER.index(table.outcome))
    yield from _summary(content)
    yield from _overview(tables)
    yield from _left_out(content)
    if tables:
        yield "<h2>Tables in detail</h2>"
    for number, table in enumerate(tables, 1):
        yield from _table(table, number, place)


def _summary(content: Content) -> Iterator[str]:
    verdict = _VERDICTS[content.outcome]
    yield f'<p class="verdict {content.outcome}">{verdict}</p>'
    holds = any(table.rows for table in content.tables)
    caution = _HOLDS_VALUES if holds else "This report holds no values of rows."
    yield f'<p class="caution">{caution}</p>'
    rows = sum(table.source_rows for table in content.tables)
    tables = f"{len(content.tables):,} compared, {len(content.not_compared):,} not compared"
    yield from facts(
        [
            ("Source", server(content.source)),
            ("Target", server(content.target)),
            ("Began", as_text(content.began)),
            ("Ended", as_text(content.ended)),
            ("Tables", tables),
            ("Rows on the source", f"{rows:,}"),
            ("Made by", f"Tailrace {as_text(content.tailrace)}"),
        ]
    )


def _overview(tables: Sequence[ComparedTable]) -> Iterator[str]:
    if not tables:
        return
    yield "<h2>Tables</h2>"
    names = ("Table", "Result", "Rows, source", "Rows, target")
    yield from grid(
        (*names, "Changed", "Missing", "Extra", "Left open", "Compared by", "Time"),
        (
            (
                f'<a href="#t{number}">{as_text(it.table)}</a>',
                badge(it.outcome),
                *map(count, (it.source_rows, it.target_rows)),
                *(count(n) if n else "" for n in (it.changed, it.missing, it.extra, it.left_open)),
                as_text(it.method),
                seconds(it.milliseconds),
            )
            for number, it in enumerate(tables, 1)
        ),
        range(2, 8),
    )


def _left_out(content: Content) -> Iterator[str]:
    if not content.not_compared:
        return
    yield "<h2>Not compared</h2>"
    rows = (
        (as_text(it.table), as_text(it.state), as_text(it.reason)) for it in content.not_compared
    )
    yield from grid(("Table", "State", "Reason"), rows, range(0))


def _table(table: ComparedTable, number: int, place: Callable[[str], str]) -> Iterator[str]:
    yield f'<section id="t{number}"><header><h3>{as_text(table.table)}</h3>'
    yield f"{badge(table.outcome)}</header>"
    how = as_text(table.method)
    if table.read_because:
        how += f"; all rows were read: {as_text(table.read_because)}"
    elif table.method == "checksums":
        how += f"; {count(table.read_rows)} rows were read and compared one by one"
    rows = f"{count(table.source_rows)} on the source, {count(table.target_rows)} on the target"
    yield from facts(
        [
            ("Rows", rows),
            ("Compared by", how),
            ("Sample", as_text(table.sample)),
            ("Checksum", _checksums(table)),
            ("Began", f"{as_text(table.began)}, took {seconds(table.milliseconds)}"),
            ("Source position", code(place(table.position))),
            ("State on the target", as_text(table.state)),
            ("Not decided", as_text(table.inconclusive)),
            ("Policies", "<br>".join(_policies(table.policies))),
            ("Masked columns", as_text(", ".join(table.masked))),
        ]
    )
    yield from _rows(table)
    yield "</section>"


def _checksums(table: ComparedTable) -> str:
    source, target = table.source_checksum, table.target_checksum
    if source == target:
        return f"{code(source)} on both sides" if source else ""
    both = f"{code(source)} on the source<br>{code(target)} on the target"
    read = "<br>The rows behind the difference were read, and are equal."
    return both + (read if table.outcome == "equal" else "")


def _policies(policies: Sequence[Replaced]) -> Iterator[str]:
    """Each policy with its columns; those that changed values come first, each with the number."""
    for it in policies:
        if it.values:
            changed = f"{as_text(it.changed)} in {code(it.column)}: {count(it.values)}"
            yield f"{code(it.policy)}: {changed}"
    for policy in dict.fromkeys(it.policy for it in policies if not it.values):
        columns = ", ".join(it.column for it in policies if it.policy == policy and not it.values)
        yield f"{code(policy)} changed no value of {as_text(columns)}"


def _rows(table: ComparedTable) -> Iterator[str]:
    """The rows that differ, a line for each value."""
    shown = table.rows[:LISTED]
    if shown:
        names = ("Key", "Row", "Column", "Source", "Target")
        yield from grid(names, (line for row in shown for line in _lines(row)), range(0))
    differing = table.changed + table.missing + table.extra
    if differing > len(shown):
        listed = f"{len(shown):,} of {differing:,} rows that differ are listed here"
        if len(table.rows) > len(shown):
            listed += f", {len(table.rows):,} in the JSON"
        without = "A table without a key, or with a masked one, has no list."
        yield f'<p class="faint">{listed}. {without}</p>'


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
        yield key, shown, code(it.column), *sides
        key = shown = ""


def _value(value: str | None) -> str:
    if not value:
        return f"<small>{'NULL' if value is None else 'empty'}</small>"
    return f'<span class="value">{as_text(value)}</span>'
