"""
The program ``mysql``, for scripts of the documentation that call it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.sandbox import SandboxUnavailable
from engine.sandbox.debian import Bundle, loader_command
from tests.support.servers import AnyServer, do_without

__all__ = ["put_client"]

#: The package of each kind of server, and the program in it.
_CLIENTS = {
    "mysql": (Bundle("the client of MySQL", "sid", ("mysql-client-core",), 15), "mysql"),
    "mariadb": (
        Bundle("the client of MariaDB", "bookworm", ("mariadb-client-core",), 15),
        "mariadb",
    ),
}


def put_client(server: AnyServer, folder: Path) -> Path:
    """Put ``mysql`` into a folder, and an option file with the server's user of all rights, whose
    path is returned.
    """
    bundle, program = _CLIENTS[server.kind]
    try:
        root = bundle.root()
        words = loader_command(root, root / "usr/bin" / program)
    except SandboxUnavailable as error:
        do_without(error)
    script = folder / "mysql"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    options = folder / "admin.cnf"
    options.write_text(
        f"[client]\nhost = {server.host}\nport = {server.port}\nuser = {server.user}\n"
        f'password = "{server.password}"\n'
    )
    return options
