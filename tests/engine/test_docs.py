"""
The pages of the project: every link and picture exists.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.databases.mysql.session_variables import VARIABLES
from engine.databases.postgres.session_settings import SETTINGS
from tests.support.types_page import PAGE, page

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in linked if not (page.parent / link).exists()] == []


def test_every_path_of_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:engine|sinks|sources|tests|benchmarks|docs|config)/[\w/.]+)`", text)
    )
    assert named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_variables_of_our_sessions_are_listed() -> None:
    page = (ROOT / "docs" / "what-the-log-does-not-say.md").read_text(encoding="utf-8")
    names = {*(variable.name for variable in VARIABLES), *SETTINGS}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_the_page_of_types_is_current() -> None:
    command = "python -m tests.support.types_page"
    assert PAGE.read_text(encoding="utf-8") == page(), f"docs/types.md is stale: run {command}"
