"""
Waits for a condition, in tests.

A test never sleeps for a fixed time. It checks the condition often, and fails with a message at the
deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_SECONDS = 0.02


def wait_until(condition: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """Call `condition` until it returns a true value, and return that value.

    Fails the test after `timeout` seconds, with `what` as the name of the condition and with its
    last value.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _check(deadline, timeout, what, value)
        time.sleep(INTERVAL_SECONDS)
    return value


async def wait_until_async(condition: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """Like `wait_until`, without blocking the event loop."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _check(deadline, timeout, what, value)
        await asyncio.sleep(INTERVAL_SECONDS)
    return value


def _check(deadline: float, timeout: float, what: str, value: object) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(
            f"{what or 'the condition'}: not true after {timeout} s, last {value!r}"
        )
