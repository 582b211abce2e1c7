"""Give commands to a pipeline, as ``tailrace backfill`` and others do."""

from __future__ import annotations

import asyncio

import msgspec

from engine.commands import CommandStore, PipelineCommand

__all__ = ["submit", "submit_now"]


async def submit_now(sink: CommandStore, command: PipelineCommand | str) -> int:
    """Store a command, or its text, and return its number."""
    text = command if isinstance(command, str) else msgspec.json.encode(command).decode()
    async with sink.command_client() as client:
        return await client.submit(text, "ann")


def submit(sink: CommandStore, command: PipelineCommand | str) -> int:
    """The same, in a new event loop."""
    return asyncio.run(submit_now(sink, command))
