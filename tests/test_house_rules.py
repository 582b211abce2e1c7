"""
The limits that keep the code readable: short functions and files, docstrings, few ``Any``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "sources", "sinks", "benchmarks")
FUNCTION_LINES = 60
FILE_LINES = 500

SHIPPED = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
VALUE = "a row's value has the type of its column"
CLASS = "a class that a registry names"
#: The modules whose functions may have a parameter or result of the type ``Any``, and why.
ANY = {
    "benchmarks/harness/source.py": "the keywords of a connection",
    "benchmarks/reporting/plots.py": "matplotlib has no types",
    "engine/cli/wiring.py": CLASS,
    "engine/settings/loader.py": "decoded TOML",
    "engine/settings/registry.py": CLASS,
    "engine/toolkit/compaction.py": "a key is one value or a tuple of them",
    "engine/toolkit/record.py": VALUE,
    "sinks/postgres/copy.py": VALUE,
    "sources/mysql/codec/defaults.py": VALUE,
    "sources/mysql/codec/rows.py": VALUE,
    "sources/mysql/codec/temporal.py": VALUE,
    "sources/mysql/ddl/draft.py": "the changed fields of a struct",
    "sources/mysql/snapshot/keyset.py": VALUE,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_files_are_short() -> None:
    lines = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SHIPPED + TESTS}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{name_of(path)}: {node.name}": size
        for path in SHIPPED + TESTS
        for node in ast.walk(parse(path))
        if isinstance(node, Function)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


def test_modules_and_public_names_have_docstrings() -> None:
    missing = [name_of(path) for path in SHIPPED + TESTS if not ast.get_docstring(parse(path))]
    missing += [
        f"{name_of(path)}: {node.name}"
        for path in SHIPPED
        for node in _public(parse(path))
        if not ast.get_docstring(node)
    ]
    assert missing == []


def _public(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    """The classes and functions that ``__all__`` names."""
    exported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = set(ast.literal_eval(node.value))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and node.name in exported:
            yield node


def test_any_is_used_where_it_has_a_reason() -> None:
    found = {
        f"{name_of(path)}: {node.name}"
        for path in SHIPPED
        # The peers' programs run in other environments, with packages without types.
        if "programs" not in path.parts and name_of(path) not in ANY
        for node in ast.walk(parse(path))
        if isinstance(node, Function)
        for annotation in (node.returns, *(each.annotation for each in _parameters(node)))
        if isinstance(annotation, ast.Name) and annotation.id == "Any"
    }
    assert found == set()


def _parameters(function: Function) -> Iterator[ast.arg]:
    arguments = function.args
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (each for each in (arguments.vararg, arguments.kwarg) if each is not None)
