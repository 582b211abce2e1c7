"""
The cache folder, with unpacked packages and data directories that all processes share.

An entry is made in a temporary folder, under a lock, and renamed when it is complete. So an entry
that exists is complete, even after a crash.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.sandbox.command import SandboxUnavailable

LOCK_DEADLINE_SECONDS = 1200
LOCK_POLL_SECONDS = 0.1


def cache_folder() -> Path:
    """``$TAILRACE_CACHE``, or ``~/.cache/tailrace``. It is created if it does not exist."""
    chosen = os.environ.get("TAILRACE_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "tailrace"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot create the cache folder {folder}: {error}",
            hint="set TAILRACE_CACHE to a folder that you may write",
        ) from error
    return folder.resolve()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock ``name``, which all processes with this cache folder share."""
    locks = cache_folder() / "locks"
    locks.mkdir(exist_ok=True)
    deadline = time.monotonic() + LOCK_DEADLINE_SECONDS
    with (locks / name).open("w") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise SandboxUnavailable(
                    f"another process has held the lock {file.name} for more than"
                    f" {LOCK_DEADLINE_SECONDS} seconds"
                )
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def entry(path: Path, lock: str, make: Callable[[Path], None]) -> Path:
    """The cache entry at ``path``. If it does not exist, ``make`` fills a temporary folder, which
    becomes the entry.
    """
    if path.exists():
        return path
    with locked(lock):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            temporary.chmod(0o755)
            try:
                make(temporary)
                temporary.rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return path
