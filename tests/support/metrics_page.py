"""The table of docs/metrics.md, made from the list of metrics. Run it to write the page."""

from __future__ import annotations

import re
from pathlib import Path

from engine.ops.metric_list import METRICS

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

_NOTE = "<!-- python -m tests.support.metrics_page writes this table from"


def page(text: str) -> str:
    """The page with a current table below the note."""
    table = ["| metric | type | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        cells = (f"`{metric.name}`", metric.kind, metric.unit, labels, metric.meaning)
        table.append("| " + " | ".join(cells) + " |")
    head, found, rest = text.partition(_NOTE)
    assert found, f"{PAGE.name} has no note above its table"
    note, _, rest = rest.partition("\n")
    rest = re.sub(r"\A\n(\|.*\n)*\n?", "", rest)
    return "\n".join([f"{head}{found}{note}", "", *table, "", rest])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
