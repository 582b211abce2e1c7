"""
The databases' own client programs: ``psql``, ``mysql`` and ``mysqlbinlog``.

They set the limits that the engine is measured against. As the servers, they are found on the
machine, or unpacked into the cache folder. A password is never one of a program's words, which
everybody on the machine can read: it goes through a file in a folder that the caller gives.
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
from engine.sandbox.mysql import MYSQL_BUNDLE
from engine.sandbox.postgres import BUNDLES

__all__ = ["mysql", "mysqlbinlog", "psql"]

CLIENT_BUNDLE = Bundle("MySQL's client", "sid", ("mysql-client-core",), 40)


def psql(url: str, folder: Path) -> list[str]:
    """The words that run psql on a database, stopping at the first error."""
    address = _without_password(url, folder)
    words = ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", address]
    found = shutil.which("psql")
    if found is not None:
        return [found, *words]
    try:
        root = BUNDLES["15"].root()
        program = next(root.glob("usr/lib/postgresql/*/bin/psql"))
    except StopIteration:
        raise SandboxUnavailable("there is no psql", hint="Install it.") from None
    return [*loader_command(root, program), *words]


def mysql(url: str, folder: Path) -> list[str]:
    """The words that run the mysql client, which writes a result as it comes, in COPY's form."""
    words = [*_address(url, folder), "--batch", "--quick", "--skip-column-names"]
    root = CLIENT_BUNDLE.root()
    return [*loader_command(root, root / "usr/bin/mysql"), *words]


def mysqlbinlog() -> list[str]:
    """The words that run mysqlbinlog on files."""
    return [*_mysqlbinlog(), "--no-defaults"]


def raw_log(url: str, first_file: str, into: Path) -> list[str]:
    """The words that read a server's log from a file on, as it is, and write it to a folder."""
    words = ["--read-from-remote-server", "--raw", "--to-last-log", f"--result-file={into}/"]
    return [*_mysqlbinlog(), *_address(url, into), *words, first_file]


def _mysqlbinlog() -> list[str]:
    root = MYSQL_BUNDLE.root()
    return [*loader_command(root, root / "usr/bin/mysqlbinlog")]


def _address(url: str, folder: Path) -> list[str]:
    """Where to log in; the words that must come first. No other file of options is read."""
    parts = urlsplit(url)
    words = [
        "--protocol=TCP",
        f"--host={parts.hostname or '127.0.0.1'}",
        f"--port={parts.port or 3306}",
        f"--user={unquote(parts.username or 'root')}",
    ]
    if parts.password is None:
        return ["--no-defaults", *words]
    secret = unquote(parts.password).replace("\\", "\\\\").replace('"', '\\"')
    file = _write_secret(folder / "mysql.cnf", f'[client]\npassword="{secret}"\n')
    return [f"--defaults-file={file}", *words]


def _without_password(url: str, folder: Path) -> str:
    """The same address for libpq, which looks the password up in a file."""
    words: dict[str, Any] = conninfo_to_dict(url)
    password = words.pop("password", None)
    if password is None:
        return url
    secret = str(password).replace("\\", "\\\\").replace(":", "\\:")
    words["passfile"] = str(_write_secret(folder / "pgpass", f"*:*:*:*:{secret}\n"))
    return make_conninfo(**words)


def _write_secret(path: Path, text: str) -> Path:
    """Only we may read it, from its first moment on."""
    path.unlink(missing_ok=True)
    with open(path, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(text)
    return path
