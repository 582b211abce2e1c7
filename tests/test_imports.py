"""
Who may import whom, as docs/architecture.md says.

The idea: the order of the layers is data here, read against the import statements of every module.
Imports inside functions count; those under ``TYPE_CHECKING`` do not, since they never run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "sources", "sinks")

#: Each module of the engine may import modules of the layers before its own; nothing else of ours.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(f"engine.{name}" for name in names.split())
    for names in (
        "errors log codegen compiled canonical",
        "schema registry secrets",
        "change settings debezium",
        "checkpoint record contents",
        "contract",
        "metrics server batching compaction ddl mapping parity view",
        "snapshot intake cutover",
        "copying newcomers",
        "pipeline",
    )
)
#: What a source or a sink may see of the engine.
SEEN_BY_ENDS = frozenset(
    f"engine.{name}"
    for name in (
        *("errors", "schema", "change", "checkpoint", "contract", "codegen"),
        *("compaction", "compiled", "contents", "ddl", "record", "canonical", "log"),
    )
)
#: The only modules that see sources and sinks: the command line, the demo and the benchmarks.
WIRING = ("engine.cli", "engine.demo", "benchmarks")
#: The private database servers: they stand beside the engine.
SANDBOX = "engine.sandbox"


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of ours that the module imports, itself not among them."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    return frozenset(found for found in _imported(tree) if found != name)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _ours(alias.name))
    elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else node.module
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def _ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def is_wiring(name: str) -> bool:
    return name.startswith(WIRING)


def layer(name: str) -> int | None:
    return next((n for n, names in enumerate(LAYERS) if name in names), None)


def test_there_is_something_to_read() -> None:
    assert {"engine.errors", "engine.pipeline.loop", "sources.memory", "sinks.jsonl"} <= set(
        MODULES
    )
    assert "engine.schema" in imports("engine.change")


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("engine.")])
def test_the_engine_is_layered(name: str) -> None:
    if is_wiring(name) or name.startswith(SANDBOX):
        return
    own = layer(name)
    assert own is not None, f"{name} has no place in LAYERS"
    allowed = frozenset[str]().union(*LAYERS[:own])
    assert imports(name) <= allowed, f"{name} sees a layer that is not below it"


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("engine")])
def test_a_source_or_sink_sees_the_contract_and_itself(name: str) -> None:
    own = ".".join(name.split(".")[:2])
    for found in imports(name):
        inside = found == own or found.startswith(f"{own}.")
        assert inside or found in SEEN_BY_ENDS, f"{name} must not import {found}"


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("engine")])
def test_only_the_command_line_wires(name: str) -> None:
    ends = {found for found in imports(name) if not found.startswith("engine")}
    assert is_wiring(name) or not ends


def test_the_sandbox_stands_alone() -> None:
    for name in MODULES:
        if name.startswith(SANDBOX):
            strangers = {found for found in imports(name) if not found.startswith(SANDBOX)}
            assert strangers <= {"engine.errors"}, name


def test_there_is_no_cycle() -> None:
    graph = {name: {found for found in imports(name) if found in MODULES} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


def test_imports_are_absolute_and_name_real_modules() -> None:
    for name in MODULES:
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, name
        assert all(found in MODULES for found in imports(name)), name
