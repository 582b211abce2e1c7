"""
Debian packages, unpacked into the cache folder and run from there.

The idea: a private apt view (its own lists, cache and an empty package status)
resolves the full dependency closure of a package in any Debian suite, libc
included.  Its programs then run through their own loader, so nothing is
installed and the machine's own packages do not matter.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import SandboxUnavailable, run

logger = logging.getLogger("tailrace.sandbox")

DOWNLOAD_DEADLINE_SECONDS = 900
UNPACK_DEADLINE_SECONDS = 300
LISTS_FRESH_SECONDS = 3600

# What no server needs at run time; leaving it out halves the time to unpack.
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
    """Some packages of one suite with all that they depend on."""

    label: str
    suite: str
    packages: tuple[str, ...]
    megabytes: int

    def root(self) -> Path:
        """The folder that holds the unpacked packages; downloads them the first time.

        Raises `SandboxUnavailable` where there is no Debian package archive.
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
                purpose=f"reading Debian's package lists for {self.suite}",
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
    """Make apt's folders under `work` and return the options that confine it to them."""
    uri, keyring = archive(Path("/etc/apt"))
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "sources.list").write_text(f"deb [signed-by={keyring}] {uri} {suite} main\n")
    # An empty status: nothing counts as installed, so the whole closure is fetched.
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
    """The machine's own Debian mirror and the keyring that signs it, from its apt sources."""
    text = [path.read_text() for path in sorted(apt_folder.glob("sources.list.d/*.sources"))]
    found = [pair for stanzas in text for pair in _deb822(stanzas)]
    lists = [apt_folder / "sources.list", *sorted(apt_folder.glob("sources.list.d/*.list"))]
    found += [pair for path in lists if path.exists() for pair in _one_line(path.read_text())]
    for uri, keyring in found:
        # A mirror's main archive ends in /debian, or names a mirror list of that name.
        if re.search(r"/debian(\.list)?/?$", uri):
            return uri, keyring or _default_keyring()
    raise SandboxUnavailable(
        "this machine has no Debian package archive to get a database server from",
        hint="Use Debian, or install the server, or name your own in TAILRACE_TEST_MYSQL, "
        "TAILRACE_TEST_MARIADB, TAILRACE_TEST_POSTGRES.",
    )


def _deb822(text: str) -> list[tuple[str, str]]:
    """(URI, keyring or "") of each stanza in a `.sources` file."""
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
    """(URI, keyring or "") of each `deb` line in a `.list` file."""
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
    raise SandboxUnavailable("the package debian-archive-keyring is missing")


def unpack(packages: list[Path], root: Path) -> None:
    """Unpack `.deb` files into `root`, laid out as a merged /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        # Made before unpacking, so that a package that still ships /lib lands in /usr/lib.
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


def loader_command(root: Path, program: Path, *, name: Path | None = None) -> tuple[str, ...]:
    """The words that run `program` with the loader and libraries under `root`.

    `name` is what the program sees as its own name (argv[0]).
    """
    libraries = next(iter(root.glob("usr/lib/*-linux-gnu*/libc.so.6")), None)
    loaders = [*root.glob("usr/lib64/ld-linux*.so.*"), *root.glob("usr/lib/ld-linux*.so.*")]
    if libraries is None or not loaders:
        raise SandboxUnavailable(
            f"{root} has no C library for this machine", hint=f"Remove {root} and try again."
        )
    return (
        str(loaders[0]),
        "--argv0",
        str(name or program),
        "--library-path",
        str(libraries.parent),
        str(program),
    )
