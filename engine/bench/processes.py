"""
Programs that are measured: how long they take, the processor time they use, the memory at most.

The idea: a program is a process of its own, as people run it, and the kernel keeps the account of
it. That of a server is what its whole family of processes has used so far.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from engine.errors import TailraceError
from engine.sandbox.process import children

__all__ = ["Started", "Usage", "cpu_seconds", "measure"]

DEADLINE_SECONDS = 1800.0
STOP_SECONDS = 60.0
TAIL_CHARACTERS = 2000
TICKS = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """What a process took from its start to its end."""

    wall_seconds: float
    cpu_seconds: float
    peak_memory_mb: float


class Started:
    """A process that runs; it ends with ours at the latest. Its output goes to ``log``."""

    def __init__(self, words: Sequence[str | Path], log: Path) -> None:
        self._log = log
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
        os.kill(self._process.pid, signal.SIGTERM)
        return self.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL, if it has not ended and been waited for."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def wait(self, deadline_seconds: float = DEADLINE_SECONDS) -> Usage:
        """Wait for its end. Raises TailraceError, with its last words, if it fails or hangs."""
        timer = threading.Timer(deadline_seconds, self._process.kill)
        timer.start()
        try:
            _, status, used = os.wait4(self._process.pid, 0)
        finally:
            timer.cancel()
        wall = time.perf_counter() - self._started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise TailraceError(
                f"{self._name} ended with status {self._process.returncode}", hint=self.last_words()
            )
        return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)

    def last_words(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-TAIL_CHARACTERS:]


def measure(words: Sequence[str | Path], log: Path) -> Usage:
    """Run a program to its end. Raises TailraceError if it fails."""
    return Started(words, log).wait()


def cpu_seconds(process_id: int | None) -> float | None:
    """What a server has used so far, its children that are gone included; None if unknown."""
    if process_id is None:
        return None
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


def difference(since: float | None, until: Callable[[], float | None]) -> float | None:
    """What was used since a former reading."""
    now = until()
    return None if since is None or now is None else now - since
