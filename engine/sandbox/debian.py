"""
Debian packages that are unpacked into the cache folder, and run from there.

apt runs with lists, a cache and a package status of its own. The status is empty, so apt downloads
all dependencies of a package from any Debian suite, libc included. The programs run through the
loader of that libc, so nothing is installed, and the machine's own packages do not matter.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import SandboxUnavailable, run

logger = logging.getLogger("tailrace.sandbox")

DOWNLOAD_DEADLINE_SECONDS = 900
UNPACK_DEADLINE_SECONDS = 300
LISTS_FRESH_SECONDS = 3600

# Servers do not need these at run time. To leave them out halves the time to unpack.
EXCLUDED = (
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/info",
    "./usr/share/locale",
    "./usr/share/perl",
    "./usr/share/perl5",
    "./usr/lib/*/perl",
    "./usr/lib/*/perl-base",
    "./usr/share/lintian",
    "./var",
    "./etc",
)


@dataclass(frozen=True)
class Bundle:
    """Packages of one Debian suite, with all dependencies. ``megabytes`` is the download size."""

    label: str
    suite: str
    packages: tuple[str, ...]
    megabytes: int

    def root(self) -> Path:
        """The folder with the unpacked packages. The first call downloads them.

        Raises ``SandboxUnavailable`` if the machine's apt names no Debian package archive.
        """
        path = cache_folder() / "debian" / f"{self.suite}-{self.packages[0]}"
        return entry(path, f"debian-{self.suite}", self._make)

    def _make(self, root: Path) -> None:
        logger.info("downloading %s (about %d MB) ...", self.label, self.megabytes)
        work = cache_folder() / "apt" / self.suite
        archives = work / "cache" / "archives"
        shutil.rmtree(archives, ignore_errors=True)
        options = _apt_view(self.suite, work)
        if not _lists_are_fresh(work):
            run(
                ["apt-get", *options, "update", "-qq"],
                purpose=f"downloading the package lists of Debian {self.suite}",
                deadline_seconds=DOWNLOAD_DEADLINE_SECONDS,
            )
        (work / "updated").touch()
        run(
            ["apt-get", *options, "install", "-y", "--download-only", "-qq", *self.packages],
            purpose=f"downloading {self.label}",
            deadline_seconds=DOWNLOAD_DEADLINE_SECONDS,
            environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        logger.info("unpacking %s ...", self.label)
        unpack(sorted(archives.glob("*.deb")), root)
        shutil.rmtree(archives)


def _lists_are_fresh(work: Path) -> bool:
    updated = work / "updated"
    return updated.exists() and time.time() - updated.stat().st_mtime < LISTS_FRESH_SECONDS


def _apt_view(suite: str, work: Path) -> list[str]:
    """Create apt's folders under ``work``. Returns the options that make apt use them."""
    uri, keyring = archive(Path("/etc/apt"))
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "sources.list").write_text(f"deb [signed-by={keyring}] {uri} {suite} main\n")
    # With an empty status no package counts as installed, so all dependencies are downloaded.
    (work / "status").write_text("")
    settings = {
        "Dir::Etc::sourcelist": str(work / "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::Lists": str(work / "lists"),
        "Dir::State::status": str(work / "status"),
        "Dir::State::extended_states": str(work / "extended_states"),
        "Dir::Cache": str(work / "cache"),
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "1",
    }
    return [f"-o{key}={value}" for key, value in settings.items()]


def archive(apt_folder: Path) -> tuple[str, str]:
    """The Debian mirror of the machine's apt sources, and its keyring."""
    text = [path.read_text() for path in sorted(apt_folder.glob("sources.list.d/*.sources"))]
    found = [pair for stanzas in text for pair in _deb822(stanzas)]
    lists = [apt_folder / "sources.list", *sorted(apt_folder.glob("sources.list.d/*.list"))]
    found += [pair for path in lists if path.exists() for pair in _one_line(path.read_text())]
    for uri, keyring in found:
        # The URI of the main archive ends in /debian. That of a mirror list ends in /debian.list.
        if re.search(r"/debian(\.list)?/?$", uri):
            return uri, keyring or _default_keyring()
    raise SandboxUnavailable(
        "no Debian package archive in the sources of apt, to download a database server from",
        hint="use Debian, or install the server; for the tests, name your own servers in"
        " TAILRACE_TEST_MYSQL, TAILRACE_TEST_MARIADB and TAILRACE_TEST_POSTGRES",
    )


def _deb822(text: str) -> list[tuple[str, str]]:
    """The URIs of a ``.sources`` file, each with its keyring or an empty text."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        keyring = fields.get("Signed-By", "")
        found += [
            (uri, keyring if keyring.startswith("/") else "")
            for uri in fields.get("URIs", "").split()
        ]
    return found


def _one_line(text: str) -> list[tuple[str, str]]:
    """The URIs of a ``.list`` file, each with its keyring or an empty text."""
    found = []
    for options, uri in re.findall(r"^deb\s+(?:\[(.*?)\]\s+)?(\S+)", text, re.MULTILINE):
        keyring = re.search(r"signed-by=(\S+)", options)
        found.append((uri, keyring[1] if keyring else ""))
    return found


def _default_keyring() -> str:
    for suffix in ("gpg", "pgp"):
        path = Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}")
        if path.exists():
            return str(path)
    raise SandboxUnavailable(
        "no keyring of the Debian package archive",
        hint="install the package debian-archive-keyring",
    )


def unpack(packages: list[Path], root: Path) -> None:
    """Unpack ``.deb`` files into ``root``, with a merged /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        # The link is there first, so that files of a package in /lib go to /usr/lib.
        (root / name).symlink_to(f"usr/{name}")
    extract = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner"]
    extract += ["--anchored", "--wildcards", *(f"--exclude={pattern}" for pattern in EXCLUDED)]
    for package in packages:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        ) as source:
            done = subprocess.run(
                extract,
                stdin=source.stdout,
                stderr=subprocess.PIPE,
                timeout=UNPACK_DEADLINE_SECONDS,
                check=False,
            )
        if done.returncode or source.returncode:
            said = done.stderr.decode(errors="replace")
            raise SandboxUnavailable(f"cannot unpack {package.name}: {said}")


def loader_command(
    root: Path, program: Path, *, name: Path | None = None, more: Sequence[Path] = ()
) -> tuple[str, ...]:
    """The command that runs ``program`` with the loader and the libraries under ``root``.

    ``name`` is the program's argv[0], by default its path. ``more`` are folders with libraries that
    ``root`` does not have.
    """
    libraries = next(iter(root.glob("usr/lib/*-linux-gnu*/libc.so.6")), None)
    loaders = [*root.glob("usr/lib64/ld-linux*.so.*"), *root.glob("usr/lib/ld-linux*.so.*")]
    if libraries is None or not loaders:
        raise SandboxUnavailable(
            f"{root} has no C library for this machine", hint=f"remove {root} and try again"
        )
    return (
        str(loaders[0]),
        "--argv0",
        str(name or program),
        "--library-path",
        ":".join(map(str, (libraries.parent, *more))),
        str(program),
    )
