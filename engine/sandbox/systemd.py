"""
systemd-analyze from Debian's package, for the tests of the unit file. systemd itself does not run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.debian import Bundle, loader_command

__all__ = ["systemd_analyze"]

_BUNDLE: Final = Bundle("systemd", "bookworm", ("systemd",), 20)


def systemd_analyze() -> tuple[tuple[str, ...], Path]:
    """The command, and the folder with systemd's own units. The first call downloads the package.

    Raises ``SandboxUnavailable``.
    """
    root = _BUNDLE.root()
    path = root / "usr" / "bin" / "systemd-analyze"
    if not os.access(path, os.X_OK):
        raise SandboxUnavailable(f"{root} has no systemd-analyze", hint=f"remove {root}, try again")
    # Its shared library is in a folder that the loader does not look into by itself.
    own = tuple(root.glob("usr/lib/*-linux-gnu*/systemd"))
    return loader_command(root, path, more=own), root / "usr" / "lib" / "systemd" / "system"
