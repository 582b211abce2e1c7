"""
Starting server processes that cannot outlive this one, under an account that they accept.

The idea: `setpriv` ties each server to its parent with Linux's parent-death
signal, so even a SIGKILL of the test run leaves nothing behind.  Linux ties it
to the *thread* that forked, so all servers are forked from one thread that
lives as long as the process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from engine.sandbox.command import SandboxUnavailable

SERVER_ACCOUNT = "nobody"
# Below the range that Linux gives to outgoing connections, so that a port stays
# free while its server is down.
FIRST_PORT, LAST_PORT = 20000, 32000

Process: TypeAlias = "subprocess.Popen[bytes]"


def spawn(command: Sequence[str], *, reads: Path, log: Path) -> Process:
    """Start a server in a session of its own; its output is appended to `log`.

    `reads` is the folder with its programs.  It ends with this process.
    """
    words = [*as_server_account(reads), *command]
    future: Future[Process] = Future()
    _spawner(os.getpid()).put((functools.partial(_popen, words, log), future))
    return future.result()


def _popen(words: list[str], log: Path) -> Process:
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal is for us, not for the server.
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


_Job: TypeAlias = "tuple[Callable[[], Process], Future[Process]]"


@functools.cache
def _spawner(process_id: int) -> SimpleQueue[_Job]:
    """The queue of the spawning thread; one per process, since a fork has no threads."""
    jobs: SimpleQueue[_Job] = SimpleQueue()
    name = f"sandbox-spawner-{process_id}"
    threading.Thread(target=_spawn_all, args=(jobs,), name=name, daemon=True).start()
    return jobs


def _spawn_all(jobs: SimpleQueue[_Job]) -> None:
    while True:
        job, future = jobs.get()
        try:
            future.set_result(job())
        except OSError as error:
            future.set_exception(SandboxUnavailable(f"cannot start a server: {error}"))


def as_server_account(reads: Path) -> list[str]:
    """The words before a command that tie it to us and take it off the root account.

    PostgreSQL refuses to run as root, MySQL and MariaDB warn.
    """
    words = ["setpriv", "--pdeathsig", "KILL"]
    if shutil.which("setpriv") is None:
        raise SandboxUnavailable("setpriv is missing", hint="Install the package util-linux.")
    if os.geteuid() != 0:
        return words
    account = pwd.getpwnam(SERVER_ACCOUNT)
    words += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    if not _open_to_all(reads):
        # The cache is often below /root, which other accounts may not enter.
        # access(2) honours that right only without the set-user-id fix-up.
        words += ["--securebits", "+no_setuid_fixup"]
        words += ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return words


def _open_to_all(folder: Path) -> bool:
    return all(
        path.stat().st_mode & stat.S_IXOTH for path in (folder.resolve(), *folder.resolve().parents)
    )


def give_to_server_account(folder: Path) -> None:
    """Make the server's account own a folder and all in it (as root; else it does already)."""
    if os.geteuid() != 0:
        return
    account = pwd.getpwnam(SERVER_ACCOUNT)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def reserve_port() -> tuple[int, socket.socket]:
    """A free loopback port, ours among all sandboxes until the returned socket is closed.

    The reservation is a name in Linux's abstract socket namespace: it holds while
    the server is down, and ends with this process at the latest.
    """
    for _ in range(100):
        port = random.randint(FIRST_PORT, LAST_PORT)
        reservation = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                reservation.bind(f"\0tailrace-sandbox-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                reservation.close()
                continue
            return port, reservation
    raise SandboxUnavailable(f"no free loopback port from {FIRST_PORT} to {LAST_PORT}")


def children(process_id: int) -> list[int]:
    """The process ids of the living children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        parent, state = _parent_and_state(path)
        if parent == process_id and state != "Z":
            found.append(int(path.parent.name))
    return found


def is_alive(process_id: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has reaped."""
    _, state = _parent_and_state(Path(f"/proc/{process_id}/stat"))
    return state not in ("", "Z", "X")


def _parent_and_state(path: Path) -> tuple[int, str]:
    """From a `/proc/PID/stat` (proc(5)); (0, "") if the process is gone."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        state, parent = path.read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0, ""
    return int(parent), state


def kill_family(process: Process, deadline_seconds: float) -> None:
    """SIGKILL a server and its children, and wait until all are gone.

    PostgreSQL does not start on data that a child of the killed server still uses.
    """
    process.send_signal(signal.SIGSTOP)  # so that it has no new children meanwhile
    family = children(process.pid)
    process.kill()
    process.wait(deadline_seconds)
    for child in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + deadline_seconds
    while any(is_alive(child) for child in family):
        if time.monotonic() > deadline:
            raise SandboxUnavailable(f"processes {family} do not end")
        time.sleep(0.005)
