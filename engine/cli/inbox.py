"""
Commands that are stored in the target for the engine: how they are given, listed and cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import shlex
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from engine.cli.api_address import address_of
from engine.cli.command import Command, seconds
from engine.cli.output import print_json, print_tables
from engine.cli.wiring import load_settings, make_sink
from engine.commands import (
    CommandClient,
    CommandStore,
    PipelineCommand,
    Stop,
    StoredCommand,
    in_words,
)
from engine.contract import Sink
from engine.errors import ApiError, ConfigError
from engine.ops.log import printable
from engine.remedies import rendered

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COMMANDS", "add_deadline", "awaited", "give", "outcome_of", "target_of", "user"]

#: How often the target is asked for the outcome of a command.
POLL_SECONDS = 0.2
#: How long an engine may take from the start of its process until it is connected.
START_SECONDS = 3.0
#: An engine that is not connected for so long is gone.
GONE_SECONDS = 5.0
#: The number of commands that are listed, besides those that wait.
LISTED_COMMANDS = 20


def commands(options: argparse.Namespace) -> int:
    """The commands that were given to a pipeline, such as backfill or skip.

    list: those that wait, and the newest others, with who gave them, when, and what became of them.
    cancel NUMBER: have the engine pass over a command that waits. Exit status 1: it does not wait.
    """
    if (options.action == "cancel") != (options.number is not None):
        raise ConfigError(
            "cancel takes the number of a command, and list takes none",
            hint="`tailrace commands CONFIG list` shows the numbers",
        )
    return asyncio.run(_commands(target_of(options), options))


async def _commands(sink: Sink | None, options: argparse.Namespace) -> int:
    async with _client(sink, options) as client:
        if options.action == "cancel":
            return await _cancel(client, options.number)
        found = await client.newest(LISTED_COMMANDS)
    if options.json:
        print_json(found)
    elif not found:
        print("no command was given to this pipeline")
    else:
        print_tables(_table(found, "" if options.api else str(options.config)))
    return 0


async def _cancel(client: CommandClient, number: int) -> int:
    if await client.cancel(number, f"cancelled by {user()}"):
        print(f"command {number} is cancelled")
        return 0
    done = await client.find(number)
    print(f"there is no command {number}" if done is None else f"it was concluded: {done.outcome}")
    return 1


def _table(commands: list[StoredCommand], config: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("number", justify="right")
    for name in ("given", "by", "command", "outcome"):
        table.add_column(name, overflow="fold")
    for it in commands:
        outcome = rendered(it.outcome or "waits", config=config)
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


COMMANDS = Command(
    "commands", "the commands that were given", commands, _add_options, takes_api=True
)


def target_of(options: argparse.Namespace) -> Sink | None:
    """The sink of the configuration; None if the command goes through the API instead."""
    return None if options.api else make_sink(load_settings(options.config))


@asynccontextmanager
async def _client(sink: Sink | None, options: argparse.Namespace) -> AsyncIterator[CommandClient]:
    """Commands through the target, or through the API where there is no ``sink``."""
    if sink is not None:
        async with store_of(sink).command_client() as client:
            yield client
    else:
        from engine.cli.api_client import connect

        async with connect(address_of(options.api, options), user()) as api:
            yield api


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
        type=seconds,
        default=60.0,
        metavar="N",
        help="how long to wait for a running engine (default 60)",
    )


async def give(sink: Sink | None, command: PipelineCommand, options: argparse.Namespace) -> int:
    """Store a command in the target, or through the API where there is no ``sink``. Wait for its
    outcome if an engine runs, and print it. Returns the exit status.
    """
    async with _client(sink, options) as client:
        runs = await client.engine_runs()
        if not runs and isinstance(command, Stop):
            runs = await _starts(client)
            if not runs:
                print("no engine is connected to the target, so there is none to stop")
                return 1
        id = await client.submit(msgspec.json.encode(command).decode(), user())
        cancel = _line(f"tailrace commands CONFIG cancel {id}", options)
        done = await awaited(client, id, options.deadline_seconds, cancel) if runs else None
        runs = done is None and await client.engine_runs()
    if done is not None:
        print(f"refused: {done.outcome}" if done.refused else done.outcome)
        return int(done.refused)
    if runs:
        print(
            "the engine has not executed the command yet; it stays stored until then, or until"
            f" {cancel}"
        )
        return 1
    if sink is None:
        return _unanswered(command, id, options)
    run = rendered("`tailrace run CONFIG`", config=str(options.config))
    print(
        "the command is stored, because no engine is connected to the target: an engine executes it"
        f" when it connects; if none runs, type {run}"
    )
    return 0


async def _starts(client: CommandClient) -> bool:
    """Whether an engine connects within a few seconds, as one that was just started does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        if await client.engine_runs():
            await asyncio.sleep(POLL_SECONDS)  # until it has seen which commands are older
            return True
    return False


def _unanswered(command: PipelineCommand, id: int, options: argparse.Namespace) -> int:
    """The API took a command, and the engine does not answer any more. Returns the exit status."""
    if isinstance(command, Stop):
        print("the engine has ended: it does not answer any more")
        return 0
    shows = _line("tailrace commands CONFIG", options)
    print(
        f"the engine does not answer any more. Command {id} stays stored until it runs again;"
        f" {shows} then shows the outcome"
    )
    return 1


def _line(words: str, options: argparse.Namespace) -> str:
    """A command line for the same pipeline, in backquotes."""
    if options.api:
        return f"`{words.replace('CONFIG', f'--api {shlex.quote(options.api)}')}`"
    return rendered(f"`{words}`", config=str(options.config))


def user() -> str:
    """The user and the host, for the record of the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def awaited(
    client: CommandClient, id: int, seconds: float, cancel: str
) -> StoredCommand | None:
    """As ``outcome_of``. Ctrl-C ends that alone, so it says what becomes of the command, and which
    command line cancels it.
    """
    try:
        return await outcome_of(client, id, seconds)
    except asyncio.CancelledError:
        print(f"the command stays stored, and an engine executes it unless {cancel} comes before")
        raise


async def outcome_of(client: CommandClient, id: int, seconds: float) -> StoredCommand | None:
    """The command when it is concluded; None after the deadline, or if the engine is gone. An
    engine that executes a command connects to the target anew, and for a while the API may have no
    answer.
    """
    deadline = time.monotonic() + seconds
    seen = time.monotonic()
    while time.monotonic() < min(deadline, seen + GONE_SECONDS):
        with suppress(ApiError):
            done = await client.find(id)
            if done is not None and done.outcome is not None:
                return done
            if await client.engine_runs():
                seen = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
    return None
