"""
Which package may import which, as docs/architecture.md says.

``RULES`` holds, for each package, the packages that its modules may import. The import statements
of every module are checked against it. Imports inside functions count. Imports under
``TYPE_CHECKING`` do not, because they never run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "sources", "sinks", "benchmarks")

VOCABULARY = (
    *("engine.remedies", "engine.errors", "engine.schema", "engine.change"),
    *("engine.checkpoint", "engine.contract", "engine.commands", "engine.recovery"),
    *("engine.distance", "engine.log_status", "engine.proof", "engine.rights"),
    *("engine.structure", "engine.handover"),
)
ANYTHING = ("engine", "sources", "sinks", "benchmarks")

#: The packages that a package may import besides itself. The longest matching name applies.
RULES: dict[str, tuple[str, ...]] = {
    **{name: VOCABULARY[:place] for place, name in enumerate(VOCABULARY)},
    "engine": (),
    "engine.toolkit": VOCABULARY,
    "engine.databases": (*VOCABULARY, "engine.toolkit"),
    "engine.settings": VOCABULARY,
    "engine.ops": (*VOCABULARY, "engine.settings"),
    "engine.mapping": (
        *VOCABULARY,
        "engine.toolkit",
        "engine.settings",
        "engine.databases.mysql",
    ),
    "engine.pipeline": (
        *VOCABULARY,
        "engine.toolkit",
        "engine.settings",
        "engine.ops",
        "engine.mapping",
    ),
    "engine.report": (*VOCABULARY, "engine.ops"),
    "engine.verify": (*VOCABULARY, "engine.toolkit", "engine.ops", "engine.report"),
    "engine.cutover": (
        *VOCABULARY,
        "engine.toolkit",
        "engine.settings",
        "engine.ops",
        "engine.verify",
        "engine.report",
    ),
    "engine.contract_suite": (*VOCABULARY, "engine.toolkit"),
    "engine.sandbox": ("engine.errors",),
    "engine.cli": ANYTHING,
    "engine.demo": ANYTHING,
    "benchmarks": ANYTHING,
    "sources": (),
    "sources.memory": (*VOCABULARY, "engine.toolkit"),
    "sources.mysql": (
        *VOCABULARY,
        "engine.toolkit",
        "engine.databases.mysql",
        "engine.databases.side",
    ),
    "sinks": (),
    "sinks.memory": (*VOCABULARY, "engine.toolkit"),
    "sinks.jsonl": (*VOCABULARY, "engine.toolkit"),
    "sinks.postgres": (
        *VOCABULARY,
        "engine.toolkit",
        "engine.databases.postgres",
        "engine.databases.side",
    ),
}


def modules() -> dict[str, Path]:
    """Every module by its dotted name. The peers' programs run in other environments."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "programs" not in parts:
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of Tailrace that the module imports, except itself."""
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


def is_in(name: str, package: str) -> bool:
    """Whether a module is the package, or is in it."""
    return name == package or name.startswith(f"{package}.")


def package_of(name: str) -> str:
    """The package whose rule applies to a module."""
    return max((package for package in RULES if is_in(name, package)), key=len)


def test_a_module_imports_only_what_its_package_may() -> None:
    forbidden = [
        f"{name} ({own}) must not import {found}"
        for name, own in ((name, package_of(name)) for name in MODULES)
        for found in imports(name)
        if package_of(found) != own and not any(is_in(found, may) for may in RULES[own])
    ]
    assert forbidden == []


def test_the_rules_name_packages_that_exist() -> None:
    assert {package_of(name) for name in MODULES} == set(RULES)


def test_the_engine_has_few_modules_of_its_own() -> None:
    own = {path.name for path in (ROOT / "engine").glob("*.py")}
    assert own == {"__init__.py", *(f"{name.rpartition('.')[2]}.py" for name in VOCABULARY)}


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


def test_one_module_writes_to_the_sink() -> None:
    """``TargetWriter`` is the only caller of a sink's ``apply``, ``commit`` and ``rollback``."""
    writers = {
        name
        for name in MODULES
        if name.startswith("engine.") and not name.startswith("engine.contract_suite")
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("apply", "commit", "rollback")
        and ast.unparse(node.func.value).rpartition(".")[2].endswith("sink")
    }
    assert writers == {"engine.pipeline.writer"}
