"""
Where the reference configuration is, which has every key with its default and unit.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

__all__ = ["reference_path"]


def reference_path() -> Path:
    """The path of ``reference.toml``: in the clone, or where the package installs it."""
    clone = Path(__file__).parents[2] / "config" / "reference.toml"
    if clone.exists():
        return clone
    return Path(sysconfig.get_path("data")) / "share" / "tailrace" / "reference.toml"
