"""
The command ``tailrace run`` as a process that the demonstration starts, watches and kills.

The idea: it is watched from outside, as an operator would, by its ``GET /status``.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from engine.errors import TailraceError
from engine.ops.status import Status

__all__ = ["LOG_HINT", "Mirror"]

LOG_HINT = "With --keep the engine's log is left where it is, until Enter."

STATUS_TIMEOUT_SECONDS = 2.0
STOP_DEADLINE_SECONDS = 60.0
CATCH_UP_DEADLINE_SECONDS = 300.0


class Mirror:
    """One pipeline's engine; a context manager that kills what still runs at its end.

    Its log goes to ``log``. All methods raise ``TailraceError`` with the log's last words if the
    engine has ended by itself.
    """

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start ``tailrace run``."""
        self._port = _free_port()
        self._process = self._spawn("--metrics-listen", f"127.0.0.1:{self._port}")

    def status(self) -> Status | None:
        """Its status, or None while it does not answer (yet)."""
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
        """SIGKILL it: nothing is flushed, finished or said."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_DEADLINE_SECONDS)

    def finish(self) -> None:
        """SIGTERM it: it applies and commits what is whole, then ends."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            self._await(process, STOP_DEADLINE_SECONDS)

    def catch_up(self) -> None:
        """Run it once more until it has applied all that the source holds now."""
        self._process = self._spawn("--until-caught-up")
        self._await(self._process, CATCH_UP_DEADLINE_SECONDS)
        self._process = None

    def _spawn(self, *options: str) -> subprocess.Popen[bytes]:
        words = [
            sys.executable,
            "-m",
            "engine.cli",
            "run",
            str(self._config),
            "--log-format",
            "json",
        ]
        # It shall not outlive us, but Ctrl-C in the terminal is for us and not for it.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*tied, *words, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await(self, process: subprocess.Popen[bytes], deadline_seconds: float) -> None:
        try:
            status = process.wait(deadline_seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise self._failure(f"no end after {deadline_seconds:.0f} seconds") from error
        if status:
            raise self._failure("the engine failed", status)

    def _failure(self, what: str, status: int | None = None) -> TailraceError:
        if status is not None:
            what += f" with status {status}"
        return TailraceError(what, hint=f"{_last_words(self._log)}\n{LOG_HINT}")


def _last_words(log: Path) -> str:
    """The error of a log's last line, or that line."""
    lines = log.read_text(errors="replace").splitlines()
    if not lines:
        return "It said nothing."
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
