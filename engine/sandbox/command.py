"""
Running other programs for the sandbox, and the error that says a server cannot be had.

The idea: every outside command has a deadline, and whatever goes wrong becomes
one exception that carries the end of the command's own output.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import TailraceError

TAIL_CHARACTERS = 2000


class SandboxUnavailable(TailraceError):
    """A private server cannot be had on this machine; the message says why."""


def run(
    command: Sequence[str | Path],
    *,
    purpose: str,
    deadline_seconds: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return its standard output.

    Raises `SandboxUnavailable`, naming the purpose, if the program is missing,
    fails, or has not ended after `deadline_seconds` (it is then killed).
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            input=stdin,
            capture_output=True,
            timeout=deadline_seconds,
            env=environment,
            check=False,
        )
    except OSError as error:
        raise SandboxUnavailable(f"{purpose}: cannot run {command[0]}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable(
            f"{purpose}: not finished after {deadline_seconds:.0f} seconds"
        ) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise SandboxUnavailable(
            f"{purpose}: {Path(command[0]).name} ended with status {done.returncode}\n"
            f"{said[-TAIL_CHARACTERS:]}"
        )
    return done.stdout.decode(errors="replace")
