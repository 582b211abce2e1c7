"""
Where files are that the package brings for its users: the reference configuration, which has every
key with its default and unit, and pages of the documentation.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

__all__ = ["document_path", "reference_path"]


def reference_path() -> Path:
    """The path of ``reference.toml``: in the clone, or where the package installs it."""
    return _path("config/reference.toml", "reference.toml")


def document_path(name: str) -> Path:
    """The path of a page of the documentation that the package brings, such as ``runbook.md``."""
    return _path(f"docs/{name}", f"docs/{name}")


def _path(in_clone: str, installed: str) -> Path:
    clone = Path(__file__).parents[2] / in_clone
    if clone.exists():
        return clone
    return Path(sysconfig.get_path("data")) / "share" / "tailrace" / installed
