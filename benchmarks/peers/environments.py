"""
A virtual environment for each peer that is a Python package, in the cache folder.

The idea: a peer's packages never meet the engine's own. An environment is made at the first use, in
one piece or not at all, and its programs are run by its interpreter, so that it may be moved.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import CannotRun
from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import run

__all__ = ["Environment", "program"]

logger = logging.getLogger("tailrace.bench")

INSTALL_DEADLINE_SECONDS = 900.0


@dataclass(frozen=True)
class Environment:
    """Packages of one peer, by their requirements, the first one being the peer itself."""

    name: str
    requirements: tuple[str, ...]
    megabytes: int

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        words = " ".join((*self.requirements, sys.version))
        digest = hashlib.sha256(words.encode()).hexdigest()[:8]
        return cache_folder() / "peers" / f"{self.name}-{digest}"

    def python(self) -> Path:
        """Its interpreter; downloads the packages the first time. Raises SandboxUnavailable."""
        folder = entry(self.folder, f"peer-{self.name}", self._make)
        return folder / "bin" / "python"

    def version(self) -> str:
        """Of the peer's own package."""
        package = self.requirements[0].partition(">")[0]
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        words: list[str | Path] = [self.python(), "-c", code]
        return run(words, purpose=f"asking for {package}'s version", deadline_seconds=60).strip()

    def _make(self, folder: Path) -> None:
        logger.info("downloading %s (about %d MB) ...", self.name, self.megabytes)
        purpose = f"installing {', '.join(self.requirements)}"
        python = folder / "bin" / "python"
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        environment: list[str | Path] = [sys.executable, "-m", "venv", folder]
        for words in (environment, [*install, *self.requirements]):
            run(words, purpose=purpose, deadline_seconds=INSTALL_DEADLINE_SECONDS)


def program(name: str) -> Path:
    """A program of ``benchmarks/peers``, which a checkout has and an installed package has not."""
    path = Path(__file__).parent / "programs" / name
    if not path.exists():
        raise CannotRun(f"needs benchmarks/peers/{name} of a checkout")
    return path
