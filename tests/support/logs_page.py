"""The table of docs/logs.md, made from the list of fields. Run it to write the page."""

from __future__ import annotations

from pathlib import Path

from engine.ops.log_fields import FIELDS

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"

_NOTE = "<!-- python -m tests.support.logs_page writes this table from engine/ops/log_fields.py -->"


def page(text: str) -> str:
    """The page with a current table below the note, which ends it."""
    head, found, _ = text.partition(_NOTE)
    assert found, f"{PAGE.name} has no note above its table"
    table = ["| field | meaning |", "|---|---|"]
    table += (f"| `{name}` | {meaning} |" for name, meaning in FIELDS.items())
    return "\n".join([f"{head}{found}", "", *table, ""])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
