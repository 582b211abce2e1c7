"""
The databases' own client programs: ``psql``, ``mysql`` and ``mysqlbinlog``.

They set the limits that the engine is measured against. As the servers, they are found on the
machine, or unpacked into the cache folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.debian import Bundle, loader_command
from engine.sandbox.mysql import MYSQL_BUNDLE
from engine.sandbox.postgres import BUNDLES

__all__ = ["mysql", "mysqlbinlog", "psql"]

CLIENT_BUNDLE = Bundle("MySQL's client", "sid", ("mysql-client-core",), 40)


def psql(url: str) -> list[str]:
    """The words that run psql on a database, stopping at the first error."""
    words = ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", url]
    found = shutil.which("psql")
    if found is not None:
        return [found, *words]
    try:
        root = BUNDLES["15"].root()
        program = next(root.glob("usr/lib/postgresql/*/bin/psql"))
    except StopIteration:
        raise SandboxUnavailable("there is no psql", hint="Install it.") from None
    return [*loader_command(root, program), *words]


def mysql(url: str) -> list[str]:
    """The words that run the mysql client, which writes a result as it comes, in COPY's form."""
    words = ["--no-defaults", *_address(url), "--batch", "--quick", "--skip-column-names"]
    root = CLIENT_BUNDLE.root()
    return [*loader_command(root, root / "usr/bin/mysql"), *words]


def mysqlbinlog() -> list[str]:
    """The words that run mysqlbinlog on files."""
    root = MYSQL_BUNDLE.root()
    return [*loader_command(root, root / "usr/bin/mysqlbinlog"), "--no-defaults"]


def raw_log(url: str, first_file: str, into: Path) -> list[str]:
    """The words that read a server's log from a file on, as it is, and write it to a folder."""
    words = ["--read-from-remote-server", "--raw", "--to-last-log", f"--result-file={into}/"]
    return [*mysqlbinlog(), *_address(url), *words, first_file]


def _address(url: str) -> list[str]:
    parts = urlsplit(url)
    words = [
        "--protocol=TCP",
        f"--host={parts.hostname or '127.0.0.1'}",
        f"--port={parts.port or 3306}",
        f"--user={unquote(parts.username or 'root')}",
    ]
    if parts.password:
        words.append(f"--password={unquote(parts.password)}")
    return words
