"""
Work that goes on beside the pipeline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["meanwhile"]

log = logging.getLogger("tailrace.run")


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run ``work`` as a task until the context is left. If it fails, the log says so at once, and
    the body goes on: a mirror without its report is worth more than none.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(
            "work beside the pipeline has failed, the pipeline goes on without it", exc_info=error
        )
