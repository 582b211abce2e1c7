"""
docs/writing-a-sink.md and docs/writing-a-source.md quote the package that ``test_plugin`` runs, and
name the capabilities that the sinks declare. The example of each page is short.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import msgspec
import pytest

from engine.settings import registry
from sinks import SINKS

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "contract" / "plugin"
SINK_PAGE = ROOT / "docs" / "writing-a-sink.md"
SOURCE_PAGE = ROOT / "docs" / "writing-a-source.md"

#: The files that a page quotes, in one or several blocks.
QUOTED = [
    (SINK_PAGE, "tailrace_example/jsonfile.py"),
    (SINK_PAGE, "tests/test_jsonfile.py"),
    (SINK_PAGE, "pyproject.toml"),
    (SINK_PAGE, "example.toml"),
    (SOURCE_PAGE, "tailrace_example/changelog.py"),
    (SOURCE_PAGE, "tests/test_changelog.py"),
    (SOURCE_PAGE, "pyproject.toml"),
    (SOURCE_PAGE, "example.toml"),
    (SOURCE_PAGE, "shop.jsonl"),
]

#: The most lines of code that an example has, without imports, docstrings and comments.
CODE_LINES = 80


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page that have a title: title and text, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> list[str]:
    """The lines that are not blank: a page may cut a file between two functions."""
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize(("page", "name"), QUOTED, ids=lambda value: Path(value).name)
def test_a_page_quotes_the_whole_file(page: Path, name: str) -> None:
    quoted = [line for title, text in blocks(page) if title == name for line in lines_of(text)]
    assert quoted == lines_of((PLUGIN / name).read_text(encoding="utf-8"))


def code_lines(text: str) -> set[int]:
    """The numbers of the lines of code, without imports, docstrings, comments and blank lines."""
    code = {
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return code


@pytest.mark.parametrize("name", ["changelog.py", "jsonfile.py"])
def test_an_example_is_short(name: str) -> None:
    text = (PLUGIN / "tailrace_example" / name).read_text(encoding="utf-8")
    assert len(code_lines(text)) <= CODE_LINES


@pytest.mark.parametrize("page", [SINK_PAGE, SOURCE_PAGE], ids=lambda page: page.name)
def test_each_quoted_block_is_compared(page: Path) -> None:
    assert {(page, title) for title, _ in blocks(page)} == {pair for pair in QUOTED if page in pair}
    assert len(re.findall(r"^```(?:python|toml|json)", page.read_text(), re.MULTILINE)) == len(
        blocks(page)
    )


@pytest.mark.parametrize("page", [SINK_PAGE, SOURCE_PAGE], ids=lambda page: page.name)
def test_each_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:engine|sinks|sources|tests)/[\w/.]+)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\(([\w./-]+)\)", text)
    assert [link for link in linked if not (page.parent / link).exists()] == []


def test_the_table_of_sinks_states_their_capabilities() -> None:
    row = r"^\| `([^`]+)` \| (exactly once|at least once)" + r" \| (\w+)" * 4 + r" \|$"
    table = re.findall(row, SINK_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    classes = set()
    for url, *stated in table:
        sink = registry.load(url.partition(":")[0], SINKS, "tailrace.sinks")
        classes.add(sink)
        can = sink(msgspec.convert({"url": url}, sink.Settings), "docs").capabilities
        flags = (can.transactional, can.upsert, can.schema_changes, can.cascades)
        assert stated == [can.guarantee, *("yes" if flag else "no" for flag in flags)], url
    assert classes == {registry.load(scheme, SINKS, "tailrace.sinks") for scheme in SINKS}
    assert "jsonl:-" in [url for url, *_ in table]
