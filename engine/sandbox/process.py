"""
Start server processes that end with this process, under an account that the servers accept.

``setpriv`` sets Linux's parent-death signal, so a server ends even if this process is killed with
SIGKILL. Linux sends the signal when the thread that forked the server ends (prctl(2),
PR_SET_PDEATHSIG). So one thread, which lives as long as the process, starts all servers.
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
# Below Linux's range for outgoing connections, so that a port stays free while its server is down.
FIRST_PORT, LAST_PORT = 20000, 32000

Process: TypeAlias = "subprocess.Popen[bytes]"


def spawn(command: Sequence[str], *, reads: Path, log: Path) -> Process:
    """Start a server, which ends with this process. Its output is appended to ``log``.

    ``reads`` is the folder with its programs, which the server's account must be able to read.
    """
    words = [*as_server_account(reads), *command]
    future: Future[Process] = Future()
    _spawner(os.getpid()).put((functools.partial(_popen, words, log), future))
    return future.result()


def _popen(words: list[str], log: Path) -> Process:
    with log.open("ab") as output:
        # In a session of its own the server gets no Ctrl-C.
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
    """The queue of the thread that starts servers. A fork needs a new one: it has no threads."""
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
    """The start of a command that ends with this process, and does not run as root.

    All three servers refuse to run as root.
    """
    words = ["setpriv", "--pdeathsig", "KILL"]
    if shutil.which("setpriv") is None:
        raise SandboxUnavailable("setpriv is missing", hint="install the package util-linux")
    if os.geteuid() != 0:
        return words
    account = pwd.getpwnam(SERVER_ACCOUNT)
    words += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    if not _open_to_all(reads):
        # The cache is often below /root, which other accounts may not enter. The capability
        # CAP_DAC_OVERRIDE lets the server enter it. access(2) honors the capability only with
        # SECBIT_NO_SETUID_FIXUP (capabilities(7)).
        words += ["--securebits", "+no_setuid_fixup"]
        words += ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return words


def _open_to_all(folder: Path) -> bool:
    return all(
        path.stat().st_mode & stat.S_IXOTH for path in (folder.resolve(), *folder.resolve().parents)
    )


def give_to_server_account(folder: Path) -> None:
    """Make the server's account the owner of a folder and its contents.

    Only root has to: without root the server runs under the account of this process.
    """
    if os.geteuid() != 0:
        return
    account = pwd.getpwnam(SERVER_ACCOUNT)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def reserve_port() -> tuple[int, socket.socket]:
    """A free loopback port, which no other sandbox uses until the returned socket is closed.

    The reservation is a name in Linux's abstract socket namespace. It holds while the server is
    down, and ends with this process at the latest.
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
    """Whether a process exists and is not a zombie."""
    _, state = _parent_and_state(Path(f"/proc/{process_id}/stat"))
    return state not in ("", "Z", "X")


def _parent_and_state(path: Path) -> tuple[int, str]:
    """From a file ``/proc/PID/stat`` (proc(5)). If the process is gone, 0 and an empty text."""
    try:
        # The second field is the program's name in parentheses, which may contain any character.
        state, parent = path.read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0, ""
    return int(parent), state


def kill_family(process: Process, deadline_seconds: float) -> None:
    """Kill a server and its children with SIGKILL, and wait until all are gone.

    PostgreSQL does not start on a data directory that a child of the killed server still uses.
    """
    process.send_signal(signal.SIGSTOP)  # so that it starts no new children
    family = children(process.pid)
    process.kill()
    process.wait(deadline_seconds)
    for child in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + deadline_seconds
    while any(is_alive(child) for child in family):
        if time.monotonic() > deadline:
            raise SandboxUnavailable(f"the processes {family} did not end after SIGKILL")
        time.sleep(0.005)
