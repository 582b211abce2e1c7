"""
Generated source becomes a function: the one helper behind every row codec.

Codecs are written as Python text for one table version, compiled once and cached by their caller.
The text is kept where tracebacks and debuggers look for it, so a generated function reads like any
other.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

__all__ = ["compile_function"]

_serial = count(1)


def compile_function(name: str, source: str, names: Mapping[str, Any]) -> Callable[..., Any]:
    """Compile ``source``, which defines ``name``, with ``names`` as its globals.

    The source stands on the function as ``__source__``. Nothing in ``source`` may come from data
    unquoted: callers pass constants through ``names`` or ``repr``.
    """
    filename = f"<tailrace {name} {next(_serial)}>"
    scope: dict[str, Any] = dict(names)
    exec(compile(source, filename, "exec"), scope)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    function: Callable[..., Any] = scope[name]
    function.__source__ = source  # type: ignore[attr-defined]
    return function
