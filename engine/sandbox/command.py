"""
Run other programs with a deadline.

A program that is missing, fails or takes too long raises ``SandboxUnavailable``, with the end of
its output.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import TailraceError

TAIL_CHARACTERS = 2000


class SandboxUnavailable(TailraceError):
    """A server cannot be started on this machine. The message says why."""


def run(
    command: Sequence[str | Path],
    *,
    purpose: str,
    deadline_seconds: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its standard output. ``purpose`` starts the message of an error.

    Raises ``SandboxUnavailable`` if the program is missing, fails, or runs longer than
    ``deadline_seconds``, in which case it is killed.
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
            f"{purpose}: {Path(command[0]).name} ended with status {done.returncode}: "
            + one_line(said[-TAIL_CHARACTERS:])
        )
    return done.stdout.decode(errors="replace")


def one_line(said: str) -> str:
    """The lines of a program's output as one."""
    return " | ".join(said.splitlines())
