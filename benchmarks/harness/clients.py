"""
Command lines of the databases' own client programs: ``psql``, ``mysql`` and ``mysqlbinlog``.

``psql`` comes from the machine if it is installed there; otherwise it, and always the MySQL
programs, come from Debian packages that are unpacked into the cache folder.

A password is never part of a command line, which every user of the machine can read. It goes into a
file, readable by its owner only, in a folder that the caller gives.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.debian import Bundle, loader_command
from engine.sandbox.mysql_installation import MYSQL_BUNDLE
from engine.sandbox.postgres import BUNDLES

__all__ = ["mysql", "mysqlbinlog", "psql"]

CLIENT_BUNDLE = Bundle("MySQL's client", "sid", ("mysql-client-core",), 40)


def psql(url: str, folder: Path) -> list[str]:
    """The command that runs psql on a database and stops at the first error."""
    address = _without_password(url, folder)
    options = ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", address]
    found = shutil.which("psql")
    if found is not None:
        return [found, *options]
    try:
        root = BUNDLES["15"].root()
        program = next(root.glob("usr/lib/postgresql/*/bin/psql"))
    except StopIteration:
        raise SandboxUnavailable(
            "psql is not installed", hint="Install PostgreSQL's client programs."
        ) from None
    return [*loader_command(root, program), *options]


def mysql(url: str, folder: Path) -> list[str]:
    """The command that runs the mysql client, unbuffered, with output in COPY's text format."""
    options = [*_address(url, folder), "--batch", "--quick", "--skip-column-names"]
    root = CLIENT_BUNDLE.root()
    return [*loader_command(root, root / "usr/bin/mysql"), *options]


def mysqlbinlog() -> list[str]:
    """The command that runs mysqlbinlog on files, which are appended to it."""
    return [*_mysqlbinlog(), "--no-defaults"]


def raw_log(url: str, first_file: str, into: Path) -> list[str]:
    """The command that reads a server's log from ``first_file`` on and writes it to a folder."""
    options = ["--read-from-remote-server", "--raw", "--to-last-log", f"--result-file={into}/"]
    return [*_mysqlbinlog(), *_address(url, into), *options, first_file]


def _mysqlbinlog() -> list[str]:
    root = MYSQL_BUNDLE.root()
    return [*loader_command(root, root / "usr/bin/mysqlbinlog")]


def _address(url: str, folder: Path) -> list[str]:
    """The options of the login. They must come first, and no other option file is read."""
    parts = urlsplit(url)
    options = [
        "--protocol=TCP",
        f"--host={parts.hostname or '127.0.0.1'}",
        f"--port={parts.port or 3306}",
        f"--user={unquote(parts.username or 'root')}",
    ]
    if parts.password is None:
        return ["--no-defaults", *options]
    secret = unquote(parts.password).replace("\\", "\\\\").replace('"', '\\"')
    file = _write_secret(folder / "mysql.cnf", f'[client]\npassword="{secret}"\n')
    return [f"--defaults-file={file}", *options]


def _without_password(url: str, folder: Path) -> str:
    """The URL as libpq's connection string, with the password in a file."""
    parameters: dict[str, Any] = conninfo_to_dict(url)
    password = parameters.pop("password", None)
    if password is None:
        return url
    secret = str(password).replace("\\", "\\\\").replace(":", "\\:")
    parameters["passfile"] = str(_write_secret(folder / "pgpass", f"*:*:*:*:{secret}\n"))
    return make_conninfo(**parameters)


def _write_secret(path: Path, text: str) -> Path:
    """Create a file with mode 0600, so that no other user can read it at any moment."""
    path.unlink(missing_ok=True)
    with open(path, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(text)
    return path
