"""
The commands that control an engine: ``pause``, ``resume``, ``reload`` and ``stop``.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Literal

from engine.cli.command import Command
from engine.cli.directory import give_supervisor, is_directory
from engine.cli.inbox import add_deadline, give, target_of
from engine.commands import Pause, PipelineCommand, Reload, Resume, Stop

__all__ = ["PAUSE", "RELOAD", "RESUME", "STOP"]


def _gives(
    command: PipelineCommand, description: str, for_all: Literal["reload", "stop"] | None = None
) -> Callable[[argparse.Namespace], int]:
    """The function of a command line that gives ``command`` and does nothing else. ``for_all`` is
    what it means for the supervisor of a directory.
    """

    def run(options: argparse.Namespace) -> int:
        if for_all is not None and is_directory(options):
            return give_supervisor(for_all, options)
        return asyncio.run(give(target_of(options), command, options))

    run.__doc__ = description
    return run


PAUSE = Command(
    "pause",
    "apply nothing until resume",
    _gives(
        Pause(),
        """Commit what is applied, and apply nothing until `tailrace resume`.

        The engine keeps running, and the pause outlasts its restarts. The source keeps writing its
        log meanwhile: resume before it purges the part that the pipeline has not read.
        """,
    ),
    add_deadline,
    takes_api=True,
)
RESUME = Command(
    "resume",
    "go on after pause",
    _gives(Resume(), """Go on at the checkpoint after `tailrace pause`."""),
    add_deadline,
    takes_api=True,
)
RELOAD = Command(
    "reload",
    "read the configuration again",
    _gives(
        Reload(),
        """Have the running engine read its configuration again, and go on by it.

        The engine reads the file that it was started with. A file with a mistake is refused, and
        the engine goes on as before; so it does if the new configuration turns out not to work at
        once, such as with a wrong password, which its log and status tell. [api] and [log] take
        effect at the next start.

        CONFIG may be a directory that `tailrace run` runs: new files are started, engines whose
        files have changed or that have ended are started anew, and those whose files are gone stop.
        A file with a mistake does not stop the engine that was started with it.
        """,
        "reload",
    ),
    add_deadline,
    takes_api=True,
)
STOP = Command(
    "stop",
    "end the running engine",
    _gives(
        Stop(),
        """Have the running engine commit whole transactions and end, as SIGTERM does.

        An engine that was just started is waited for. Exit status 1: no engine runs; a later start
        is not stopped. A supervisor does not start
        the engine again before it is reloaded. CONFIG may be a directory that `tailrace run` runs:
        all its engines end, and then the supervisor.
        """,
        "stop",
    ),
    add_deadline,
    takes_api=True,
)
