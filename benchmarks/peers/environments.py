"""
Virtual environments for the peers that are Python packages, in the cache folder.

A peer's packages are never installed next to the engine's. An environment is created at its first
use. It is created in a temporary folder and renamed when it is complete, so its programs must be
run by its interpreter: the paths inside their own scripts are those of the temporary folder.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import run

__all__ = ["Environment", "program"]

logger = logging.getLogger("tailrace.bench")

INSTALL_DEADLINE_SECONDS = 900.0


@dataclass(frozen=True)
class Environment:
    """The requirements of one peer; the first one is the peer's own package."""

    name: str
    requirements: tuple[str, ...]
    megabytes: int

    @property
    def folder(self) -> Path:
        """Its folder, which may not exist yet."""
        text = " ".join((*self.requirements, sys.version))
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return cache_folder() / "peers" / f"{self.name}-{digest}"

    def python(self) -> Path:
        """Its interpreter; the first call downloads the packages. Raises SandboxUnavailable."""
        folder = entry(self.folder, f"peer-{self.name}", self._make)
        return folder / "bin" / "python"

    def version(self) -> str:
        """The version of the peer's own package."""
        package = re.split(r"[\[>]", self.requirements[0])[0]
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        command: list[str | Path] = [self.python(), "-c", code]
        purpose = f"asking for the version of {package}"
        return run(command, purpose=purpose, deadline_seconds=60).strip()

    def _make(self, folder: Path) -> None:
        logger.info("downloading %s (about %d MB) ...", self.name, self.megabytes)
        purpose = f"installing {', '.join(self.requirements)}"
        python = folder / "bin" / "python"
        install: list[str | Path] = [
            python,
            "-P",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        environment: list[str | Path] = [sys.executable, "-P", "-m", "venv", folder]
        for command in (environment, [*install, *self.requirements]):
            run(command, purpose=purpose, deadline_seconds=INSTALL_DEADLINE_SECONDS)


def program(name: str) -> Path:
    """The path of a script in ``benchmarks/peers/programs``."""
    return Path(__file__).parent / "programs" / name
