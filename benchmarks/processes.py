"""
Programs that are measured: how long they take, the processor time they use, the memory at most.

The idea: a program is a process of its own, as people run it, and the kernel keeps the account of
it. That of a server is what its whole family of processes has used so far. Of memory the kernel's
account is of no use (it begins with that of the process that forked), so it is looked at meanwhile.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from engine.errors import TailraceError
from engine.sandbox.process import children

__all__ = ["Started", "Usage", "cpu_seconds", "measure"]

DEADLINE_SECONDS = 1800.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.02
CPU_LOOKS = 5
TAIL_CHARACTERS = 2000
TICKS = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """What a process took from its start to its end, with the children that it has waited for;
    memory is what was resident at most, with that of its living children added.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory_mb: float


class Started:
    """A process that runs; it ends with ours at the latest. Its output goes to ``log``."""

    def __init__(self, words: Sequence[str | Path], log: Path) -> None:
        self._log = log
        self._peak_bytes = 0
        self._name = Path(words[0]).name
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with log.open("wb") as output:
            self._started = time.perf_counter()
            self._process = subprocess.Popen(
                [*tied, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended. It stays to be waited for."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is None

    def stop(self) -> Usage:
        """SIGTERM, and wait for its end."""
        self._look()
        os.kill(self._process.pid, signal.SIGTERM)
        return self.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL, if it has not ended and been waited for."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def cut_off(self) -> Usage:
        """SIGKILL, its children too; what they have taken until now."""
        self._look()
        wall = time.perf_counter() - self._started
        used = cpu_seconds(self._process.pid) or 0.0
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        return Usage(wall, used, self._peak_bytes / 1e6)

    def wait(self, deadline_seconds: float = DEADLINE_SECONDS) -> Usage:
        """Wait for its end. Raises TailraceError, with its last words, if it fails or hangs."""
        self._watch(time.monotonic() + deadline_seconds)
        _, status, used = os.wait4(self._process.pid, 0)
        wall = time.perf_counter() - self._started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise TailraceError(
                f"{self._name} ended with status {self._process.returncode}", hint=self.last_words()
            )
        return Usage(wall, used.ru_utime + used.ru_stime, self._peak_bytes / 1e6)

    def _watch(self, deadline: float) -> None:
        """Look at its memory until it has ended; kill it at the deadline."""
        handle = os.pidfd_open(self._process.pid)
        try:
            self._look()
            while not select.select([handle], [], [], LOOK_SECONDS)[0]:
                self._look()
                if time.monotonic() > deadline:
                    self._process.kill()
        finally:
            os.close(handle)

    def _look(self) -> None:
        self._peak_bytes = max(self._peak_bytes, _peak_bytes(self._process.pid))

    def last_words(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-TAIL_CHARACTERS:]


def measure(words: Sequence[str | Path], log: Path) -> Usage:
    """Run a program to its end. Raises TailraceError if it fails."""
    return Started(words, log).wait()


def cpu_seconds(process_id: int | None) -> float | None:
    """What a server has used so far, its children that are gone included; None if unknown.

    A child that is ending may be missing from both for a moment, so it is the most of some looks.
    """
    if process_id is None:
        return None
    most = 0.0
    for _ in range(CPU_LOOKS):
        most = max(most, _cpu_seconds(process_id))
        time.sleep(LOOK_SECONDS)
    return most


def _cpu_seconds(process_id: int) -> float:
    first = _ticks(process_id)
    used = sum(first) + sum(sum(_ticks(child)[:2]) for child in children(process_id))
    return used / TICKS


def _ticks(process_id: int) -> tuple[int, int, int, int]:
    """utime, stime, cutime and cstime of ``/proc/PID/stat`` (proc(5)); zeros if it is gone."""
    try:
        words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    return int(words[11]), int(words[12]), int(words[13]), int(words[14])


def _peak_bytes(process_id: int) -> int:
    """What was resident at most since a process began to run its program, and the same of its
    living descendants (``VmHWM`` and ``children`` in proc(5)); 0 if it is gone.
    """
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
        tasks = Path(f"/proc/{process_id}/task").glob("*/children")
        below = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:
        return 0
    _, _, rest = status.partition("VmHWM:")
    own = int(rest.split()[0]) * 1024 if rest else 0
    return own + sum(map(_peak_bytes, below))


def difference(since: float | None, until: Callable[[], float | None]) -> float | None:
    """What was used since a former reading."""
    now = until()
    return None if since is None or now is None else now - since
