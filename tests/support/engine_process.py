"""
``tailrace run`` as a process, so that a test can kill it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.waiting import wait_until

__all__ = ["EngineProcess", "write_config"]


def write_config(
    folder: Path, source: str, target: str, tables: str, *, name: str = "mirror", more: str = ""
) -> Path:
    """Write a configuration file for these URLs, with ``more`` at its end."""
    path = folder / f"{name}.toml"
    path.write_text(
        f'[pipeline]\nname = "{name}"\n[source]\nurl = "{source}"\ntables = ["{tables}"]\n'
        f'[sink]\nurl = "{target}"\n{more}'
    )
    return path


class EngineProcess:
    """A running engine. It logs to a file next to the configuration. ``environment`` has more
    variables of its environment. ``port`` is that of its API; 0: any that is free.
    """

    def __init__(
        self,
        config: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        with socket.create_server(("127.0.0.1", port)) as probe:
            self.port = probe.getsockname()[1]
        self.log = config.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "engine.cli", "run", str(config)),
                    *("--log-format", "json", "--listen", f"127.0.0.1:{self.port}"),
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )

    def status(self) -> dict[str, Any] | None:
        """The response of /status, or None while there is none."""
        url = f"http://127.0.0.1:{self.port}/status"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                status: dict[str, Any] = json.load(answer)
                return status
        except (OSError, urllib.error.URLError):
            return None

    def wait_status(self, condition: Any, timeout: float = 60, what: str = "") -> dict[str, Any]:
        """Wait until /status fulfils ``condition``. Fails if the process ends before that."""
        last: dict[str, Any] = {}

        def fulfilled() -> bool:
            assert self.process.poll() is None, f"the engine ended: {self.tail()}"
            last.clear()
            last.update(self.status() or {})
            return bool(last) and bool(condition(last))

        wait_until(fulfilled, timeout=timeout, what=what or "the status")
        return last

    def wait_live(self, timeout: float = 60) -> None:
        """Wait until there are tables, and all of them are live."""
        self.wait_status(
            lambda it: {table["state"] for table in it["tables"]} == {"live"},
            timeout,
            what="live tables",
        )

    def wait(self, timeout: float = 60) -> int:
        """Wait until the process ends. Returns its exit status."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self, timeout: float = 30) -> int:
        """Send SIGTERM, which drains and commits. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()
