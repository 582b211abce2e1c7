"""
Pipelines that have passed every position of the source at once, or never, for comparisons.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.verify.recheck import PipelineWaiter

__all__ = ["at_once", "never", "waiter"]


async def at_once(position: str, deadline: float) -> bool:
    """The target has everything."""
    return True


async def never(position: str, deadline: float) -> bool:
    """The pipeline stands still."""
    return False


def waiter(
    passed: Callable[[str, float], Awaitable[bool]] = at_once, seconds: float = 60.0
) -> PipelineWaiter:
    """Waits for such a pipeline, for as many seconds in all."""
    return PipelineWaiter(lambda: "here", passed, seconds)
