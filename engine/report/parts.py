"""
What contents of reports have in common.

A content has texts, whole numbers, truth values and None, and no fractions, so that it has one form
as bytes (``engine.report.seal``). Times are UTC as RFC 3339 writes them.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

__all__ = ["Server", "milliseconds", "moment"]


class Server(msgspec.Struct, frozen=True):
    """A side: its software with its version, and its address without a user or a password."""

    software: str
    address: str = ""


def moment(seconds: float) -> str:
    """A time in Unix seconds as text."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(seconds: float) -> int:
    """A duration."""
    return round(1000 * seconds)
