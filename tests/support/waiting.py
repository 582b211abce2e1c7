"""
Waiting for something to become true, in tests.

The idea: a test never sleeps for a guess. It asks often, and fails with words at a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_SECONDS = 0.02


def wait_until(condition: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """Call `condition` until it returns something true, and return that.

    Fails the test after `timeout` seconds, naming `what` was waited for and the last value.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _check(deadline, timeout, what, value)
        time.sleep(INTERVAL_SECONDS)
    return value


async def wait_until_async(condition: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """As `wait_until`, and the event loop goes on meanwhile."""
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
