"""
The programs and web servers that a cutover calls: one call, with a deadline.

A hook may be called again, because a process that was killed cannot know whether its call has
arrived. A repeated request to a web server has the same id, so that it can be dropped. One that has
to have its effect anew, such as a freeze after the source was restarted, has an id of its own.
"""

from __future__ import annotations

import shutil

import httpx
import msgspec

from engine.errors import TailraceError
from engine.handover import Cutover
from engine.ops.delivery import execute, post
from engine.settings.cutover import CutoverSettings, HookName

__all__ = ["Hooks"]


class Hooks:
    """The hooks of a pipeline's cutover."""

    def __init__(self, settings: CutoverSettings, pipeline: str) -> None:
        self._settings = settings
        self._pipeline = pipeline

    def given(self, name: HookName) -> bool:
        """Whether this hook is configured."""
        return self._settings.hooks[name].given

    def missing(self) -> list[tuple[HookName, str]]:
        """The hooks whose command is no program that can be executed here, with its name."""
        return [
            (name, hook.command[0])
            for name, hook in self._settings.hooks.items()
            if hook.command and shutil.which(hook.command[0]) is None
        ]

    async def call(self, name: HookName, cutover: Cutover, count: int = 1) -> None:
        """Call a hook and wait for its end. A web server has the same id for the same ``count``.
        Raises TailraceError if it fails.
        """
        hook, seconds = self._settings.hooks[name], self._settings.hook_seconds
        about = {"action": name, "cutover": cutover.id, "pipeline": self._pipeline}
        body = msgspec.json.encode({**about, "position": cutover.end}) + b"\n"
        if hook.url:
            async with httpx.AsyncClient(timeout=seconds) as client:
                id = f"{cutover.id}_{name}" + (f"_{count}" if count > 1 else "")
                failure = await post(
                    client, hook.url, id, body, secret=hook.secret, seconds=seconds
                )
        else:
            variables = {
                "TAILRACE_CUTOVER_ACTION": name,
                "TAILRACE_CUTOVER_ID": cutover.id,
                "TAILRACE_CUTOVER_PIPELINE": self._pipeline,
            }
            failure = await execute(hook.command, body, variables, seconds=seconds, shown=True)
        if failure is not None:
            raise TailraceError(
                f"the hook {name} failed: {failure.reason}",
                hint=f"correct {name} in [cutover], or what it calls, and type the command again",
            )
