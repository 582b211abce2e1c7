"""
The report of a cutover as a page of HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from engine.cutover.content import Content, Outcome, Proven, Step
from engine.report.html import as_text, code, count, facts, grid, page_of, prose, seconds, server

__all__ = ["page"]

_MEANING: Final = (
    "The downtime begins when the freeze begins, and ends when the applications are switched."
    " Predicted is what a rehearsal took, without the time of hooks. A table is proven if each of"
    " its rows had the same values on both sides while the source was frozen, or, where the report"
    " says so, at an earlier place in the log behind which the log has no change of the table."
)
#: The color of each outcome, as the class in the style sheet, and its words.
_VERDICTS: Final[dict[Outcome, tuple[str, str]]] = {
    "switched": ("equal", "Switched: the applications write to the target."),
    "aborted": ("different", "Aborted: the source takes writes as before."),
    "rehearsed": ("inconclusive", "Rehearsed: nothing was frozen or switched."),
    "under way": ("inconclusive", "Under way: the cutover has not ended."),
}
#: The steps of the downtime.
_DOWNTIME: Final = ("freeze", "drain", "verify", "finish", "arm", "switch")


def page(
    content: Content, digest: str, key: str, place: Callable[[str], str] = str
) -> tuple[bytes, bytes]:
    """The page in two pieces, between which the document stands. ``digest`` is the hash of the
    content, ``key`` the public key of the signature, empty if there is none. ``place`` returns the
    form of a position that people read."""
    what = "Rehearsal of the cutover" if content.outcome == "rehearsed" else "Cutover"
    return page_of(f"{what} of {content.pipeline}", _body(content, place), _MEANING, digest, key)


def _body(content: Content, place: Callable[[str], str]) -> Iterator[str]:
    kind, words = _VERDICTS[content.outcome]
    downtime = content.downtime_milliseconds
    if content.outcome == "switched" and downtime is not None:
        words += f" The downtime was {seconds(downtime, 2)}."
    yield f'<p class="verdict {kind}">{words}</p>'
    yield '<p class="caution">This report holds no values of rows.</p>'
    yield from _summary(content, place)
    yield from _bars(content)
    yield from _steps(content)
    yield from _tables(content, place)


def _summary(content: Content, place: Callable[[str], str]) -> Iterator[str]:
    downtime, predicted = content.downtime_milliseconds, content.predicted_milliseconds
    measured = "" if downtime is None else seconds(downtime, 2)
    rehearsed = f" by the rehearsal of {content.predicted_at}" if content.predicted_at else ""
    by_hook = content.before == "hook"
    yield from facts(
        [
            ("Reason", prose(content.reason)),
            ("Source", server(content.source)),
            ("Target", server(content.target)),
            ("Began", as_text(f"{content.began}, by {content.by}")),
            ("Frozen", as_text(content.frozen)),
            ("Switched", as_text(content.switched)),
            ("Ended", as_text(content.ended)),
            ("Downtime, measured", measured),
            ("Downtime, predicted", f"{seconds(predicted, 2)}{rehearsed}" if predicted else ""),
            ("Log at the beginning", code(place(content.start))),
            ("Log when it was frozen", code(place(content.end))),
            ("Writes before", "frozen by the hook" if by_hook else code(content.before)),
            ("Warnings", "<br>".join(map(prose, content.warnings))),
            ("Cutover", code(content.cutover)),
            ("Made by", f"Tailrace {as_text(content.tailrace)}"),
        ]
    )


def _bars(content: Content) -> Iterator[str]:
    """The predicted and the measured downtime as bars of the same scale."""
    steps = [it for it in content.steps if it.step in _DOWNTIME]
    latest = {it.step: it for it in steps}
    predicted = [(name, it.predicted_milliseconds or 0) for name, it in latest.items()]
    bars = [("Predicted", predicted)] if content.predicted_milliseconds else []
    downtime = content.downtime_milliseconds
    if downtime is not None:
        measured = [(it.step, it.milliseconds) for it in steps]
        idle = downtime - sum(it.milliseconds for it in steps)
        bars.append(("Measured", [*measured, ("between steps", max(0, idle))]))
    longest = max((sum(length for _, length in bar) for _, bar in bars), default=0)
    if not longest:
        return
    yield '<h2>Downtime</h2><div class="bars">'
    for name, bar in bars:
        yield f'<span>{name}</span><div class="bar">'
        for step, length in bar:
            share = 100 * length / longest
            kind = step.partition(" ")[0]
            said = f"{as_text(step)} {seconds(length, 2)}" if share >= 12 else ""
            yield f'<span class="step {as_text(kind)}" style="width: {share:.2f}%">{said}</span>'
        yield "</div>"
    yield "</div>"


def _steps(content: Content) -> Iterator[str]:
    yield "<h2>Steps</h2>"
    names = ("Step", "What it did", "How to undo it", "Began", "Predicted", "Took")
    yield from grid(names, map(_step, content.steps), range(4, 6))


def _step(step: Step) -> tuple[str, ...]:
    predicted = step.predicted_milliseconds
    return (
        as_text(step.step),
        prose(step.did),
        prose(step.undo),
        as_text(step.began.partition("T")[2].removesuffix("Z")),
        "" if predicted is None else seconds(predicted, 2),
        seconds(step.milliseconds, 2),
    )


def _tables(content: Content, place: Callable[[str], str]) -> Iterator[str]:
    if not content.tables:
        return
    rows = sum(it.rows for it in content.tables)
    replaced = [(it.table, text) for it in content.tables for text in it.replaced]
    besides = ", besides what value policies changed on purpose" if replaced else ""
    yield f"<h2>Proofs</h2><p>{count(len(content.tables))} tables with {count(rows)} rows"
    yield f" have the same values on both sides{besides}.</p>"
    names = ("Table", "Rows", "Took", "Compared by", "Checksum", "Position of the log")
    yield from grid(names, (_table(it, content.end, place) for it in content.tables), range(1, 3))
    if replaced:
        yield "<h2>Changed on purpose</h2>"
        lines = (tuple(map(as_text, line)) for line in replaced)
        yield from grid(("Table", "What value policies changed"), lines, range(0))


def _table(table: Proven, end: str, place: Callable[[str], str]) -> tuple[str, ...]:
    earlier = "" if table.compared else f"<br><small>before, at {as_text(table.began)}</small>"
    return (
        as_text(table.table),
        count(table.rows),
        seconds(table.milliseconds, 2),
        f"{as_text(table.method)}{earlier}",
        code(table.checksum),
        "where it was frozen" if table.position == end else code(place(table.position)),
    )
