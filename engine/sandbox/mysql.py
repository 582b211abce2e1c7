"""
Start MySQL and MariaDB.

The releases differ in how a data directory is initialized, and in a few settings. All send a
greeting to each new client, so a plain socket shows whether a server is ready.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.sandbox.command import run
from engine.sandbox.mysql_installation import Installation, installation
from engine.sandbox.process import as_server_account, give_to_server_account
from engine.sandbox.server import Layout, Recipe, Server

MYSQL_RELEASE = "9.7"
MARIADB_RELEASE = "10.11"
INITIALIZE_DEADLINE_SECONDS = 180.0
GREETING_TIMEOUT_SECONDS = 1.0
TEMPLATE_REVISION = "1"  # increase it when the initialization changes

# The data survive a killed server, and need not survive a power failure.
SETTINGS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--server-id=97",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=256M",
    "--max-allowed-packet=1G",
    "--performance-schema=OFF",
    "--local-infile=ON",
)

# The only account is root, which may log in over TCP.
ACCOUNTS = (
    "CREATE USER root@'%' IDENTIFIED WITH {plugin} BY '';\n"
    "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n"
)
# The bootstrap runs without grant tables, so it cannot execute GRANT. Before MySQL 5.6 it reads one
# statement per line.
USER_TABLE_ACCOUNTS = (
    "DELETE FROM mysql.user WHERE User <> 'root' OR Host <> 'localhost';\n"
    "UPDATE mysql.user SET Host = '%';\n"
)
GLOBAL_PRIV_ACCOUNTS = (
    "DELETE FROM mysql.global_priv WHERE User = '';\n"
    "REPLACE INTO mysql.global_priv VALUES ('%', 'root', "
    '\'{"access":18446744073709551615,"plugin":"mysql_native_password",'
    '"authentication_string":""}\');\n'
)
SCRIPTS = (
    "{0}_system_tables.sql",
    "{0}_performance_tables.sql",
    "{0}_system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "{0}_sys_schema.sql",
)


def start_mysql(
    release: str = MYSQL_RELEASE, *, options: Sequence[str] = (), directory: Path | None = None
) -> Server:
    """Start a MySQL of a release from "5.5" to "9.7". It has a row-based binary log with what the
    release can do of full images, full metadata and GTIDs. MySQL 5.6 can have GTIDs, but has none.

    ``options`` are command-line options, which override the sandbox's own. ``directory`` is a data
    directory, which is kept; it is initialized if it is empty. Raises ``SandboxUnavailable``.
    """
    folded = "--lower-case-table-names=1" in options
    return Server(_recipe(installation("mysql", release), folded=folded), options, directory)


def start_mariadb(
    release: str = MARIADB_RELEASE, *, options: Sequence[str] = (), directory: Path | None = None
) -> Server:
    """Start a MariaDB of a release from "10.1" to "11.8". The rest is as for ``start_mysql``."""
    return Server(_recipe(installation("mariadb", release)), options, directory)


def _settings(installation: Installation) -> Iterator[str]:
    """The settings that only some releases have."""
    mariadb, number = installation.kind == "mariadb", installation.number
    if number >= (5, 6):
        yield "--binlog-row-image=FULL"
    if number >= ((10, 5) if mariadb else (8,)):
        yield "--binlog-row-metadata=FULL"
    if mariadb or number < (8,):
        yield "--binlog-format=ROW"
    if mariadb:
        yield "--gtid-strict-mode=1"
    elif number >= (5, 7):
        yield from ("--gtid-mode=ON", "--enforce-gtid-consistency=ON")
    if not mariadb and number >= (8,):
        yield "--mysqlx=OFF"


def _recipe(installation: Installation, *, folded: bool = False) -> Recipe:
    """``folded``: the server stores names in lower case. MySQL 8.0 and newer decide that when they
    initialize a data directory."""
    template = "-folded" if folded else ""

    def initialize(layout: Layout) -> None:
        if installation.kind == "mysql" and installation.number >= (5, 7):
            _initialize(installation, layout, folded=folded)
        else:
            _bootstrap(installation, layout)

    def command(layout: Layout, port: int, options: Sequence[str]) -> list[str]:
        return [
            *installation.base_command(layout),
            f"--port={port}",
            f"--log-bin={layout.data}/binlog",
            *SETTINGS,
            *_settings(installation),
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
        template=f"{installation.kind}-{installation.version}-{place}-{TEMPLATE_REVISION}{template}",
        initialize=initialize,
        command=command,
        answers=_greets,
        stop_signal=signal.SIGTERM,
        abort_signal=signal.SIGKILL,
    )


def _initialize(installation: Installation, layout: Layout, *, folded: bool) -> None:
    """Initialize as MySQL does since 5.7."""
    accounts = layout.scratch / "accounts.sql"
    plugin = "caching_sha2" if installation.number >= (8,) else "mysql_native"
    accounts.write_text(ACCOUNTS.format(plugin=f"{plugin}_password"))
    run(
        [
            *as_server_account(installation.prefix),
            *installation.base_command(layout),
            "--initialize-insecure",
            f"--init-file={accounts}",
            *(["--lower-case-table-names=1"] if folded else ()),
        ],
        purpose="initializing MySQL",
        deadline_seconds=INITIALIZE_DEADLINE_SECONDS,
    )
    _forget_uuid(layout)


def _bootstrap(installation: Installation, layout: Layout) -> None:
    """Create the system tables, with the scripts of the release or from its ready-made files."""
    share = installation.share
    prefix = "mariadb" if (share / "mariadb_system_tables.sql").exists() else "mysql"
    files = [share / name.format(prefix) for name in SCRIPTS]
    scripts = [file.read_text() for file in files if file.exists()]
    if not scripts:
        shutil.copytree(installation.prefix / "mysql", layout.data / "mysql")
        give_to_server_account(layout.data)
    new = installation.kind == "mariadb" and installation.number >= (10, 4)
    accounts = GLOBAL_PRIV_ACCOUNTS if new else USER_TABLE_ACCOUNTS
    statements = ["create database if not exists mysql;\nuse mysql;\n", *scripts, accounts]
    run(
        [
            *as_server_account(installation.prefix),
            *installation.base_command(layout),
            "--bootstrap",
        ],
        purpose=f"initializing {installation.kind}",
        deadline_seconds=INITIALIZE_DEADLINE_SECONDS,
        stdin="\n".join(statements).encode(),
    )
    _forget_uuid(layout)


def _forget_uuid(layout: Layout) -> None:
    """Without this file a server makes a new UUID at its start. Copies must not share one."""
    (layout.data / "auto.cnf").unlink(missing_ok=True)


def _greets(port: int) -> bool:
    """Whether a server sends a greeting: a packet header and the protocol version 10."""
    try:
        with socket.create_connection(("127.0.0.1", port), GREETING_TIMEOUT_SECONDS) as client:
            return client.recv(5)[4:] == b"\x0a"
    except OSError:
        return False
