"""
Measured processes: their wall time, processor time and peak memory.

A program runs in a process of its own, as users run it. Its processor time comes from ``wait4``
and includes the children that it has waited for. A server's processor time is read from ``/proc``
for the server and its children.

Peak memory is polled from ``/proc`` while the process runs. ``ru_maxrss`` of ``wait4`` cannot be
used: it starts at the size of the process that forked.
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

__all__ = ["MeasuredProcess", "Usage", "cpu_seconds", "measure"]

DEADLINE_SECONDS = 1800.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
CPU_READINGS = 5
TAIL_CHARACTERS = 2000
TICKS = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """What a process used from its start to its end, with the children that it has waited for.

    ``peak_memory_mb`` is the largest resident size, that of living descendants added.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory_mb: float


class MeasuredProcess:
    """A running process; its output goes to ``log``.

    Where ``setpriv`` is installed the process is killed when this one ends.
    """

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self._log = log
        self._peak_bytes = 0
        self._name = Path(command[0]).name
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with log.open("wb") as output:
            self._started = time.perf_counter()
            self._process = subprocess.Popen(
                [*tied, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the process has not ended. A process that has ended stays to be waited for."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is None

    def stop(self) -> Usage:
        """Send SIGTERM and wait for the end."""
        self._poll()
        os.kill(self._process.pid, signal.SIGTERM)
        return self.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has been waited for."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def kill_group(self) -> Usage:
        """Send SIGKILL to the process and its children; their usage until now."""
        self._poll()
        wall = time.perf_counter() - self._started
        used = cpu_seconds(self._process.pid) or 0.0
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        return Usage(wall, used, self._peak_bytes / 1e6)

    def wait(self, deadline_seconds: float = DEADLINE_SECONDS) -> Usage:
        """Wait for the end.

        The process is killed at the deadline. Raises TailraceError, with the end of its output as
        the hint, if its exit status is not 0.
        """
        self._watch(time.monotonic() + deadline_seconds)
        _, status, used = os.wait4(self._process.pid, 0)
        wall = time.perf_counter() - self._started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise TailraceError(
                f"{self._name} ended with status {self._process.returncode}",
                hint=self.output_tail(),
            )
        return Usage(wall, used.ru_utime + used.ru_stime, self._peak_bytes / 1e6)

    def _watch(self, deadline: float) -> None:
        """Poll its memory until it has ended; kill it at the deadline."""
        handle = os.pidfd_open(self._process.pid)
        try:
            self._poll()
            while not select.select([handle], [], [], POLL_SECONDS)[0]:
                self._poll()
                if time.monotonic() > deadline:
                    self._process.kill()
        finally:
            os.close(handle)

    def _poll(self) -> None:
        self._peak_bytes = max(self._peak_bytes, _peak_bytes(self._process.pid))

    def output_tail(self) -> str:
        """The end of the process's output."""
        return self._log.read_text(errors="replace")[-TAIL_CHARACTERS:]


def measure(command: Sequence[str | Path], log: Path) -> Usage:
    """Run a program to its end, with its output in ``log``. Raises TailraceError if it fails."""
    return MeasuredProcess(command, log).wait()


def cpu_seconds(process_id: int | None) -> float | None:
    """The processor time of a server so far, its living and ended children included.

    None if ``process_id`` is None. A child that is just ending counts for a moment neither as
    living nor as ended, so this is the maximum of several readings.
    """
    if process_id is None:
        return None
    used = 0.0
    for _ in range(CPU_READINGS):
        used = max(used, _cpu_seconds(process_id))
        time.sleep(POLL_SECONDS)
    return used


def _cpu_seconds(process_id: int) -> float:
    first = _ticks(process_id)
    used = sum(first) + sum(sum(_ticks(child)[:2]) for child in children(process_id))
    return used / TICKS


def _ticks(process_id: int) -> tuple[int, int, int, int]:
    """utime, stime, cutime, cstime of ``/proc/PID/stat`` (proc(5)); zeros if the process ended."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    return int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14])


def _peak_bytes(process_id: int) -> int:
    """The peak resident size of a process since its program was loaded, and of its descendants.

    See ``VmHWM`` and ``children`` in proc(5). 0 if the process has ended.
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


def difference(before: float | None, read: Callable[[], float | None]) -> float | None:
    """What was used since an earlier reading; None if one of both is unknown."""
    now = read()
    return None if before is None or now is None else now - before
