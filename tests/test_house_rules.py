"""
The limits that keep the code readable: short functions, short files, docstrings, no stray ``Any``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "sources", "sinks", "benchmarks")
FUNCTION_LINES = 60
FILE_LINES = 500

SHIPPED = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [*SHIPPED, *TESTS], ids=name_of)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{lines} lines; split it"


@pytest.mark.parametrize("path", [*SHIPPED, *TESTS], ids=name_of)
def test_functions_are_short(path: Path) -> None:
    long = {
        node.name: size
        for node in ast.walk(parse(path))
        if isinstance(node, Function)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert not long


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_modules_and_public_names_have_docstrings(path: Path) -> None:
    tree = parse(path)
    missing = [] if ast.get_docstring(tree) else [name_of(path)]
    missing += [node.name for node in _public(tree) if not ast.get_docstring(node)]
    assert not missing


def _public(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    """The classes and functions that ``__all__`` names."""
    exported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = set(ast.literal_eval(node.value))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and node.name in exported:
            yield node


@pytest.mark.parametrize("path", [*SHIPPED, *TESTS], ids=name_of)
def test_tests_and_code_have_a_module_docstring(path: Path) -> None:
    assert ast.get_docstring(parse(path))
