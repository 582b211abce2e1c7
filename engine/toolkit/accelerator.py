"""
Whether codecs use their compiled kernels: one switch for all of them.

The idea: a kernel only saves time, so it may always be missing. It is where the package was
installed without a C compiler, and ``TAILRACE_ACCELERATOR=off`` in the environment keeps all of
them out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["ALLOWED", "python_only", "wanted"]

#: Whether the environment lets kernels be used where they are built.
ALLOWED = os.environ.get("TAILRACE_ACCELERATOR") != "off"

_wanted = ContextVar("wanted", default=True)


def wanted() -> bool:
    """Whether a codec that is made now is to use its kernel, if that is available."""
    return _wanted.get()


@contextmanager
def python_only() -> Iterator[None]:
    """Codecs that are made inside do without their kernels: for tests and measurements."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)
