"""
Compile generated Python source to a function. Every row codec is made with this helper.

A codec is Python source for one version of a table. Its caller compiles it once and caches the
function. The source is registered with ``linecache``, so tracebacks and debuggers show its lines.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

__all__ = ["compile_function"]

_serial = count(1)


def compile_function(name: str, source: str, names: Mapping[str, Any]) -> Callable[..., Any]:
    """Compile ``source`` with the globals ``names``, and return the function ``name`` it defines.

    The function has the source as its attribute ``__source__``. ``source`` must not contain
    unquoted data, for example the name of a column: callers pass data through ``names``, or as a
    literal made by ``repr``. For example::

        compile_function("total", "def total(rows):\n    return len(rows) * size\n", {"size": 8})
    """
    filename = f"<tailrace {name} {next(_serial)}>"
    scope: dict[str, Any] = dict(names)
    exec(compile(source, filename, "exec"), scope)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    function: Callable[..., Any] = scope[name]
    function.__source__ = source  # type: ignore[attr-defined]
    return function
