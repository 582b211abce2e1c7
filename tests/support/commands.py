"""Give commands to a pipeline: by ``tailrace`` in a process, or as it does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from engine.commands import CommandStore, PipelineCommand

__all__ = ["run_tailrace", "submit", "submit_now", "tailrace"]


async def submit_now(sink: CommandStore, command: PipelineCommand | str) -> int:
    """Store a command, or its text, and return its number."""
    text = command if isinstance(command, str) else msgspec.json.encode(command).decode()
    async with sink.command_client() as client:
        return await client.submit(text, "ann")


def submit(sink: CommandStore, command: PipelineCommand | str) -> int:
    """The same, in a new event loop."""
    return asyncio.run(submit_now(sink, command))


def run_tailrace(
    *words: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end. ``environment`` has more variables of its environment."""
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
    )


def tailrace(status: int, *words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """The same for a command whose exit status must be this one. Returns what it prints."""
    done = run_tailrace(*words, environment=environment)
    assert done.returncode == status, done.stderr or done.stdout
    return done.stdout + done.stderr
