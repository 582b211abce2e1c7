"""
``tailrace check DIRECTORY``: what stands in the way of ``tailrace run DIRECTORY``.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from engine.cli.address import check_address
from engine.cli.checked import Checked
from engine.cli.directory import supervisor_status
from engine.cli.output import print_json, print_tables
from engine.cli.supervise import read_directory
from engine.contract import Finding
from engine.errors import TailraceError
from engine.ops.log import printable
from engine.ops.supervisor.processes import Found, without_namesakes
from engine.settings.api import ApiSettings
from engine.settings.loader import Settings
from engine.settings.supervisor import FILE, load_supervisor

__all__ = ["check_directory"]

#: How many pipelines are checked at a time.
AT_A_TIME = 8

CheckOne: TypeAlias = Callable[[Settings, Path], Awaitable[Checked]]


class CheckedFile(msgspec.Struct, frozen=True):
    """The findings about a configuration of the directory, or about the supervisor's own."""

    file: str
    pipeline: str | None
    findings: Sequence[Finding]


def check_directory(directory: Path, check_one: CheckOne, *, as_json: bool) -> int:
    """Inspect all pipelines of a directory, and print the findings. Returns the exit status."""
    checked, exit_status = asyncio.run(_check(directory, check_one))
    if as_json:
        print_json(checked)
        return exit_status
    from rich.text import Text

    from engine.cli.tables import findings_table

    for it in checked:
        print_tables(Text(printable(it.file), style="bold underline"))
        print_tables(findings_table(it.findings))
    return exit_status


async def _check(directory: Path, check_one: CheckOne) -> tuple[list[CheckedFile], int]:
    own = load_supervisor(directory)
    files = without_namesakes(read_directory(directory))
    slots = asyncio.Semaphore(AT_A_TIME)

    async def check(found: Found) -> Checked:
        if not isinstance(found.settings, Settings):
            assert found.problem is not None
            error = found.problem
            problem = Finding("error", "configuration", error.message, error.hint, "CK010")
            return Checked([problem], error.exit_status, runs=False)
        # The supervisor serves the API of each.
        settings = msgspec.structs.replace(found.settings, api=ApiSettings())
        async with slots:
            return await check_one(settings, found.file)

    results = await asyncio.gather(*map(check, files))
    api = msgspec.structs.replace(own.api, listen=own.listen)
    used = any(it.runs for it in results) or await _is_served(directory)
    address, status = await check_address(api, used=used)
    checked = [
        CheckedFile(str(file.file), file.name, it.findings)
        for file, it in zip(files, results, strict=True)
    ]
    checked.append(CheckedFile(str(directory / FILE), None, address))
    return checked, max(status, *(it.exit_status for it in results))


async def _is_served(directory: Path) -> bool:
    """Whether the supervisor of the directory runs, perhaps without engines."""
    with suppress(TailraceError):
        await supervisor_status(directory, argparse.Namespace(token_file=None, tls_ca=None))
        return True
    return False
