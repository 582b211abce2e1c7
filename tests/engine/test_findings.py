"""Every finding has a code, and docs/findings.md has every code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"\b(?:CK|MY|LF|PG|JL)\d{3}\b")


def findings() -> Iterator[tuple[str, ast.Call]]:
    """Every place that makes a finding."""
    for folder in ("engine", "sources", "sinks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding":
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_finding_has_a_code() -> None:
    for place, call in findings():
        level = call.args[0]
        good = isinstance(level, ast.Constant) and level.value == "ok"
        coded = len(call.args) == 5 or any(it.arg == "code" for it in call.keywords)
        assert good != coded, place


def test_every_code_is_documented_once() -> None:
    used = {
        code
        for folder in ("engine", "sources", "sinks")
        for path in (ROOT / folder).rglob("*.py")
        for code in CODE.findall(path.read_text())
    }
    page = (ROOT / "docs" / "findings.md").read_text()
    documented = re.findall(r"^\| (\w+) \|", page, re.MULTILINE)
    codes = [code for code in documented if code != "code"]
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) == used
