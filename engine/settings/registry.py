"""
The class of a source or sink for the scheme of a URL, imported only when it is used.

A registry is plain data, ``scheme → "module:Class"``. Other packages add entries through an entry
point group of the same form. The entries that ship with Tailrace take precedence.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from engine.errors import ConfigError

__all__ = ["known", "load"]


def load(scheme: str, shipped: Mapping[str, str], group: str) -> Any:
    """The class registered for ``scheme``. Raises ConfigError, which names the known schemes."""
    if scheme in shipped:
        module, _, name = shipped[scheme].partition(":")
        return getattr(import_module(module), name)
    for entry in entry_points(group=group, name=scheme):
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the plug-in for '{scheme}:' cannot be loaded: {error}",
                hint=f"check the entry point {entry.value} of the group {group}",
            ) from error
    schemes = known(shipped, group)
    near = get_close_matches(scheme, schemes, n=1)
    hint = f"did you mean '{near[0]}:'? " if near else ""
    raise ConfigError(
        f"no source or sink is registered for URLs that begin with '{scheme}:'",
        hint=f"{hint}known are {', '.join(schemes)}",
    )


def known(shipped: Mapping[str, str], group: str) -> list[str]:
    """All schemes, sorted."""
    return sorted({*shipped, *(entry.name for entry in entry_points(group=group))})
