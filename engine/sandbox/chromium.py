"""
Chromium and its driver from Debian's packages, for the tests of the dashboard.

Chromium starts itself again for its child processes, so it does not run through another loader, as
the servers do. It runs with that of the machine, and takes its libraries from the packages of the
same suite.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.debian import Bundle

__all__ = ["Chromium", "chromium"]


class Chromium(NamedTuple):
    """The paths of the browser and its driver, and the environment in which both run."""

    browser: Path
    driver: Path
    environment: dict[str, str]


def chromium() -> Chromium:
    """The browser. The first call downloads the packages. Raises ``SandboxUnavailable``."""
    try:
        suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    except (OSError, KeyError):
        raise SandboxUnavailable("this is no Debian, whose Chromium is needed") from None
    packages = ("chromium", "chromium-driver", "fonts-dejavu-core")
    root = Bundle("Chromium", suite, packages, 170).root()
    browser, driver = root / "usr/lib/chromium/chromium", root / "usr/bin/chromedriver"
    if not (os.access(browser, os.X_OK) and os.access(driver, os.X_OK)):
        raise SandboxUnavailable(f"{root} has no Chromium", hint=f"remove {root} and try again")
    folders = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("usr/lib/*-linux-gnu*/pulseaudio")]
    libraries = ":".join(map(str, folders))
    return Chromium(browser, driver, os.environ | {"LD_LIBRARY_PATH": libraries})
