"""
``tailrace run`` as a process that the demo starts, watches and kills.

The demo watches it through ``GET /status``, as a monitoring system does.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import msgspec

from engine.errors import TailraceError
from engine.ops.status import Status

__all__ = ["LOG_HINT", "EngineProcess"]

LOG_HINT = "with --keep the engine's log is kept until Enter"

STATUS_TIMEOUT_SECONDS = 2.0
STOP_DEADLINE_SECONDS = 60.0


class EngineProcess:
    """The engine of one pipeline. As a context manager it is killed at the end, if it still runs.

    Its log goes to ``log``. The methods raise ``TailraceError`` with the last error of the log if
    the engine ended by itself.
    """

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start ``tailrace run``."""
        self._port = _free_port()
        self._process = self._spawn("--listen", f"127.0.0.1:{self._port}")

    def status(self) -> Status | None:
        """The engine's status, or None while the engine does not answer."""
        if self._process is not None and self._process.poll() is not None:
            raise self._failure("the engine ended by itself", self._process.returncode)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, STATUS_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/status")
            body = connection.getresponse().read()
            return msgspec.json.decode(body, type=Status)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def kill(self) -> None:
        """Send SIGKILL: the engine neither commits nor closes anything."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_DEADLINE_SECONDS)

    def wait_ended(self) -> None:
        """Wait until the engine has ended by itself, as a cutover has it do."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            status = process.wait(STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise self._failure(
                f"the engine did not end within {STOP_DEADLINE_SECONDS:.0f} seconds"
            ) from error
        if status:
            raise self._failure("the engine failed", status)

    def _spawn(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "engine.cli", "run", str(self._config)]
        # The engine ends with the demo. In a session of its own it gets no Ctrl-C.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*tied, *command, "--log-format", "json", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _failure(self, message: str, status: int | None = None) -> TailraceError:
        if status is not None:
            message += f" with status {status}"
        return TailraceError(message, hint=f"{_last_error(self._log)}. {LOG_HINT}")


def _last_error(log: Path) -> str:
    """The error in the last line of the log, or that line."""
    lines = log.read_text(errors="replace").splitlines()
    if not lines:
        return "the engine's log is empty"
    try:
        record = json.loads(lines[-1])
    except ValueError:
        return lines[-1]
    return str(record.get("error") or lines[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
