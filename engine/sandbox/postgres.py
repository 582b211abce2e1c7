"""
Start PostgreSQL.

An unpacked PostgreSQL finds its files relative to its program. ``initdb`` starts ``postgres`` by
name, so a shell script takes its place, which runs the program through the loader of its libc.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.sandbox.cache import locked
from engine.sandbox.command import SandboxUnavailable, run
from engine.sandbox.debian import Bundle, loader_command
from engine.sandbox.process import as_server_account
from engine.sandbox.server import Layout, Recipe, Server

INITIALIZE_DEADLINE_SECONDS = 120.0
READY_TIMEOUT_SECONDS = 1.0
TEMPLATE_REVISION = "1"  # increase it when the initialization changes

BUNDLES = {
    "15": Bundle("PostgreSQL 15", "bookworm", ("postgresql-15",), 80),
    "17": Bundle("PostgreSQL 17", "trixie", ("postgresql-17",), 80),
    "18": Bundle("PostgreSQL 18", "sid", ("postgresql-18",), 80),
}
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def start_postgres(
    release: str = "15", *, options: Sequence[str] = (), directory: Path | None = None
) -> Server:
    """Start a PostgreSQL of a major release, with ``wal_level = logical``.

    ``options`` are command-line arguments, which override the sandbox's own: ``"-c",
    "work_mem=64MB"``, or ``"work_mem=64MB"`` alone. ``directory`` is a data directory, which is
    kept; it is initialized if it is empty. Raises ``SandboxUnavailable``.
    """
    return Server(_recipe(_installed(release) or _unpacked(release)), options, directory)


@dataclass(frozen=True)
class Installation:
    """The commands that run the two programs of a PostgreSQL."""

    folder: Path
    initdb: tuple[str, ...]
    postgres: tuple[str, ...]
    version: str


def _installed(release: str) -> Installation | None:
    """The PostgreSQL of that release on the machine: in Debian's folder, else in $PATH."""
    on_path = shutil.which("postgres")
    candidates = [Path(f"/usr/lib/postgresql/{release}/bin")]
    candidates += [Path(on_path).resolve().parent] if on_path else []
    for folder in candidates:
        initdb, postgres = folder / "initdb", folder / "postgres"
        if initdb.exists() and postgres.exists():
            version = _version((str(postgres),))
            if version.split(".")[0] == release:
                return Installation(folder, (str(initdb),), (str(postgres),), version)
    return None


def _unpacked(release: str) -> Installation:
    bundle = BUNDLES.get(release)
    if bundle is None:
        raise SandboxUnavailable(
            f"there is no PostgreSQL {release} on this machine, and no sandbox for it",
            hint=f"install it, or choose from {', '.join(BUNDLES)}",
        )
    root = bundle.root()
    folder = root / "usr" / "lib" / "postgresql" / release / "bin"
    name, program = folder / "postgres", folder / "postgres.program"
    with locked(f"postgres-{release}"):
        if not program.exists():
            _put_script_in_place(root, name, program)
    postgres = loader_command(root, program, name=name)
    initdb = loader_command(root, folder / "initdb")
    return Installation(folder, initdb, postgres, _version(postgres))


def _put_script_in_place(root: Path, name: Path, program: Path) -> None:
    """Rename ``postgres``, and put a script in its place that runs it with its loader."""
    words = " ".join(f"'{word}'" for word in loader_command(root, program, name=name))
    script = name.with_suffix(".script")
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    name.rename(program)
    script.rename(name)


def _version(command: Sequence[str]) -> str:
    """The number in ``postgres (PostgreSQL) 15.18 (Debian ...)``."""
    text = run(
        [*command, "--version"],
        purpose="reading the version of a server program",
        deadline_seconds=30,
    )
    found = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", text)
    if found is None:
        raise SandboxUnavailable(f"{command[0]} does not print a version: {text.strip()}")
    return found[1]


def _recipe(installation: Installation) -> Recipe:
    def initialize(layout: Layout) -> None:
        run(
            [
                *as_server_account(installation.folder),
                *installation.initdb,
                f"--pgdata={layout.data}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ],
            purpose="initializing PostgreSQL",
            deadline_seconds=INITIALIZE_DEADLINE_SECONDS,
        )

    def command(layout: Layout, port: int, options: Sequence[str]) -> list[str]:
        words = [*installation.postgres, "-D", str(layout.data), "-p", str(port)]
        for name, value in SETTINGS.items():
            words += ["-c", f"{name}={value}"]
        for option in options:
            words += [option] if option.startswith("-") or words[-1] == "-c" else ["-c", option]
        return words

    return Recipe(
        kind="postgres",
        version=installation.version,
        scheme="postgresql",
        user="postgres",
        database="postgres",
        programs=installation.folder,
        template=f"postgres-{installation.version}-{TEMPLATE_REVISION}",
        initialize=initialize,
        command=command,
        answers=_is_ready,
        stop_signal=signal.SIGINT,  # "fast" shutdown: clients are disconnected
        abort_signal=signal.SIGQUIT,  # "immediate" shutdown: all its processes end
    )


def _is_ready(port: int) -> bool:
    """Whether a server accepts clients. It answers with R then, and with E while it starts.

    The startup message is that of protocol 3.0 (PostgreSQL manual, "Message Formats").
    """
    body = struct.pack("!I", 3 << 16) + b"user\0postgres\0database\0postgres\0\0"
    try:
        with socket.create_connection(("127.0.0.1", port), READY_TIMEOUT_SECONDS) as client:
            client.sendall(struct.pack("!I", len(body) + 4) + body)
            return client.recv(1) == b"R"
    except OSError:
        return False
