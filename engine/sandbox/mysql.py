"""
Start MySQL and MariaDB.

The two differ in how a data directory is initialized, and in a few settings. Both send a greeting
to each new client, so a plain socket shows whether a server is ready.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.sandbox.command import SandboxUnavailable, run
from engine.sandbox.debian import Bundle, loader_command
from engine.sandbox.process import as_server_account
from engine.sandbox.server import Kind, Layout, Recipe, Server

MYSQL_RELEASE = "9.7"
INITIALIZE_DEADLINE_SECONDS = 180.0
GREETING_TIMEOUT_SECONDS = 1.0
TEMPLATE_REVISION = "1"  # increase it when the initialization changes

MYSQL_BUNDLE = Bundle("MySQL", "sid", ("mysql-server-core",), 90)
MARIADB_BUNDLES = {
    "10.11": Bundle("MariaDB 10.11", "bookworm", ("mariadb-server-core",), 40),
    "11.8": Bundle("MariaDB 11.8", "trixie", ("mariadb-server-core",), 40),
}

# The data survive a killed server, and need not survive a power failure.
SETTINGS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--server-id=97",
    "--binlog-row-metadata=FULL",
    "--binlog-row-image=FULL",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=256M",
    "--max-allowed-packet=1G",
    "--performance-schema=OFF",
    "--local-infile=ON",
)
MYSQL_SETTINGS = ("--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON")
MARIADB_SETTINGS = ("--binlog-format=ROW", "--gtid-strict-mode=1")

# The only account is root, which may log in over TCP.
MYSQL_ACCOUNTS = (
    "CREATE USER root@'%' IDENTIFIED WITH caching_sha2_password BY '';\n"
    "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n"
)
# The bootstrap runs without grant tables, so it cannot execute GRANT.
MARIADB_ACCOUNTS = (
    "DELETE FROM mysql.global_priv WHERE User = '';\n"
    "REPLACE INTO mysql.global_priv VALUES ('%', 'root', "
    '\'{"access":18446744073709551615,"plugin":"mysql_native_password",'
    '"authentication_string":""}\');\n'
)
MARIADB_SCRIPTS = (
    "{0}_system_tables.sql",
    "{0}_performance_tables.sql",
    "{0}_system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "{0}_sys_schema.sql",
)


def start_mysql(*, options: Sequence[str] = (), directory: Path | None = None) -> Server:
    """Start a MySQL with a row-based binary log, full row metadata, and GTIDs.

    ``options`` are command-line options, which override the sandbox's own. ``directory`` is a data
    directory, which is kept; it is initialized if it is empty. Raises ``SandboxUnavailable``.
    """
    installation = _installed("mysql", "mysqld", MYSQL_RELEASE) or _unpacked("mysql", MYSQL_BUNDLE)
    return Server(_recipe(installation), options, directory)


def start_mariadb(
    release: str = "10.11", *, options: Sequence[str] = (), directory: Path | None = None
) -> Server:
    """Start a MariaDB of a release, "10.11" or "11.8". The rest is as for ``start_mysql``."""
    bundle = MARIADB_BUNDLES.get(release)
    if bundle is None:
        raise SandboxUnavailable(
            f"there is no sandbox for MariaDB {release}",
            hint=f"choose from {', '.join(MARIADB_BUNDLES)}",
        )
    installation = _installed("mariadb", "mariadbd", release) or _unpacked("mariadb", bundle)
    return Server(_recipe(installation), options, directory)


@dataclass(frozen=True)
class Installation:
    """A server program with its files."""

    kind: Kind
    command: tuple[str, ...]
    prefix: Path
    """The folder /usr that the program belongs to."""
    version: str
    release_flags: tuple[str, ...]

    @property
    def share(self) -> Path:
        """The folder with messages, character sets and scripts."""
        for name in ("mariadb", "mysql") if self.kind == "mariadb" else ("mysql",):
            if (self.prefix / "share" / name / "charsets").is_dir():
                return self.prefix / "share" / name
        raise SandboxUnavailable(f"{self.prefix} has no share folder of {self.kind}")

    def base_command(self, layout: Layout) -> list[str]:
        """The program with the options for its paths."""
        return [
            *self.command,
            "--no-defaults",
            *self.release_flags,
            f"--lc-messages-dir={self.share}",
            f"--character-sets-dir={self.share}/charsets",
            f"--datadir={layout.data}",
            f"--tmpdir={layout.scratch}",
            f"--socket={layout.socket}",
            f"--pid-file={layout.folder}/pid",
            f"--secure-file-priv={layout.scratch}",
        ]


def _installed(kind: Kind, program: str, release: str) -> Installation | None:
    """The server that is installed on the machine, if it is of the release."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/libexec")
    if path is None:
        return None
    version = _version((path,))
    if not version.startswith(f"{release}."):
        return None
    return Installation(kind, (path,), Path("/usr"), version, ())


