"""
Processes whose clock differs from the machine's, by Debian's libfaketime.
"""

from __future__ import annotations

import platform

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.debian import Bundle
from tests.support.servers import do_without

__all__ = ["clock_ahead"]


def clock_ahead(seconds: float) -> dict[str, str]:
    """The environment of a process whose clock is ahead of the machine's, or behind it. Skips the
    test, or fails it where CI=true, if the library is not available.

    Durations are measured by the monotonic clock, which stays as it is.
    """
    try:
        suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
        root = Bundle("libfaketime", suite, ("libfaketime",), 15).root()
    except (OSError, KeyError):
        do_without(SandboxUnavailable("this is no Debian, whose libfaketime is needed"))
    except SandboxUnavailable as error:
        do_without(error)
    (library,) = root.glob("usr/lib/*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+g}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
