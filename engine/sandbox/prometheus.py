"""
Prometheus from Debian's package, for the tests of the metrics.
"""

from __future__ import annotations

import os
from typing import Final, Literal

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.debian import Bundle, loader_command

__all__ = ["prometheus_command"]

_BUNDLE: Final = Bundle("Prometheus", "bookworm", ("prometheus",), 40)


def prometheus_command(program: Literal["prometheus", "promtool"]) -> tuple[str, ...]:
    """The command that runs one of its programs. The first call downloads the package.

    Raises ``SandboxUnavailable``.
    """
    root = _BUNDLE.root()
    path = root / "usr" / "bin" / program
    if not os.access(path, os.X_OK):
        raise SandboxUnavailable(f"{root} has no {program}", hint=f"remove {root} and try again")
    return loader_command(root, path)