def _unpacked(kind: Kind, bundle: Bundle) -> Installation:
    root = bundle.root()
    program = "mysqld" if kind == "mysql" else "mariadbd"
    command = loader_command(root, root / "usr" / "sbin" / program)
    prefix = root / "usr"
    plugins = next(iter(root.glob("usr/lib/mysql/plugin")), prefix)
    flags = (f"--basedir={prefix}", f"--plugin-dir={plugins}")
    return Installation(kind, command, prefix, _version(command), flags)


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


def _recipe(installation: Installation) -> Recipe:
    def initialize(layout: Layout) -> None:
        if installation.kind == "mysql":
            _initialize_mysql(installation, layout)
        else:
            _initialize_mariadb(installation, layout)

    def command(layout: Layout, port: int, options: Sequence[str]) -> list[str]:
        own = MYSQL_SETTINGS if installation.kind == "mysql" else MARIADB_SETTINGS
        return [
            *installation.base_command(layout),
            f"--port={port}",
            f"--log-bin={layout.data}/binlog",
            *SETTINGS,
            *own,
            *options,
        ]

    place = hashlib.sha256(str(installation.prefix).encode()).hexdigest()[:8]
    return Recipe(
        kind=installation.kind,
        version=installation.version,
        scheme="mysql",
        user="root",
        database="",
        programs=installation.prefix,
        template=f"{installation.kind}-{installation.version}-{place}-{TEMPLATE_REVISION}",
        initialize=initialize,
        command=command,
        answers=_greets,
        stop_signal=signal.SIGTERM,
        abort_signal=signal.SIGKILL,
    )


def _initialize_mysql(installation: Installation, layout: Layout) -> None:
    accounts = layout.scratch / "accounts.sql"
    accounts.write_text(MYSQL_ACCOUNTS)
    run(
        [
            *as_server_account(installation.prefix),
            *installation.base_command(layout),
            "--initialize-insecure",
            f"--init-file={accounts}",
        ],
        purpose="initializing MySQL",
        deadline_seconds=INITIALIZE_DEADLINE_SECONDS,
    )
    # Without this file a server makes a new UUID at its start. Copies must not share one.
    (layout.data / "auto.cnf").unlink(missing_ok=True)


def _initialize_mariadb(installation: Installation, layout: Layout) -> None:
    share = installation.share
    prefix = "mariadb" if (share / "mariadb_system_tables.sql").exists() else "mysql"
    scripts = [(share / name.format(prefix)).read_text() for name in MARIADB_SCRIPTS]
    statements = ["create database if not exists mysql;\nuse mysql;\n", *scripts, MARIADB_ACCOUNTS]
    run(
        [
            *as_server_account(installation.prefix),
            *installation.base_command(layout),
            "--bootstrap",
        ],
        purpose="initializing MariaDB",
        deadline_seconds=INITIALIZE_DEADLINE_SECONDS,
        stdin="\n".join(statements).encode(),
    )


def _greets(port: int) -> bool:
    """Whether a server sends a greeting: a packet header and the protocol version 10."""
    try:
        with socket.create_connection(("127.0.0.1", port), GREETING_TIMEOUT_SECONDS) as client:
            return client.recv(5)[4:] == b"\x0a"
    except OSError:
        return False
