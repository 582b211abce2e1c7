"""
Commands that are stored in the target for the engine: how they are given, listed and cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import socket
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from engine.cli.command import Command
from engine.cli.wiring import load_settings, make_sink
from engine.commands import CommandClient, CommandStore, PipelineCommand, StoredCommand, in_words
from engine.contract import Sink
from engine.errors import ConfigError
from engine.ops.log import printable
from engine.remedies import rendered

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COMMANDS", "add_deadline", "give"]

#: How often the target is asked for the outcome of a command.
POLL_SECONDS = 0.2
#: An engine that is not connected for so long is gone.
GONE_SECONDS = 5.0
#: The number of commands that are listed, besides those that wait.
LISTED_COMMANDS = 20


def commands(options: argparse.Namespace) -> int:
    """The commands that were given to a pipeline, such as backfill or skip.

    list: those that wait, and the newest others, with who gave them, when, and what became of them.
    cancel NUMBER: have the engine pass over a command that waits. Exit status 1: it does not wait.
    """
    settings = load_settings(options.config)
    if (options.action == "cancel") != (options.number is not None):
        raise ConfigError(
            "cancel takes the number of a command, and list takes none",
            hint="`tailrace commands CONFIG list` shows the numbers",
        )
    return asyncio.run(_commands(store_of(make_sink(settings)), options))


async def _commands(store: CommandStore, options: argparse.Namespace) -> int:
    async with store.command_client() as client:
        if options.action == "cancel":
            return await _cancel(client, options.number)
        found = await client.newest(LISTED_COMMANDS)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    elif not found:
        print("no command was given to this pipeline")
    else:
        from rich.console import Console

        Console().print(_table(found))
    return 0


async def _cancel(client: CommandClient, number: int) -> int:
    if await client.cancel(number, f"cancelled by {_user()}"):
        print(f"command {number} is cancelled")
        return 0
    done = await client.find(number)
    print(f"there is no command {number}" if done is None else f"it was concluded: {done.outcome}")
    return 1


def _table(commands: list[StoredCommand]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("number", justify="right")
    for name in ("given", "by", "command", "outcome"):
        table.add_column(name, overflow="fold")
    for it in commands:
        outcome = "waits" if it.outcome is None else it.outcome
        table.add_row(
            str(it.id),
            f"{datetime.fromtimestamp(it.at, UTC):%Y-%m-%d %H:%M:%S}",
            Text(printable(it.by)),
            Text(printable(in_words(it.command))),
            Text(printable(f"refused: {outcome}" if it.refused else outcome)),
        )
    return table


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "cancel"), nargs="?", default="list")
    parser.add_argument("number", nargs="?", type=int, metavar="NUMBER")
    parser.add_argument("--json", action="store_true", help="print the commands as JSON")


COMMANDS = Command("commands", "the commands that were given", commands, _add_options)


def store_of(sink: Sink) -> CommandStore:
    """The sink, if it keeps commands. Raises ConfigError if it does not."""
    if not isinstance(sink, CommandStore):
        raise ConfigError(
            "this target keeps no commands for a pipeline",
            hint="commands work with PostgreSQL as the target",
        )
    return sink


def add_deadline(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how long ``give`` waits."""
    parser.add_argument(
        "--deadline-seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="how long to wait for a running engine (default 60)",
    )


async def give(sink: Sink, command: PipelineCommand, options: argparse.Namespace) -> int:
    """Store a command, wait for its outcome if an engine runs, and print it. Returns the exit
    status.
    """
    async with store_of(sink).command_client() as client:
        runs = await client.engine_runs()
        id = await client.submit(msgspec.json.encode(command).decode(), _user())
        done = await _outcome(client, id, options.deadline_seconds) if runs else None
        runs = done is None and await client.engine_runs()
    if done is not None:
        print(f"refused: {done.outcome}" if done.refused else done.outcome)
        return int(done.refused)
    if runs:
        cancel = f"`tailrace commands CONFIG cancel {id}`"
        print(
            "the engine has not executed the command yet; it stays stored until then, or until"
            f" {rendered(cancel, config=str(options.config))}"
        )
        return 1
    run = rendered("`tailrace run CONFIG`", config=str(options.config))
    print(f"no engine is connected to the target: {run} executes the command at its start")
    return 0


def _user() -> str:
    """The user and the host, for the record of the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def _outcome(client: CommandClient, id: int, seconds: float) -> StoredCommand | None:
    """The command when it is concluded; None after the deadline, or if the engine is gone. An
    engine that executes a command connects to the target anew.
    """
    deadline = time.monotonic() + seconds
    seen = time.monotonic()
    while time.monotonic() < min(deadline, seen + GONE_SECONDS):
        done = await client.find(id)
        if done is not None and done.outcome is not None:
            return done
        if await client.engine_runs():
            seen = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
    return None
