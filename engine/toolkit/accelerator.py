"""
The switch for the accelerators, the optional C codecs.

An accelerator only saves time: the generated Python codec gives the same result. It is missing if
the package was installed without a C compiler or without Python's headers.
``TAILRACE_ACCELERATOR=off`` in the environment disables all accelerators.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["ALLOWED", "python_only", "wanted"]

#: False if the environment disables the accelerators.
ALLOWED = "off" not in (
    os.environ.get("TAILRACE_ACCELERATOR"),
    os.environ.get("TAILRACE_KERNEL"),  # the name in version 0.1.0
)

_wanted = ContextVar("wanted", default=True)


def wanted() -> bool:
    """Whether a codec that is made now uses its accelerator, if there is one."""
    return _wanted.get()


@contextmanager
def python_only() -> Iterator[None]:
    """Make codecs without accelerators inside the ``with`` block, for tests and benchmarks."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)
