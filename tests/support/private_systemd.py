"""
A systemd of its own for a test: process 1 of new namespaces, on a copy of the root file system.

The copy is an overlay whose changes are kept in memory, so nothing of the machine is changed. The
network is the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.support.waiting import wait_until

__all__ = ["PrivateSystemd", "missing"]

_SYSTEMD: Final = Path("/lib/systemd/systemd")
_CHECKOUT: Final = Path(__file__).parents[2]

#: $1: an empty folder. $2, $3, …: folders of the machine, each with its place in the copy.
#: No unit of the machine is started but the journal: sysctl, udev and others would change the
#: kernel's state for all. systemd passes credentials on by shared mounts.
_SCRIPT: Final = """
set -eu
mount --make-rprivate /
base=$1; shift
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
while [ $# -gt 0 ]; do
  mkdir -p "$base/root$2"; mount --bind "$1" "$base/root$2"; shift 2
done
cd "$base/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
mount --rbind /sys/fs/cgroup sys/fs/cgroup
rm -rf etc/systemd/system; mkdir -p etc/systemd/system old
find lib/systemd/system/*.wants -mindepth 1 ! -name 'systemd-journald*' -delete
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --system --unit=basic.target --log-target=null
"""


def missing() -> str:
    """Why there can be no private systemd here; the empty string if there can be one."""
    if os.geteuid():
        return "a private systemd needs root"
    if not _SYSTEMD.exists():
        return f"there is no {_SYSTEMD}"
    return "" if shutil.which("unshare") and shutil.which("nsenter") else "there is no util-linux"


class PrivateSystemd:
    """A running systemd, with this Python at ``/opt/python``, its packages at ``/opt/packages``
    and this checkout at ``/opt/checkout``. ``folder`` is an empty folder of the machine.
    """

    def __init__(self, folder: Path) -> None:
        places = {
            sys.base_prefix: "/opt/python",
            sysconfig.get_path("purelib"): "/opt/packages",
            str(_CHECKOUT): "/opt/checkout",
        }
        words = [word for place in places.items() for word in place]
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        self._outer = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"),
                *("sh", "-c", _SCRIPT, "sh", str(folder), *words),
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> PrivateSystemd:
        self._pid = wait_until(self._first_process, what="systemd runs")
        wait_until(
            lambda: self.run("systemctl", "is-system-running").strip() in ("running", "degraded"),
            timeout=60,
            what="systemd has started",
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._outer.kill()  # --kill-child: its systemd is killed, and with it all its processes
        self._outer.wait()
        self._log.close()

    def path(self, path: str) -> Path:
        """Where a test finds a path of the copy."""
        return Path(f"/proc/{self._pid}/root{path}")

    def run(self, *command: str) -> str:
        """Run a command in there, and return its output, whatever its exit status."""
        enter = ("nsenter", "-t", str(self._pid), "--mount", "--pid", "--uts", "--ipc", "--root")
        done = subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout + done.stderr

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as systemctl shows it."""
        return self.run("systemctl", "show", "-p", name, "--value", unit).strip()

    def _first_process(self) -> int:
        """The process id of systemd on the machine, or 0 while the root is made."""
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        assert self._outer.poll() is None, "the namespaces could not be made"
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(bytes(_SYSTEMD)):
                return int(pid)
        return 0
