"""
The commands that end a stop of one table: ``tables`` and ``backfill``.

What changes a pipeline is stored in the target as a command (``engine.pipeline.stored_commands``),
so it works whether or not an engine runs.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import socket
import sys
import time

import msgspec

from engine.checkpoint import Checkpoint
from engine.cli.command import Command
from engine.cli.wiring import load_settings, make_sink
from engine.contract import CommandStore, Sink, StoredCommand
from engine.errors import ConfigError
from engine.ops.status import TableStatuses
from engine.pipeline.stored_commands import BackfillTables, TableCommand, find_tables
from engine.remedies import rendered
from engine.settings.loader import Settings

__all__ = ["BACKFILL", "TABLES"]

#: How often the target is asked for the outcome of a command.
POLL_SECONDS = 0.2
#: An engine that is not connected for so long is gone.
GONE_SECONDS = 5.0


def tables(options: argparse.Namespace) -> int:
    """Show the state of each table, and why a table is quarantined, with what to type.

    Reads the checkpoint in the target. docs/recovery.md says how each stop ends. Exit status 1: the
    pipeline has never run; 3: tables are quarantined.
    """
    settings = load_settings(options.config)
    checkpoint = asyncio.run(_checkpoint(make_sink(settings)))
    found = TableStatuses(str(options.config)).of(checkpoint.progress)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    else:
        from rich.console import Console

        from engine.cli.tables import progress_table

        Console().print(progress_table(found))
    return 3 if any(table.state == "quarantined" for table in found) else 0


def _add_tables_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")


TABLES = Command("tables", "the state of each table, and its remedy", tables, _add_tables_options)


async def _checkpoint(sink: Sink) -> Checkpoint:
    """The stored checkpoint. Raises ConfigError if there is none."""
    state = await sink.state()
    if state is None or state.checkpoint is None:
        raise ConfigError(
            "the target holds no checkpoint of this pipeline yet",
            hint="run the pipeline first: `tailrace run CONFIG`",
        )
    return state.checkpoint


def backfill(options: argparse.Namespace) -> int:
    """Read tables again from the source, while the others go on.

    The rows go to a twin, which replaces the table in one transaction when it is complete, so
    readers of the target never see half a table. A quarantined table is followed again.

    A running engine begins within seconds; without one, the next `tailrace run` does. Exit status
    1: the engine refused the command, or it did not answer in time.
    """
    settings = load_settings(options.config)
    return asyncio.run(_backfill(settings, options))


async def _backfill(settings: Settings, options: argparse.Namespace) -> int:
    sink = make_sink(settings)
    progress = (await _checkpoint(sink)).progress
    _, unknown = find_tables(tuple(options.tables), progress)
    if unknown:
        raise ConfigError(
            f"the pipeline does not follow {', '.join(unknown)}",
            hint="`tailrace tables CONFIG` lists the tables that it follows",
        )
    return await _give(sink, BackfillTables(tuple(options.tables)), options)


def _add_backfill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="schema.table on the source")
    _add_deadline(parser)


BACKFILL = Command("backfill", "read tables again", backfill, _add_backfill_options)


def _add_deadline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deadline-seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="how long to wait for a running engine (default 60)",
    )


async def _give(sink: Sink, command: TableCommand, options: argparse.Namespace) -> int:
    """Store a command, and wait for its outcome if an engine runs. Returns the exit status."""
    if not isinstance(sink, CommandStore):
        raise ConfigError(
            "this target keeps no commands for a pipeline",
            hint="commands work with PostgreSQL as the target",
        )
    runs = await sink.engine_runs()
    id = await sink.submit_command(msgspec.json.encode(command).decode(), _user())
    done = await _outcome(sink, id, options.deadline_seconds) if runs else None
    if done is not None:
        print(f"refused: {done.outcome}" if done.refused else done.outcome)
        return int(done.refused)
    run = rendered("`tailrace run CONFIG`", config=str(options.config))
    if await sink.engine_runs():
        print("the engine has not executed the command yet; it stays stored until then")
        return 1
    print(f"no engine is connected to the target: {run} executes the command at its start")
    return 0


def _user() -> str:
    """The user and the host, for the record of the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def _outcome(sink: CommandStore, id: int, seconds: float) -> StoredCommand | None:
    """The command when it is concluded; None after the deadline, or if the engine is gone. An
    engine that executes a command connects to the target anew.
    """
    deadline = time.monotonic() + seconds
    seen = time.monotonic()
    while time.monotonic() < min(deadline, seen + GONE_SECONDS):
        done = await sink.find_command(id)
        if done is not None and done.outcome is not None:
            return done
        if await sink.engine_runs():
            seen = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
    return None
