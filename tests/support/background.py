"""
Functions that run on threads of their own while a test goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

__all__ = ["Background"]

#: How long a function may take to return when it should stop.
STOP_SECONDS = 30.0


class Background:
    """Runs functions while it is entered. Each gets an event, and returns soon after it is set.
    The error of a function is raised when the block ends.
    """

    def __init__(self, *functions: Callable[[threading.Event], object]) -> None:
        self._functions = functions
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(len(functions))

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(it, self._stopping) for it in self._functions]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown(wait=False)
        for function in self._running:
            function.result(STOP_SECONDS)
