"""
Free memory that the C library keeps, given back to the system now and then.

glibc gives back what is free at the end of a heap, and keeps the rest for later. So after a large
backlog the process would stay as large as it was then.

https://man7.org/linux/man-pages/man3/malloc_trim.3.html
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

__all__ = ["give_back_memory"]

INTERVAL_SECONDS = 60.0


async def give_back_memory() -> None:
    """Give back free memory once a minute, until cancelled. It takes some milliseconds."""
    trim = _find()
    while trim is not None:
        await asyncio.sleep(INTERVAL_SECONDS)
        await asyncio.to_thread(trim, 0)


def _find() -> Callable[[int], int] | None:
    """The function of glibc; None where the C library is another one."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
