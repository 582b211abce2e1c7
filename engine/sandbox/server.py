"""
One temporary database server: its folder, its process, its start and end.

A ``Recipe`` describes how a kind of server is initialized and started, and how to see that it is
ready. Everything else is the same for all kinds.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import TAIL_CHARACTERS, SandboxUnavailable, one_line, run
from engine.sandbox.process import (
    Process,
    give_to_server_account,
    kill_family,
    reserve_port,
    spawn,
)

logger = logging.getLogger("tailrace.sandbox")

START_DEADLINE_SECONDS = 60.0
SHUTDOWN_DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 5
ADDRESS_IN_USE = ("Address already in use", "Do you already have another")
FOLDER_PREFIX = "tailrace-server-"
OWNER_FILE = "owner"
# The owner of a younger folder may not have locked it yet.
ABANDONED_AFTER_SECONDS = 60.0

Kind = Literal["mysql", "mariadb", "postgres"]


@dataclass(frozen=True)
class Layout:
    """The folders and files of one server. ``data`` may be outside ``folder``."""

    folder: Path
    data: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def scratch(self) -> Path:
        return self.folder / "tmp"


@dataclass(frozen=True)
class Recipe:
    """How servers of one kind and version are initialized and started."""

    kind: Kind
    version: str
    scheme: str
    user: str
    database: str
    programs: Path
    """The folder that the server's account must be able to read."""
    template: str
    """The name of the template data directory in the cache. Equal names mean equal contents."""
    initialize: Callable[[Layout], None]
    command: Callable[[Layout, int, Sequence[str]], list[str]]
    answers: Callable[[int], bool]
    """Whether a server on this loopback port is ready for clients."""
    stop_signal: signal.Signals
    """Asks for a clean shutdown that does not wait for clients."""
    abort_signal: signal.Signals
    """Ends the server and its processes at once. The data need crash recovery then."""


