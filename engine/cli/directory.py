"""
The commands to the supervisor of a directory: ``reload``, ``stop`` and ``status`` of all pipelines.

They go through the API of the supervisor, at the address that ``supervisor.toml`` has.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import msgspec

from engine.cli.api_address import ApiAddress, configured_address
from engine.cli.inbox import user
from engine.cli.output import print_json, print_tables
from engine.ops.log import printable
from engine.ops.supervisor.status import SupervisorStatus
from engine.settings.supervisor import load_supervisor

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "give_supervisor",
    "is_directory",
    "pipelines_of",
    "show_status",
    "supervisor_status",
]


def is_directory(options: argparse.Namespace) -> bool:
    """Whether a command is for the supervisor of a directory."""
    return not options.api and options.config.is_dir()


def give_supervisor(command: Literal["reload", "stop"], options: argparse.Namespace) -> int:
    """Have the supervisor do something, and print the outcome. Returns the exit status."""

    async def give() -> str:
        from engine.cli.api_client import connect

        async with connect(_address(options.config, options), user()) as client:
            return await client.give_supervisor(command)

    print(printable(asyncio.run(give())))
    return 0


def show_status(options: argparse.Namespace) -> int:
    """Print the state of all pipelines. Returns the exit status: 1 if one does not go on."""
    found = asyncio.run(supervisor_status(options.config, options))
    if options.json:
        print_json(found)
    else:
        print_tables(_table(found))
    return int(any(it.headline.level == "error" for it in found.pipelines))


def pipelines_of(directory: Path, options: argparse.Namespace) -> list[tuple[str, str, ApiAddress]]:
    """The name, the configuration and the API of each pipeline that the supervisor has."""
    address = _address(directory, options)
    found = asyncio.run(supervisor_status(directory, options))
    return [
        (
            it.pipeline,
            it.file,
            address._replace(url=f"{address.url}/pipelines/{quote(it.pipeline, safe='')}"),
        )
        for it in found.pipelines
    ]


def _address(directory: Path, options: argparse.Namespace) -> ApiAddress:
    settings = load_supervisor(directory)
    api = msgspec.structs.replace(settings.api, listen=settings.listen)
    return configured_address(api, options)


async def supervisor_status(directory: Path, options: argparse.Namespace) -> SupervisorStatus:
    """What the supervisor of a directory says of its pipelines. Raises ApiError without one."""
    from engine.cli.api_client import connect

    async with connect(_address(directory, options), user()) as client:
        return await client.supervisor_status()


def _table(found: SupervisorStatus) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("pipeline", "file", "process", "state"):
        table.add_column(name, overflow="fold")
    for it in found.pipelines:
        said = f"{it.headline.text} {it.headline.remedy}".strip()
        cells = (it.pipeline, Path(it.file).name, it.process, said)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