class Server:
    """A running server. As a context manager it is stopped at the end.

    It listens only on 127.0.0.1. ``user`` has all rights, and no password. The server is stopped
    when the interpreter exits, and ends with this process even if the process is killed.
    """

    def __init__(self, recipe: Recipe, options: Sequence[str], directory: Path | None) -> None:
        self.kind: Kind = recipe.kind
        self.version = recipe.version
        self.host = "127.0.0.1"
        self.user = recipe.user
        self.password = ""
        self._recipe = recipe
        self._options = tuple(options)
        self._process: Process | None = None
        self._reservation: socket.socket | None = None
        sweep_abandoned()
        folder, self._owner = _own_folder()
        self._keeps_data = directory is not None
        self.layout = Layout(folder, directory or folder / "data")
        _live_servers.add(self)
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._fill()
            self.port = self._start_on_free_port()
            undo.pop_all()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.version} on port {self.port}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``mysql://root@127.0.0.1:PORT/`` or ``postgresql://postgres@127.0.0.1:PORT/postgres``."""
        recipe = self._recipe
        return f"{recipe.scheme}://{self.user}@{self.host}:{self.port}/{recipe.database}"

    @property
    def running(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int:
        """The id of the server's first process. The server must be running."""
        if self._process is None:
            raise SandboxUnavailable(f"{self.kind} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start again after ``shutdown`` or ``kill``, with the same data and port. Returns when the
        server is ready. Does nothing if it runs.

        Raises ``SandboxUnavailable`` with the end of the server's log if it is not ready in time.
        """
        if self.running:
            return
        if not self.layout.folder.exists():
            raise SandboxUnavailable(f"{self.kind} was stopped, and its folder removed")
        self._start(self.port)

    def shutdown(self) -> None:
        """Shut the server down cleanly. The data stay, and ``start`` starts it again."""
        self._end(self._recipe.stop_signal)

    def kill(self) -> None:
        """Kill the server with SIGKILL. The data stay, and ``start`` starts it again."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            kill_family(process, SHUTDOWN_DEADLINE_SECONDS)

    def restart(self) -> None:
        """Shut the server down cleanly, and start it again."""
        self.shutdown()
        self.start()

    def stop(self) -> None:
        """End the server and remove its folder. A second call does nothing.

        A data directory that the caller chose is kept; then the server is shut down cleanly.
        """
        recipe = self._recipe
        self._end(recipe.stop_signal if self._keeps_data else recipe.abort_signal)
        _live_servers.discard(self)
        shutil.rmtree(self.layout.folder, ignore_errors=True)
        self._owner.close()
        if self._reservation is not None:
            self._reservation.close()

    def _fill(self) -> None:
        """Create the data directory as a copy of the template, unless it has contents."""
        layout, recipe = self.layout, self._recipe
        layout.scratch.mkdir()
        if not (layout.data.exists() and any(layout.data.iterdir())):
            template = cache_folder() / "templates" / f"{recipe.template}-{os.geteuid()}"
            entry(template, template.name, self._make_template)
            layout.data.parent.mkdir(parents=True, exist_ok=True)
            _copy(template, layout.data)
        layout.data.chmod(0o700)
        give_to_server_account(layout.data)
        give_to_server_account(layout.folder)

    def _make_template(self, target: Path) -> None:
        """Initialize in a folder that the server's account can enter, and copy it to ``target``."""
        logger.info("initializing %s %s ...", self.kind, self.version)
        with tempfile.TemporaryDirectory(prefix="tailrace-template-") as name:
            layout = Layout(Path(name), Path(name) / "data")
            layout.scratch.mkdir()
            layout.data.mkdir(mode=0o700)
            give_to_server_account(layout.folder)
            self._recipe.initialize(layout)
            target.rmdir()
            _copy(layout.data, target)

    def _start_on_free_port(self) -> int:
        for _ in range(PORT_ATTEMPTS):
            port, self._reservation = reserve_port()
            try:
                self._start(port)
            except SandboxUnavailable as error:
                self._reservation.close()
                if not any(sign in str(error) for sign in ADDRESS_IN_USE):
                    raise
            else:
                return port
        raise SandboxUnavailable(f"{self.kind}: {PORT_ATTEMPTS} ports in a row were in use")

    def _start(self, port: int) -> None:
        recipe, layout = self._recipe, self.layout
        layout.log.write_bytes(b"")
        command = recipe.command(layout, port, self._options)
        process = self._process = spawn(command, reads=recipe.programs, log=layout.log)
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not (recipe.answers(port) and process.poll() is None):
            if process.poll() is not None:
                raise self._unavailable(f"ended with status {process.returncode} during its start")
            if time.monotonic() > deadline:
                self.kill()
                raise self._unavailable(f"not ready after {START_DEADLINE_SECONDS:.0f} seconds")
            time.sleep(POLL_SECONDS)

    def _unavailable(self, what: str) -> SandboxUnavailable:
        said = self.layout.log.read_text(errors="replace")[-TAIL_CHARACTERS:]
        return SandboxUnavailable(f"{self.kind} {self.version}: {what}: {one_line(said)}")

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(SHUTDOWN_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None


_live_servers: set[Server] = set()


@atexit.register
def _stop_all() -> None:
    for server in list(_live_servers):
        server.stop()


def _own_folder() -> tuple[Path, IO[bytes]]:
    """Create a server's folder, which is locked while the returned file is open."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    owner = (folder / OWNER_FILE).open("wb")
    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, owner


def sweep_abandoned() -> None:
    """Remove the folders of servers whose owner was killed before it could remove them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < ABANDONED_AFTER_SECONDS:
                continue
            with (folder / OWNER_FILE).open("rb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # locked, of another account, or removed meanwhile


def _copy(source: Path, target: Path) -> None:
    run(
        ["cp", "--archive", "--reflink=auto", "--sparse=always", source, target],
        purpose="copying a data directory",
        deadline_seconds=START_DEADLINE_SECONDS,
    )
